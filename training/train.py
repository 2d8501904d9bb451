"""From a recipe to a checkpoint: prepare, learn with Lightning, save."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor

from seq2edge.errors import TrainingError
from seq2edge.manifest import utc_now
from seq2edge.model.transformer import Transformer
from seq2edge.training.adapters import add_adapters, merged
from seq2edge.training.checkpoints import SafeCheckpointIO
from seq2edge.training.initialise import new_model
from seq2edge.training.learner import Learner, set_dropout
from seq2edge.training.material import Loaders, Material, open_material, prepare
from seq2edge.training.privacy import (
    PrivateLearner,
    PrivateLoaders,
    open_mechanism,
    plain_optimizer,
    prepare_privacy,
    private_card,
)
from seq2edge.training.recipe import Recipe, without_folders
from seq2edge.training.saving import Stored, save_checkpoint
from seq2edge.training.start import start_model
from seq2edge.training.vectors import fill_vectors, prepare_vectors, report_of

Say: TypeAlias = Callable[[str], None]
Strategy: TypeAlias = Literal["auto", "ddp", "fsdp"]
LAST, BEST, MODEL = "last.ckpt", "best.ckpt", "model"
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how to train, which changes nothing about what is learnt.

    `device` is Lightning's accelerator, `workers` are processes that read data, `tensorboard`
    writes its logs beside the CSV files.
    """

    device: str = "auto"
    processes: int = 1
    machines: int = 1
    strategy: Strategy = "auto"
    workers: int = 0
    tensorboard: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training gave. `validation_loss` is the saved model's, None without such data."""

    checkpoint: Path
    steps: int
    parameters: int
    seconds: float
    validation_loss: float | None


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    resume: bool = False,
    machine: Machine = Machine(),
    stored: Stored = "float32",
    say: Say = lambda _: None,
    quiet: bool = False,
) -> Trained:
    """Train what the recipe says in a run's folder and save the best model to `folder/model`.

    `resume` goes on from the last check of the same recipe. Raises TrainingError for data,
    checkpoints and folders that cannot be used; the last good checkpoint stays then.
    """
    folder = Path(folder)
    last = folder / LAST
    if last.is_file() and not resume:
        raise TrainingError(f"{folder}: holds a run already, resume it or choose a new folder")
    began = time.monotonic()
    if first_process():
        prepare(recipe, folder, say)
        material = open_material(folder)
        prepare_vectors(material, folder, say)
        prepare_privacy(material, folder)
    with _silenced():
        trainer = _trainer(plain_optimizer(recipe), folder, machine, quiet=quiet)
        trainer.strategy.barrier("prepared") if trainer.world_size > 1 else None
        material = open_material(folder)
        learner = _learner(material, folder, say)
        trainer.fit(
            learner,
            datamodule=_loaders(material, folder, machine),
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
    if trainer.interrupted:
        raise KeyboardInterrupt
    return _finish(trainer, learner, material, folder, began=began, stored=stored)


def _finish(
    trainer: L.Trainer,
    learner: Learner,
    material: Material,
    folder: Path,
    *,
    began: float,
    stored: Stored,
) -> Trained:
    """Save the best weights, as those of a plain model, and say what was done."""
    weights, loss = _best(trainer, learner, folder)
    if material.recipe.adapter.rank:
        weights = merged(weights, material.recipe.adapter)
    seconds = time.monotonic() - began
    count = sum(tensor.numel() for tensor in weights.values())
    card = _card(material, trainer, loss, seconds, count)
    card["learnt_parameters"] = learnt_parameters(learner.model)
    if material.recipe.vectors.file:
        card |= report_of(folder)
    if isinstance(learner, PrivateLearner):
        card = private_card(card, learner)
    if trainer.is_global_zero:
        save_checkpoint(folder / MODEL, weights, material.facts, folder, card, stored=stored)
    return Trained(
        checkpoint=folder / MODEL,
        steps=trainer.global_step,
        parameters=count,
        seconds=seconds,
        validation_loss=loss,
    )


def first_process() -> bool:
    """Whether this is the process that prepares, among those that a launcher started."""
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)


def build_model(material: Material, say: Say) -> Transformer:
    """The model before the first step."""
    recipe, dims = material.recipe, material.facts.dims
    if recipe.start:
        model, new = start_model(dims, Path(recipe.start), recipe.seed)
        if new:
            say(f"new, not in {Path(recipe.start).name}: {', '.join(new)}")
        if recipe.adapter.rank:
            layers = add_adapters(model, recipe.adapter, new, seed=recipe.seed)
            say(f"adapters of rank {recipe.adapter.rank} beside {len(layers)} linear layers")
    else:
        model = new_model(dims, recipe.seed)
    set_dropout(model, recipe.model.dropout)
    return model.train()


def learnt_parameters(model: Transformer) -> int:
    """How many numbers the training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _learner(material: Material, folder: Path, say: Say) -> Learner:
    recipe = material.recipe
    model = build_model(material, say)
    if recipe.vectors.file:
        fill_vectors(model, folder, frozen=recipe.vectors.frozen)
    learnt = learnt_parameters(model)
    count = sum(parameter.numel() for parameter in model.parameters())
    part = "" if learnt == count else f", {learnt:,} of them learn"
    say(f"{material.facts.dims.kind} of {count / 1e6:.2f} million parameters{part}")
    if recipe.privacy.epsilon:
        mechanism = open_mechanism(folder)
        say(
            f"private: epsilon {recipe.privacy.epsilon:g}, about {recipe.privacy.batch} of "
            f"{len(material.train):,} rows a step, noise {mechanism.noise:.3g} times the clip"
        )
        return PrivateLearner(model, recipe, mechanism)
    return Learner(model, recipe.optimizer, seed=recipe.seed)


def _loaders(material: Material, folder: Path, machine: Machine) -> Loaders:
    if material.recipe.privacy.epsilon:
        return PrivateLoaders(material, open_mechanism(folder), workers=machine.workers)
    return Loaders(material, workers=machine.workers)


def _trainer(recipe: Recipe, folder: Path, machine: Machine, *, quiet: bool) -> L.Trainer:
    if recipe.privacy.epsilon and machine.processes * machine.machines > 1:
        raise TrainingError("privacy.epsilon: a private training runs in one process")
    optimizer = recipe.optimizer
    checked = bool(recipe.data.validation)
    every = recipe.check.every
    return L.Trainer(
        accelerator=machine.device,
        devices=machine.processes,
        num_nodes=machine.machines,
        strategy=_strategy(machine),
        precision=_precision(recipe, machine),
        max_steps=optimizer.steps,
        max_epochs=-1,
        accumulate_grad_batches=optimizer.accumulate,
        gradient_clip_val=optimizer.clip or None,
        val_check_interval=every * optimizer.accumulate if checked else None,
        check_val_every_n_epoch=None,
        limit_val_batches=None if checked else 0,
        num_sanity_val_steps=0,
        logger=_loggers(folder, machine),
        log_every_n_steps=min(50, every),
        callbacks=_callbacks(recipe, folder, checked=checked, quiet=quiet),
        plugins=[SafeCheckpointIO()],
        enable_model_summary=False,
        enable_progress_bar=not quiet,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


def _loggers(folder: Path, machine: Machine) -> list[Logger]:
    """`log/version_0/metrics.csv`; a resumed run goes on in `version_1`."""
    loggers: list[Logger] = [CSVLogger(folder, name="log")]
    if machine.tensorboard:
        try:
            loggers.append(TensorBoardLogger(folder, name="tensorboard"))
        except ImportError as error:
            raise TrainingError(f"tensorboard: {error}; install tensorboard") from error
    return loggers


def _callbacks(recipe: Recipe, folder: Path, *, checked: bool, quiet: bool) -> list[Callback]:
    from seq2edge.training.progress import Progress

    common: dict[str, Any] = {
        "dirpath": folder,
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
    }
    if not checked:
        common["every_n_train_steps"] = recipe.check.every
    callbacks: list[Callback] = []
    if checked:
        best = ModelCheckpoint(filename="best", monitor="validation_loss", save_top_k=1, **common)
        callbacks.append(best)
    if checked and recipe.check.patience:
        patience = recipe.check.patience
        callbacks.append(EarlyStopping("validation_loss", patience=patience, check_finite=True))
    callbacks.append(ModelCheckpoint(filename="last", save_top_k=1, **common))
    if not quiet:
        callbacks.append(Progress(recipe.optimizer.steps * recipe.optimizer.accumulate))
    return callbacks


def _strategy(machine: Machine) -> Any:
    if machine.strategy == "fsdp":
        from seq2edge.training.sharding import sharded

        return sharded()
    if machine.strategy == "auto" and machine.processes * machine.machines > 1:
        return "ddp"
    return machine.strategy


def _precision(recipe: Recipe, machine: Machine) -> Any:
    wanted = recipe.optimizer.precision
    if wanted != "auto":
        return "32-true" if wanted == "float32" else wanted
    on_gpu = machine.device in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def _best(
    trainer: L.Trainer, learner: Learner, folder: Path
) -> tuple[dict[str, Tensor], float | None]:
    """Weights of the best check, of the last step where nothing was checked; and the loss."""
    kept = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    best = next((callback for callback in kept if callback.monitor), None)
    if best is not None and (folder / BEST).is_file():
        saved = torch.load(folder / BEST, map_location="cpu", weights_only=True)
        loss = float(best.best_model_score) if best.best_model_score is not None else None
        state = saved["state_dict"]
    else:
        state, loss = trainer.strategy.lightning_module_state_dict(), None
    names = dict(learner.model.named_parameters())
    return {name: state[f"model.{name}"].cpu() for name in names}, loss


def _card(
    material: Material, trainer: L.Trainer, loss: float | None, seconds: float, count: int
) -> dict[str, Any]:
    """What `training.json` of the checkpoint says."""
    return {
        "recipe": without_folders(material.recipe).to_dict(),
        "parameters": count,
        "steps": trainer.global_step,
        "rows": len(material.train),
        "tokens": sum(map(len, material.train.ids)),
        "lines_left_out": material.train.bad.counts,
        "validation_loss": loss,
        "seconds": round(seconds),
        "device": str(trainer.strategy.root_device),
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "created": utc_now(),
    }


@contextmanager
def _silenced() -> Iterator[None]:
    """Lightning's hints about workers, lengths and accelerators say nothing new here."""
    import logging

    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
