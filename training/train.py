"""From a recipe to a checkpoint: prepare, learn with Lightning, save."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from seq2edge.errors import TrainingError
from seq2edge.manifest import utc_now
from seq2edge.model.transformer import Transformer
from seq2edge.training.checkpoints import SafeCheckpointIO
from seq2edge.training.initialise import new_model
from seq2edge.training.learner import Learner, set_dropout
from seq2edge.training.material import Loaders, Material, open_material, prepare
from seq2edge.training.processes import (
    check_device,
    environment,
    first_process,
    lost_processes,
    meet,
    placed,
    spread,
    started_by_launcher,
)
from seq2edge.training.recipe import Recipe
from seq2edge.training.saving import Stored, save_checkpoint
from seq2edge.training.start import start_model

Say: TypeAlias = Callable[[str], None]
Strategy: TypeAlias = Literal["auto", "ddp", "fsdp"]
LAST, BEST, MODEL = "last.ckpt", "best.ckpt", "model"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Where to train: Lightning's accelerator, processes a machine, machines and strategy."""

    device: str = "auto"
    processes: int = 1
    machines: int = 1
    strategy: Strategy = "auto"
    workers: int = 0


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
    processes, machines = placed(machine.processes, machine.machines)
    check_device(machine.device, processes)
    arguments: dict[str, Any] = {
        "recipe": recipe,
        "folder": Path(folder),
        "resume": resume,
        "machine": dataclasses.replace(machine, processes=processes, machines=machines),
        "stored": stored,
        "quiet": quiet,
    }
    if processes > 1 and not started_by_launcher():
        trained: Trained = spread(_train, arguments, processes=processes, say=say)
        return trained
    return _train(**arguments, say=say if first_process() else lambda _: None)


def _train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool,
    machine: Machine,
    stored: Stored,
    say: Say,
    quiet: bool,
) -> Trained:
    """One process of a training."""
    last = folder / LAST
    if last.is_file() and not resume:
        raise TrainingError(f"{folder}: holds a run already, resume it or choose a new folder")
    began, everyone = time.monotonic(), machine.processes * machine.machines
    if first_process():
        prepare(recipe, folder, say)
    meet(folder, everyone)
    material = open_material(folder)
    with _silenced(), lost_processes(everyone):
        trainer = _trainer(recipe, folder, machine, quiet=quiet)
        learner = _learner(material, machine, say)
        trainer.fit(
            learner,
            datamodule=Loaders(material, workers=machine.workers),
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
        if trainer.interrupted:
            raise KeyboardInterrupt
        weights, loss = _best(trainer, learner, folder)
    seconds = time.monotonic() - began
    count = sum(parameter.numel() for parameter in learner.model.parameters())
    card = _card(material, trainer, loss, seconds, count)
    if trainer.is_global_zero:
        save_checkpoint(folder / MODEL, weights, material.facts, folder, card, stored=stored)
    return Trained(
        checkpoint=folder / MODEL,
        steps=trainer.global_step,
        parameters=count,
        seconds=seconds,
        validation_loss=loss,
    )


def build_model(material: Material, say: Say) -> Transformer:
    """The model before the first step."""
    recipe, dims = material.recipe, material.facts.dims
    if recipe.start:
        model, new = start_model(dims, Path(recipe.start), recipe.seed)
        if new:
            say(f"new, not in {Path(recipe.start).name}: {', '.join(new)}")
    else:
        model = new_model(dims, recipe.seed)
    set_dropout(model, recipe.model.dropout)
    return model


def _learner(material: Material, machine: Machine, say: Say) -> Learner:
    recipe = material.recipe
    model = build_model(material, say)
    count = sum(parameter.numel() for parameter in model.parameters())
    say(f"{material.facts.dims.kind} of {count / 1e6:.2f} million parameters")
    kind = Learner
    if machine.strategy == "fsdp":
        from seq2edge.training.sharding import ShardedLearner

        kind = ShardedLearner
    return kind(model, recipe.optimizer, seed=recipe.seed)


def _trainer(recipe: Recipe, folder: Path, machine: Machine, *, quiet: bool) -> L.Trainer:
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
        logger=CSVLogger(folder, name="", version="log"),
        log_every_n_steps=min(50, every),
        callbacks=_callbacks(recipe, folder, checked=checked, quiet=quiet),
        plugins=[SafeCheckpointIO(), environment()],
        enable_model_summary=False,
        enable_progress_bar=not quiet,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


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
    everyone = machine.processes * machine.machines
    if machine.strategy == "fsdp":
        from seq2edge.training.sharding import Sharded

        return Sharded(everyone)
    return "ddp" if machine.strategy == "auto" and everyone > 1 else machine.strategy


def _precision(recipe: Recipe, machine: Machine) -> Any:
    wanted = recipe.optimizer.precision
    if wanted == "fp16-mixed" and machine.strategy == "fsdp":
        raise TrainingError("optimizer.precision: fsdp takes float32 or bf16-mixed, not fp16-mixed")
    if wanted != "auto":
        return "32-true" if wanted == "float32" else wanted
    on_gpu = machine.device in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def _best(
    trainer: L.Trainer, learner: Learner, folder: Path
) -> tuple[dict[str, Tensor], float | None]:
    """Weights of the best check, of the last step where nothing was checked; and the loss.

    Only the first process has the weights.
    """
    kept = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    best = next((callback for callback in kept if callback.monitor), None)
    score = best.best_model_score if best is not None else None
    loss = float(score) if score is not None else None
    checked = best is not None and (folder / BEST).is_file()
    state = {} if checked else trainer.strategy.lightning_module_state_dict()  # asks all processes
    if not trainer.is_global_zero:
        return {}, loss
    if checked:
        state = torch.load(folder / BEST, map_location="cpu", weights_only=True)["state_dict"]
    names = dict(learner.model.named_parameters())
    return {name: state[f"model.{name}"].cpu() for name in names}, loss


def _card(
    material: Material, trainer: L.Trainer, loss: float | None, seconds: float, count: int
) -> dict[str, Any]:
    """What `training.json` of the checkpoint says."""
    return {
        "recipe": material.recipe.to_dict(),
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
            # Keys and values that a layer returns are views; nothing writes into them.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* view tensor")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
