"""A file of rows to a file of answers: a line for each line, in shards that can be gone on with.

What is done already lies in the folder `OUT.parts`: `plan.json` says of what, and each finished
shard is a file. They become OUT, whole or not at all, when all of them are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final, TypeAlias

from seq2edge.bundle import Bundle
from seq2edge.errors import BackendError, InputError
from seq2edge.files.progress import Progress
from seq2edge.files.records import decode, parse_json, record_errors
from seq2edge.files.storage import file_errors, replacing
from seq2edge.serve.predictor import ERROR, Predictor, as_line

ROWS: Final = 1000  # of a shard, where nobody says
PLAN: Final = "plan.json"
SHARD: Final = "shard-*.jsonl"
PARQUET: Final = ".parquet"  # the end of names of files that are no JSON lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the answers are made of: a run goes on with shards of the same plan alone."""

    # SHA-256 of the file of rows, and of the bundle's manifest.
    input: str
    bundle: str
    task: str
    # Fields of `DecodeOptions`, the languages and --cut: what answers depend on.
    settings: Any
    # Rows of a shard.
    rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """Some lines of the file of rows, the first of which begins at a byte."""

    number: int
    begin: int
    lines: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Lines of the file of answers, and how many of them are errors."""

    lines: int
    errors: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardRunner:
    """What a process does: a shard read, answered and written whole. Pickled as its settings."""

    predictor: Predictor
    source: Path
    parts: Path

    def __call__(self, shard: Shard) -> int:
        """Its number. Raises InputError for files that fail, and what `Predictor` does."""
        with file_errors(self.source, InputError), self.source.open("rb") as file:
            file.seek(shard.begin)
            lines = list(itertools.islice(file, shard.lines))
        answers = self.predictor(lines)
        path = self.path(shard)
        with file_errors(path, InputError), replacing(path) as partial:
            partial.write_bytes(b"".join(as_line(answer) + b"\n" for answer in answers))
        return shard.number

    def path(self, shard: Shard) -> Path:
        """Where its answers lie when all of them are there."""
        return self.parts / SHARD.replace("*", f"{shard.number:06}")


# Computes shards, and gives the number of each that is done.
Compute: TypeAlias = Callable[[ShardRunner, Sequence[Shard]], Iterable[int]]


def predict_file(
    predictor: Predictor,
    source: Path,
    destination: Path,
    *,
    rows: int = ROWS,
    compute: Compute,
    progress: Progress = lambda *_: None,
) -> Outcome:
    """Answer every line of JSON in `source` by a line of `destination`, in its order.

    A file whose name ends in .parquet has rows of Parquet in the place of lines. What cannot be
    answered becomes `{"error": ...}`. A run that was cut goes on behind its finished shards, of
    `rows` lines each. Raises InputError where the destination exists, and for shards of another
    run.
    """
    with _as_lines(source, destination) as lines:
        shards, digest = _cut(lines, rows)
        plan = Plan(
            input=digest,
            bundle=Bundle.open(predictor.bundle).sha256,
            task=predictor.task,
            # As a file gives them back.
            settings=json.loads(
                json.dumps(
                    {
                        **predictor.decode,
                        "source_language": predictor.source_language,
                        "target_language": predictor.target_language,
                        "cut": predictor.load.get("cut", False),
                    }
                )
            ),
            rows=rows,
        )
        parts = destination.with_name(f"{destination.name}.parts")
        runner = ShardRunner(predictor=predictor, source=lines, parts=parts)
        with file_errors(parts, InputError):
            _begin(parts, plan, destination)
        pending = [shard for shard in shards if not runner.path(shard).exists()]
        done = len(shards) - len(pending)
        for _ in compute(runner, pending):
            done += 1
            progress(f"{done:,} of {len(shards):,} shards", done / len(shards))
        with file_errors(destination, InputError):
            with replacing(destination) as partial:
                outcome = _join([runner.path(shard) for shard in shards], partial)
                if destination.suffix == PARQUET:  # in the place of the lines
                    from seq2edge.serve.parquet import from_lines

                    from_lines([runner.path(shard) for shard in shards], partial)
            _remove(parts)
        return outcome


@contextlib.contextmanager
def _as_lines(source: Path, destination: Path) -> Iterator[Path]:
    """The file of rows as JSON lines: of Parquet a copy beside the destination, for the run."""
    if source.suffix != PARQUET:
        yield source
        return
    from seq2edge.serve.parquet import to_lines

    lines = destination.with_name(f"{destination.name}.rows")
    try:
        with file_errors(lines, InputError), replacing(lines) as partial:
            to_lines(source, partial)
        yield lines
    finally:
        lines.unlink(missing_ok=True)


def _cut(source: Path, rows: int) -> tuple[list[Shard], str]:
    """The shards of a file, and its SHA-256."""
    digest = hashlib.sha256()
    shards: list[Shard] = []
    begin = 0
    with file_errors(source, InputError), source.open("rb") as file:
        while lines := list(itertools.islice(file, rows)):
            shards.append(Shard(number=len(shards), begin=begin, lines=len(lines)))
            for line in lines:
                digest.update(line)
                begin += len(line)
    return shards, digest.hexdigest()


def _begin(parts: Path, plan: Plan, destination: Path) -> None:
    """The folder of shards, new, or that of a run with the same plan."""
    path = parts / PLAN
    if path.exists():
        with record_errors(path, InputError):
            before = decode(Plan, parse_json(path.read_bytes()))
        for field in dataclasses.fields(Plan):
            if getattr(before, field.name) != getattr(plan, field.name):
                raise InputError(
                    f"{parts}: shards of a run with another {field.name}; go on with that one, or "
                    "remove the folder"
                )
        return
    if destination.exists():
        raise InputError(f"{destination}: exists, remove it or choose another name")
    _remove(parts)
    parts.mkdir()
    with replacing(path) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(plan)), encoding="utf-8")


def _join(paths: Sequence[Path], destination: Path) -> Outcome:
    """All shards in one file."""
    lines = errors = 0
    begins = as_line({ERROR: ""})[:-2]  # an error's key is the first
    with destination.open("wb") as file:
        for path in paths:
            with path.open("rb") as shard:
                for line in shard:
                    lines += 1
                    errors += line.startswith(begins)
                    file.write(line)
    return Outcome(lines=lines, errors=errors)


def _remove(parts: Path) -> None:
    """Remove what runs leave in the folder, the plan first: without it shards are none.

    Raises OSError where anything else is in it.
    """
    if not parts.exists():
        return
    (parts / PLAN).unlink(missing_ok=True)
    for path in parts.glob(SHARD):
        path.unlink()
    for path in parts.glob(".seq2edge-*.partial"):
        shutil.rmtree(path)
    parts.rmdir()


def in_processes(count: int) -> Compute:
    """Shards in so many processes of this machine, each with a model; one is this process."""

    def compute(runner: ShardRunner, shards: Sequence[Shard]) -> Iterator[int]:
        if count == 1 or len(shards) < 2:
            yield from map(runner, shards)
            return
        # Forks of a process whose libraries run threads may stop for ever.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            count, mp_context=context, initializer=_start_worker, initargs=(runner,)
        )
        with pool:
            try:
                yield from pool.map(_run_shard, shards)
            except BrokenProcessPool as error:
                raise BackendError(
                    "batch: a process was killed, perhaps for its memory; call it again, which "
                    "goes on behind the finished shards, with fewer processes or a smaller batch"
                ) from error

    return compute


_RUNNER: list[ShardRunner] = []  # of a worker


def _start_worker(runner: ShardRunner) -> None:
    _RUNNER[:] = [runner]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_shard(shard: Shard) -> int:
    return _RUNNER[0](shard)
