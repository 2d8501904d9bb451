"""From a recipe to a checkpoint: prepare, learn with Lightning, save."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor

from seq2edge.bundle.manifest import utc_now
from seq2edge.errors import TrainingError
from seq2edge.files.progress import Say
from seq2edge.model.transformer import Transformer
from seq2edge.training.adapters import add_adapters, merged
from seq2edge.training.batches import Plan
from seq2edge.training.checkpoints import SafeCheckpointIO, Stored, save_model
from seq2edge.training.data_module import RunDataModule
from seq2edge.training.initialise import new_model
from seq2edge.training.presets import count_parameters
from seq2edge.training.privacy import (
    Mechanism,
    PoissonPlan,
    PrivateModule,
    open_mechanism,
    prepare_privacy,
    private_card,
    without_clipping,
)
from seq2edge.training.processes import (
    check_device,
    environment,
    first_process,
    launch_processes,
    lost_processes,
    resolve_world,
    started_by_launcher,
)
from seq2edge.training.progress import ProgressLines
from seq2edge.training.recipe import Recipe, without_folders
from seq2edge.training.run_folder import (
    LAST,
    Run,
    being_prepared,
    open_run,
    prepare_run,
    wait_until_prepared,
)
from seq2edge.training.start import start_model
from seq2edge.training.training_module import TrainingModule, set_dropout
from seq2edge.training.vectors import fill_vectors, prepare_vectors, report_of

Strategy: TypeAlias = Literal["auto", "ddp", "fsdp"]
BEST, MODEL = "best.ckpt", "model"


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

    `resume` goes on from the last check of the same recipe. `say` is told lines: one that begins
    with a carriage return is passing, and `quiet` leaves out those about steps. Raises
    TrainingError for data, checkpoints and folders that cannot be used; the last good checkpoint
    stays then.
    """
    processes, machines = resolve_world(machine.processes, machine.machines)
    check_device(machine.device, processes)
    if recipe.privacy.epsilon and (processes * machines > 1 or machine.strategy == "fsdp"):
        raise TrainingError("privacy.epsilon: a private training runs in one process, unsharded")
    arguments: dict[str, Any] = {
        "recipe": recipe,
        "folder": Path(folder),
        "resume": resume,
        "machine": dataclasses.replace(machine, processes=processes, machines=machines),
        "stored": stored,
        "quiet": quiet,
    }
    if processes > 1 and not started_by_launcher():
        trained: Trained = launch_processes(_train, arguments, processes=processes, say=say)
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
    run = _prepare(recipe, folder, say)
    mechanism = open_mechanism(run)
    with _silenced(), lost_processes(everyone):
        trainer = _trainer(without_clipping(recipe), folder, machine, None if quiet else say)
        module = _module(run, mechanism, machine, say)
        trainer.fit(
            module,
            datamodule=_data_module(run, mechanism, machine),
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
        if trainer.interrupted:
            raise KeyboardInterrupt
        return _finish(trainer, module, run, began=began, stored=stored)


def _prepare(recipe: Recipe, folder: Path, say: Say) -> Run:
    """The run, whose folder one process prepares while the others wait for it."""
    if not first_process():
        wait_until_prepared(recipe, folder)
        return open_run(recipe, folder)
    with being_prepared(folder):
        run = prepare_run(recipe, folder, say)
        prepare_vectors(run, say)
        prepare_privacy(run)
    return run


def _finish(
    trainer: L.Trainer, module: TrainingModule, run: Run, *, began: float, stored: Stored
) -> Trained:
    """Save the best weights, as those of a plain model, and say what was done."""
    weights, loss = _best(trainer, module, run.folder)
    if run.recipe.adapter.rank and trainer.is_global_zero:
        weights = merged(weights, run.recipe.adapter)
    seconds = time.monotonic() - began
    count, _ = count_parameters(run.setup.dims)
    card = _card(run, trainer, loss, seconds, count)
    card["learnt_parameters"] = learnt_parameters(module.model)
    if run.recipe.vectors.file:
        card |= report_of(run)
    if isinstance(module, PrivateModule):
        card = private_card(card, module)
    if trainer.is_global_zero:
        save_model(run.folder / MODEL, weights, run, card, stored=stored)
    return Trained(
        checkpoint=run.folder / MODEL,
        steps=trainer.global_step,
        parameters=count,
        seconds=seconds,
        validation_loss=loss,
    )


def build_model(run: Run, say: Say) -> Transformer:
    """The model before the first step."""
    recipe, dims = run.recipe, run.setup.dims
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


def _module(run: Run, mechanism: Mechanism | None, machine: Machine, say: Say) -> TrainingModule:
    """The Lightning module of the run's model; private, sharded or plain."""
    recipe, model = run.recipe, build_model(run, say)
    if recipe.vectors.file:
        fill_vectors(model, run)
    learnt = learnt_parameters(model)
    count = sum(parameter.numel() for parameter in model.parameters())
    part = "" if learnt == count else f", {learnt:,} of them learn"
    say(f"{run.setup.dims.kind} of {count / 1e6:.2f} million parameters{part}")
    if mechanism is not None:
        say(
            f"private: epsilon {recipe.privacy.epsilon:g}, about {recipe.privacy.batch} of "
            f"{len(run.train):,} rows a step, noise {mechanism.noise:.3g} times the clip"
        )
        return PrivateModule(model, recipe, mechanism)
    if machine.strategy == "fsdp":
        from seq2edge.training.sharding import ShardedModule

        return ShardedModule(model, recipe.optimizer, seed=recipe.seed)
    return TrainingModule(model, recipe.optimizer, seed=recipe.seed)


def _data_module(run: Run, mechanism: Mechanism | None, machine: Machine) -> RunDataModule:
    """The run's batches: rows drawn by chance for a private training, else all of an epoch."""
    recipe, workers = run.recipe, machine.workers
    if mechanism is not None:  # whose module reads a step in parts itself
        drawn = PoissonPlan(rows=len(run.train), mechanism=mechanism)
        return RunDataModule(run, drawn, accumulate=1, workers=workers)
    plan = Plan(
        corpus=run.train,
        tokens=recipe.optimizer.batch_tokens,
        seed=recipe.seed,
        weights=recipe.data.weights,
    )
    return RunDataModule(run, plan, accumulate=recipe.optimizer.accumulate, workers=workers)


def _trainer(recipe: Recipe, folder: Path, machine: Machine, say: Say | None) -> L.Trainer:
    """Lightning's trainer; `say` is told how far it is."""
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
        callbacks=_callbacks(recipe, folder, say, checked=checked),
        plugins=[SafeCheckpointIO(), environment()],
        enable_model_summary=False,
        enable_progress_bar=False,
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


def _callbacks(recipe: Recipe, folder: Path, say: Say | None, *, checked: bool) -> list[Callback]:
    """What is done at every check: keep the best and the last state, perhaps stop, say so."""
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
    if say is not None:
        callbacks.append(ProgressLines(say))
    return callbacks


def _strategy(machine: Machine) -> Any:
    everyone = machine.processes * machine.machines
    if machine.strategy == "fsdp":
        from seq2edge.training.sharding import Sharded

        return Sharded(everyone)
    return "ddp" if machine.strategy == "auto" and everyone > 1 else machine.strategy


def _precision(recipe: Recipe, machine: Machine) -> Any:
    precision = recipe.optimizer.precision
    if precision == "fp16-mixed" and machine.strategy == "fsdp":
        raise TrainingError("optimizer.precision: fsdp takes float32 or bf16-mixed, not fp16-mixed")
    if precision != "auto":
        return "32-true" if precision == "float32" else precision
    on_gpu = machine.device in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def _best(
    trainer: L.Trainer, module: TrainingModule, folder: Path
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
    names = dict(module.model.named_parameters())
    return {name: state[f"model.{name}"].cpu() for name in names}, loss


def _card(
    run: Run, trainer: L.Trainer, loss: float | None, seconds: float, count: int
) -> dict[str, Any]:
    """What `training.json` of the checkpoint says."""
    return {
        "recipe": without_folders(run.recipe).to_dict(),
        "parameters": count,
        "steps": trainer.global_step,
        "rows": len(run.train),
        "tokens": sum(map(len, run.train.ids)),
        "lines_left_out": run.train.skipped.counts,
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
