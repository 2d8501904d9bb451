"""Differentially private training (Abadi et al. 2016): what one row can change is bounded.

Every step draws each row on its own with the same probability, clips each row's gradient, and adds
noise to the sum. Opacus (Yousefpour et al. 2021) clips, adds the noise and keeps the account in
Rényi differential privacy (Mironov et al. 2019). Gradients of rows come from `torch.func`, through
the whole model at once, so that tied tables, relative positions and adapters are right as they are.

What is drawn depends on a secret of the run's folder, never on the recipe's seed, which is
published with the model: whoever knew both could take the noise away again. A step that a resumed
training repeats is the same step, and costs nothing more.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from seq2edge.errors import TrainingError
from seq2edge.model.transformer import Transformer
from seq2edge.training.batches import IGNORED, Batch, Rows
from seq2edge.training.recipe import PrivacyRecipe, Recipe
from seq2edge.training.run_folder import Run, read_json, write_json
from seq2edge.training.training_module import TrainingModule, decoder_states, schedule

FILE = "privacy.json"
STATE = "privacy"  # the account's place in a training's checkpoint
ACCOUNTANT = "rdp"
ORDERS = [1 + x / 10 for x in range(1, 100)] + [*range(12, 64), 80, 96, 128, 192, 256, 512, 1024]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mechanism:
    """What a run's steps draw: a row's probability, the noise's deviation over the clip."""

    secret: int
    rate: float
    noise: float

    def generator(self, step: int, purpose: int) -> int:
        """A seed of 63 bits for one step's rows (purpose 0) or noise (1)."""
        sequence = np.random.SeedSequence([self.secret, step, purpose])
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def prepare_privacy(run: Run) -> None:
    """Find the noise that spends the recipe's epsilon over all steps, and draw the run's secret.

    Raises TrainingError for budgets and batches that do not go with the number of rows.
    """
    privacy, rows = run.recipe.privacy, len(run.train)
    if not privacy.epsilon or (run.folder / FILE).is_file():
        return
    if privacy.batch > rows:
        raise TrainingError(f"privacy.batch: {privacy.batch} rows a step, the files hold {rows:,}")
    if privacy.delta * rows >= 1:
        raise TrainingError(
            f"privacy.delta: {privacy.delta:g} allows a row to be given away, "
            f"it must be below 1 / {rows:,} rows"
        )
    rate = privacy.batch / rows
    noise = _noise(privacy, rate, run.recipe.optimizer.steps)
    write_json(run.folder / FILE, {"secret": secrets.randbits(128), "rate": rate, "noise": noise})


def open_mechanism(run: Run) -> Mechanism | None:
    """What `prepare_privacy` wrote, None for a training without privacy."""
    if not run.recipe.privacy.epsilon:
        return None
    try:
        return Mechanism(**read_json(run.folder / FILE))
    except TypeError as error:
        raise TrainingError(f"{run.folder / FILE}: damaged: {error}") from error


def without_clipping(recipe: Recipe) -> Recipe:
    """The recipe as Lightning may see it: no clipping, parts or precision of its own."""
    if not recipe.privacy.epsilon:
        return recipe
    optimizer = dataclasses.replace(recipe.optimizer, accumulate=1, clip=0.0, precision="float32")
    return dataclasses.replace(recipe, optimizer=optimizer)


def private_card(card: dict[str, Any], module: PrivateModule) -> dict[str, Any]:
    """What `training.json` says of a private training: the budget, and no counts of the data."""
    counts = ("tokens", "lines_left_out")
    return {
        **{name: value for name, value in card.items() if name not in counts},
        "privacy": module.spent(),
    }


def spent_epsilon(history: list[tuple[float, float, int]], delta: float) -> float:
    """Epsilon at `delta` of steps (noise, rate, number of them), rounded up."""
    if not history:
        return 0.0
    from opacus.accountants import create_accountant

    accountant = create_accountant(ACCOUNTANT)
    accountant.history = history
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an order at the border: the bound holds, less tightly
        epsilon = accountant.get_epsilon(delta=delta, alphas=ORDERS)
    return math.ceil(float(epsilon) * 1e4) / 1e4


class PrivateModule(TrainingModule):
    """Learns from clipped gradients of rows and noise.

    The loss of a row is the mean over its answers, so that long rows are clipped no more than
    short ones. `parts` of a step's rows are read one after another, to save memory.
    """

    def __init__(self, model: Transformer, recipe: Recipe, mechanism: Mechanism) -> None:
        super().__init__(model, without_clipping(recipe).optimizer, seed=recipe.seed)
        self.automatic_optimization = False
        self.privacy = recipe.privacy
        self.parts = recipe.optimizer.accumulate
        self.mechanism = mechanism
        self.taken = 0  # steps, over all resumes

    def configure_optimizers(self) -> Any:
        """The plain optimizer behind Opacus's clipping and noise."""
        from opacus.optimizers import DPOptimizer

        private = DPOptimizer(
            super().configure_optimizers()["optimizer"],
            noise_multiplier=self.mechanism.noise,
            max_grad_norm=self.privacy.clip,
            expected_batch_size=self.privacy.batch,
            generator=torch.Generator(self.device),
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(private, schedule(self.recipe))
        return {"optimizer": private, "lr_scheduler": {"scheduler": scheduler}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; a step that drew no row adds noise alone."""
        del batch_idx
        optimizer: Any = self.optimizers()
        private = optimizer.optimizer
        rows = len(batch["labels"]) if batch.pop("scale") > 0 else 0
        total = torch.zeros((), device=self.device)
        size = max(1, math.ceil(rows / self.parts))
        for start in range(0, max(rows, 1), size):
            part = {name: value[:rows][start : start + size] for name, value in batch.items()}
            total += self.set_gradients(part)
            if start + size < rows:
                private.clip_and_accumulate()
        private.generator.manual_seed(self.mechanism.generator(self.trainer.global_step, 1))
        optimizer.step()
        optimizer.zero_grad()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.taken += 1
        loss = total / max(rows, 1)
        if rows:
            self.log("loss", loss, prog_bar=True)
        return loss

    def set_gradients(self, rows: Batch) -> Tensor:
        """Give every learning parameter its `grad_sample` (rows, ...); the sum of the losses."""
        learning: dict[str, Any] = {n: p for n, p in self.named_parameters() if p.requires_grad}
        if not len(rows["labels"]):
            for parameter in learning.values():
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
            return torch.zeros((), device=self.device)

        def loss(parameters: dict[str, Tensor], row: Batch) -> Tensor:
            mean: Tensor = functional_call(self, parameters, (row,))
            return mean

        detached = {name: parameter.detach() for name, parameter in learning.items()}
        each = vmap(grad_and_value(loss), in_dims=(None, 0), randomness="different")
        with sdpa_kernel(SDPBackend.MATH):  # the only one that knows vmap
            gradients, losses = each(detached, rows)
        for name, parameter in learning.items():
            parameter.grad_sample = gradients[name]
        total: Tensor = losses.sum()
        return total

    def forward(self, row: Batch) -> Tensor:
        """The mean loss of one row's answers; its tensors have no axis of rows."""
        batch = {name: value[None] for name, value in row.items()}
        labels, model = batch["labels"], self.model
        if model.dims.head == "classifier":
            logits = model.pool(batch["source"], batch["source_length"])
        else:  # of every position: shapes may not depend on what a row holds
            logits = model.logits(decoder_states(model, batch))
        total = F.cross_entropy(
            logits.flatten(0, -2).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.recipe.label_smoothing,
        )
        return total / (labels != IGNORED).sum()

    def spent(self) -> dict[str, Any]:
        """The budget that all steps so far have spent."""
        history = [(self.mechanism.noise, self.mechanism.rate, self.taken)] if self.taken else []
        return {
            "epsilon": spent_epsilon(history, self.privacy.delta),
            "delta": self.privacy.delta,
            "steps": self.taken,
            "noise_multiplier": self.mechanism.noise,
            "sampling_rate": self.mechanism.rate,
            "clip": self.privacy.clip,
            "accountant": ACCOUNTANT,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the account beside the weights."""
        checkpoint[STATE] = {"steps": self.taken}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the account. Raises TrainingError where the checkpoint has none."""
        if STATE not in checkpoint:
            raise TrainingError("the run's checkpoint does not say what was spent, start a new run")
        self.taken = int(checkpoint[STATE]["steps"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonPlan:
    """Draws each of `rows` rows in every step on its own, with the same probability."""

    rows: int
    mechanism: Mechanism

    def steps(self, start: int = 0) -> Iterator[tuple[int, Rows]]:
        """See `StepPlan`; every step is an epoch of its own, and may have no rows."""
        step = start
        while True:
            rng = np.random.default_rng(self.mechanism.generator(step, 0))
            yield step, np.flatnonzero(rng.random(self.rows) < self.mechanism.rate)
            step += 1


def _noise(privacy: PrivacyRecipe, rate: float, steps: int) -> float:
    """The smallest noise over the clip that spends no more than epsilon in all steps."""
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            noise = get_noise_multiplier(
                target_epsilon=privacy.epsilon,
                target_delta=privacy.delta,
                sample_rate=rate,
                steps=steps,
                accountant=ACCOUNTANT,
                epsilon_tolerance=privacy.epsilon / 1000,
                alphas=ORDERS,
            )
        except ValueError as error:
            raise TrainingError(
                f"privacy.epsilon: {privacy.epsilon:g} cannot be met in {steps:,} steps: {error}"
            ) from error
    return float(noise)
