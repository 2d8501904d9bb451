"""Checkpoints of models trained here: `seq2edge export`, and another training, read them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import save_file
from torch import Tensor

from seq2edge import __version__
from seq2edge.errors import TrainingError
from seq2edge.files.storage import file_errors, hidden_sibling
from seq2edge.training.run_folder import TOKENIZER, RunSetup

WEIGHTS = "model.safetensors"
Stored: TypeAlias = Literal["float32", "float16"]


def save_checkpoint(
    folder: Path,
    weights: Mapping[str, Tensor],
    facts: RunSetup,
    run: Path,
    card: Mapping[str, Any],
    *,
    stored: Stored = "float32",
) -> None:
    """Write a checkpoint folder, whole or not at all; one that was there before is replaced.

    weights: the model's parameters by name; `run` holds the tokenizer; `card` says how it was made.
    `stored` float16 halves the file where a model is to be passed on.
    """
    partial = hidden_sibling(folder)
    try:
        with file_errors(folder, TrainingError):
            partial.mkdir(parents=True)
            dtype = getattr(torch, stored)
            tensors = {name: value.to(dtype).contiguous() for name, value in weights.items()}
            save_file(tensors, partial / WEIGHTS)
            (partial / WEIGHTS).chmod(0o644)  # the library writes for its owner alone
            for name in (facts.tokenizer.source, facts.tokenizer.target):
                if name is not None:
                    shutil.copyfile(run / TOKENIZER / name, partial / name)
            _write(partial / "config.json", _config(facts))
            _write(partial / "training.json", card)
            if facts.generation:
                _write(partial / "generation_config.json", facts.generation)
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _config(facts: RunSetup) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_type": "seq2edge",
        "seq2edge_version": __version__,
        "dims": facts.dims.to_dict(),
        "tokenizer": dataclasses.asdict(facts.tokenizer),
    }
    if facts.labels:
        config["id2label"] = dict(enumerate(facts.labels))
        config["problem_type"] = "single_label_classification"
    return config


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
