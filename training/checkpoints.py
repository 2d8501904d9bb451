"""Checkpoints on disk, whole or not at all: a training's state, and the model it ends with."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from safetensors.torch import save_file
from torch import Tensor

from seq2edge import __version__
from seq2edge.errors import TrainingError
from seq2edge.files.storage import (
    REMEDIES,
    file_errors,
    full_disk,
    replacing,
    replacing_folder,
)
from seq2edge.training.run_folder import TOKENIZER, Run, RunSetup

WEIGHTS, CARD = "model.safetensors", "training.json"
Stored: TypeAlias = Literal["float32", "float16"]


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints of a training, of which the last good one stays."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """See Lightning. Raises TrainingError where the disk is full."""
        del storage_options
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            full = full_disk(error)
            fact = f"{full.strerror}{REMEDIES[full.errno or 0]}" if full else str(error)
            raise TrainingError(
                f"{path}: cannot be saved: {fact}; the last checkpoint before stays, resume"
            ) from error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See Lightning. Raises TrainingError for a damaged file."""
        try:
            loaded: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # unpicklers raise anything
            raise TrainingError(f"{path}: not a whole checkpoint: {error}") from error
        return loaded


def save_model(
    folder: Path,
    weights: Mapping[str, Tensor],
    run: Run,
    card: Mapping[str, Any],
    *,
    stored: Stored = "float32",
) -> None:
    """Write a checkpoint that `seq2edge export` and other trainings read; it replaces an older one.

    weights: the model's parameters by name; `card` says how they were made. `stored` float16
    halves the file where a model is to be passed on.
    """
    setup = run.setup
    with file_errors(folder, TrainingError), replacing_folder(folder) as partial:
        dtype = getattr(torch, stored)
        tensors = {name: value.to(dtype).contiguous() for name, value in weights.items()}
        save_file(tensors, partial / WEIGHTS)
        (partial / WEIGHTS).chmod(0o644)  # the library writes for its owner alone
        for name in (setup.tokenizer.source, setup.tokenizer.target):
            if name is not None:
                shutil.copyfile(run.folder / TOKENIZER / name, partial / name)
        _write(partial / "config.json", _config(setup))
        _write(partial / CARD, card)
        if setup.generation:
            _write(partial / "generation_config.json", setup.generation)


def _config(setup: RunSetup) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_type": "seq2edge",
        "seq2edge_version": __version__,
        "dims": setup.dims.to_dict(),
        "tokenizer": dataclasses.asdict(setup.tokenizer),
    }
    if setup.labels:
        config["id2label"] = dict(enumerate(setup.labels))
        config["problem_type"] = "single_label_classification"
    return config


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
