"""A folder of pickled weights as one of safetensors: `seq2edge convert-weights`.

The pickles are read in a process of their own (`unpickle.py`), as tensors alone.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seq2edge.checkpoints.importers.huggingface import INDEX, SINGLE
from seq2edge.checkpoints.importers.json_file import read_json
from seq2edge.checkpoints.importers.sentence_transformers import MODULES, module_folders
from seq2edge.errors import CheckpointError
from seq2edge.files.storage import file_errors, full_disk, replacing_folder, require_regular

PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# A trainer's own state beside the weights.
NO_WEIGHTS = ("training_args.bin", "optimizer*", "scheduler*", "rng_state*", "scaler*")
COPIED = (".json", ".txt", ".model", ".spm", ".jinja", ".md")
READER = Path(__file__).with_name("unpickle.py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertedWeights:
    """The new folder, how many tensors it has, and second names of those that were kept once."""

    path: Path
    tensors: int
    second_names: Mapping[str, str]


def convert_weights(folder: str | Path, destination: str | Path) -> ConvertedWeights:
    """Make `destination` of a checkpoint folder, with safetensors in place of its pickled weights.

    All tensors are kept, heads too; those that share their memory are written once, as the config's
    `tie_word_embeddings` allows. Raises CheckpointError for pickles that are no plain tensors by
    name, none of which is run, and where there is nothing to convert.
    """
    folder, destination = Path(folder), Path(destination)
    if destination.exists():
        raise CheckpointError(f"{destination}: exists already")
    config = read_json(folder / "config.json")
    tied = config.get("tie_word_embeddings") is not False
    modules = module_folders(folder) if (folder / MODULES).is_file() else []
    tensors = 0
    second: dict[str, str] = {}
    with file_errors(destination, CheckpointError), replacing_folder(destination) as new:
        for place in dict.fromkeys(["", *modules]):
            (new / place).mkdir(parents=True, exist_ok=True)
            _copy(folder / place, new / place)
            for written in _convert(folder / place, new / place, tied=tied):
                tensors += len(written["names"])
                second |= written["second"]
        if not tensors:
            raise CheckpointError(f"{folder}: has no pickled weights ({', '.join(PATTERNS)})")
    return ConvertedWeights(path=destination, tensors=tensors, second_names=second)


def _copy(folder: Path, new: Path) -> None:
    """Everything but weights."""
    for file in sorted(folder.iterdir()):
        kept = file.suffix in COPIED and file.name != PICKLE_INDEX
        if file.is_file() and (kept or file.suffix == ".safetensors"):
            shutil.copyfile(file, new / file.name)


def _convert(folder: Path, new: Path, *, tied: bool) -> Iterator[dict[str, Any]]:
    """The pickles of one folder, one after the other; what became of each."""
    if (folder / SINGLE).is_file() or (folder / INDEX).is_file():
        return
    files = _pickles(folder)
    table: dict[str, str] = {}
    size = 0
    for number, file in enumerate(files, 1):
        name = SINGLE if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        written = _read(file, new / name, tied=tied)
        table |= dict.fromkeys(written["names"], name)
        size += written["size"]
        yield written
    if len(files) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": table}
        (new / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _pickles(folder: Path) -> list[Path]:
    """The files of weights: the shards of an index, the usual name, or the only one there is."""
    if (folder / PICKLE_INDEX).is_file():
        table = read_json(folder / PICKLE_INDEX).get("weight_map")
        names = set(table.values()) if isinstance(table, dict) else set()
        if not names or not all(isinstance(n, str) and "/" not in n for n in names):
            raise CheckpointError(f"{folder / PICKLE_INDEX}: no weight_map of files beside it")
        return [folder / name for name in sorted(names)]
    if (folder / PICKLE).is_file():
        return [folder / PICKLE]
    candidates = sorted({file for pattern in PATTERNS for file in folder.glob(pattern)})
    candidates = [f for f in candidates if not any(f.match(pattern) for pattern in NO_WEIGHTS)]
    if len(candidates) > 1:
        listed = ", ".join(file.name for file in candidates)
        raise CheckpointError(f"{folder}: holds {listed}, keep the one with the weights")
    return candidates


def _read(file: Path, destination: Path, *, tied: bool) -> dict[str, Any]:
    """Let the process read one pickle; what it says."""
    if not file.exists():
        raise CheckpointError(f"{file}: no such file, the index names it")
    with file_errors(file, CheckpointError):
        require_regular(file, CheckpointError)
    mode = "tied" if tied else "untied"
    done = subprocess.run(  # noqa: S603 - this interpreter, our own script
        [sys.executable, "-I", str(READER), str(file), str(destination), mode],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    try:
        said = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        if full := full_disk(RuntimeError(lines[-1])):
            raise full from None
        raise CheckpointError(f"{file}: reading it failed: {lines[-1]:.200}") from None
    if "error" in said:
        raise CheckpointError(f"{file}: {said['error']}")
    return dict(said)
