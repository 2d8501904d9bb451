"""The Lightning module: losses, optimizer and schedule of the canonical model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seq2edge.model.layers import Layer
from seq2edge.model.transformer import Stack, Transformer
from seq2edge.training.batches import IGNORED, Batch
from seq2edge.training.recipe import OptimizerRecipe


class TrainingModule(L.LightningModule):
    """Learns from batches of any objective. The loss is a mean over all target tokens of a step.

    Random numbers of a step depend on the seed, the step and the process alone, so that a resumed
    training goes on as if it had never stopped.
    """

    def __init__(self, model: Transformer, optimizer: OptimizerRecipe, *, seed: int) -> None:
        super().__init__()
        self.model = model
        self.recipe = optimizer
        self.seed = seed
        self._sums = torch.zeros(2, dtype=torch.float64)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Draw dropout as this step, part of a step and process must."""
        del batch
        part = batch_idx % self.recipe.accumulate
        place = [self.seed, self.trainer.global_step, part, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """See Lightning."""
        del batch_idx
        loss = self.loss(batch, self.recipe.label_smoothing).sum() * batch["scale"]
        self.log("loss", loss.detach(), sync_dist=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up the loss without smoothing, and the number of targets."""
        del batch_idx
        count = (batch["labels"] != IGNORED).sum() if batch["scale"] > 0 else 0
        total = self.loss(batch, 0.0).sum() if count else 0.0
        self._sums += torch.tensor([float(total), float(count)], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """The mean over all processes."""
        sums = self._sums.to(self.device, torch.float32 if self.device.type == "mps" else None)
        total, count = self.trainer.strategy.reduce(sums, reduce_op="sum")
        self.log("validation_loss", (total / count).float(), prog_bar=True, rank_zero_only=False)
        self._sums.zero_()

    def loss(self, batch: Batch, smoothing: float) -> Tensor:
        """See `target_losses`; a method, so that a sharded model gathers its weights for it."""
        return target_losses(self.model, batch, smoothing)

    def configure_optimizers(self) -> Any:
        """AdamW; norms, biases, tables and positions do not decay."""
        recipe = self.recipe
        decays = {True: recipe.weight_decay, False: 0.0}
        groups = [
            {"params": list(self._parameters_that(decay=decay)), "weight_decay": rate}
            for decay, rate in decays.items()
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=recipe.learning_rate,
            betas=(0.9, recipe.beta2),
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(recipe))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _parameters_that(self, *, decay: bool) -> Iterator[nn.Parameter]:
        for name, parameter in self.model.named_parameters():
            table = "embedding.weight" in name or "positions" in name or "relative" in name
            if parameter.requires_grad and (parameter.ndim > 1 and not table) == decay:
                yield parameter


def target_losses(model: Transformer, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of every target that counts, (targets,): its negative log-likelihood."""
    labels = batch["labels"]
    logits = target_logits(model, batch)
    return F.cross_entropy(
        logits.float(), labels[labels != IGNORED], reduction="none", label_smoothing=smoothing
    )


def target_logits(model: Transformer, batch: Batch) -> Tensor:
    """Logits where a label stands, (targets, vocab or labels)."""
    if model.dims.head == "classifier":
        return model.pool(batch["source"], batch["source_length"])
    return model.logits(decoder_states(model, batch)[batch["labels"] != IGNORED])


def decoder_states(model: Transformer, batch: Batch) -> Tensor:
    """The decoder's states at every position, (rows, length, width)."""
    length, source = batch.get("source_length"), []
    if length is not None:
        source = model.project_source(model.encode(batch["source"], length))
    hidden, _ = model.decode(batch["tokens"], source, length)
    return hidden


def schedule(recipe: OptimizerRecipe) -> Callable[[int], float]:
    """The part of the learning rate at each step: up to 1 during warm-up, then down."""
    warmup, steps = max(1, min(recipe.warmup, recipe.steps)), recipe.steps

    def part(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        left = (steps - step) / max(1, steps - warmup)
        return {
            "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))),
            "linear": left,
            "inverse_sqrt": math.sqrt(warmup / (step + 1)),
            "constant": 1.0,
        }[recipe.schedule]

    return part


def set_dropout(model: Transformer, rate: float) -> None:
    """The rate of dropout behind embeddings and every part of a layer."""
    for module in model.modules():
        if isinstance(module, Stack | Layer):
            module.dropout.p = rate
