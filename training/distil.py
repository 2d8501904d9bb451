"""Sequence-level distillation (Kim and Rush 2016): a teacher's answers are the student's data.

A bundle answers every text of a file, and the pairs are written for an ordinary training. The work
is kept after every batch: the same call goes on where one was stopped. No torch is needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from seq2edge.bundle.manifest import MANIFEST
from seq2edge.errors import CapacityError, InputError, TrainingError
from seq2edge.files.exchange import sync
from seq2edge.files.storage import REMEDIES, file_errors, replacing
from seq2edge.runtime.model import Model
from seq2edge.runtime.options import DecodeOptions
from seq2edge.training.text_files import SkippedLines, read_rows

Answer: TypeAlias = tuple[str, bool]  # the text, and whether the teacher ended it
Lines: TypeAlias = list[tuple[int, str]]  # numbers from 1, and texts
REFUSED = "a text that the bundle does not take"
EMPTY, UNFINISHED = "an empty answer", "an answer that was cut off"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distilled:
    """What was made. `left_out` counts texts and answers by the reason; `first` names some."""

    path: Path
    texts: int
    pairs: int
    left_out: dict[str, int]
    first: list[str]


def distil(
    model: Model,
    texts: str | Path,
    output: str | Path,
    *,
    options: DecodeOptions | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
    batch: int = 32,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Distilled:
    """Let the model answer every line of `texts` and write pairs to `output` (.tsv or .jsonl).

    A classifier answers with labels, others with what they generate, in the order of the texts;
    answers that are empty or were cut off are left out and counted. `progress` is told the lines
    read and the pairs written. Raises TrainingError for files that cannot be used and for an
    output of other texts, another bundle or other options.
    """
    texts, output = Path(texts), Path(output)
    if output.suffix not in (".tsv", ".jsonl"):
        raise TrainingError(f"{output}: its name ends in neither .tsv nor .jsonl")
    options = options or model.options
    fingerprint = _fingerprint(model, texts, options, (source_language, target_language))
    answer = _answerer(model, options, source_language, target_language)
    state = _State(output, fingerprint)
    with state.open() as file:
        for group, skipped in _groups(texts, batch, state.lines):
            answers = _safe(answer, group, skipped, texts)
            rows = list(_rows(group, answers, output.suffix, skipped, texts))
            state.keep(file, rows, group, skipped)
            progress(state.lines, state.pairs)
    return state.finish()


class _State:
    """The output while it grows, and beside it what has been done.

    `pairs.tsv.part` is written on; `pairs.tsv.part.json` says which bytes of it are whole.
    """

    def __init__(self, output: Path, fingerprint: str) -> None:
        self.output, self.fingerprint = output, fingerprint
        self.part = output.with_name(output.name + ".part")
        self.notes = self.part.with_name(self.part.name + ".json")
        self.lines = self.texts = self.pairs = self.bytes = 0
        self.skipped = SkippedLines()
        if output.exists():
            if not self.part.exists():  # a call was killed at its very end
                self.notes.unlink(missing_ok=True)
            raise TrainingError(f"{output}: exists, choose another name")
        if self.notes.exists():
            self._read()

    def _read(self) -> None:
        """Take up what an earlier call left, if it was the same work."""
        try:
            values = json.loads(self.notes.read_text(encoding="utf-8"))
            skipped = SkippedLines(counts=values["counts"], first=values["first"])
            fingerprint = values["asked"]
            numbers = [int(values[name]) for name in ("lines", "texts", "pairs", "bytes")]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{self.notes}: damaged, remove it: {error}") from error
        if fingerprint != self.fingerprint:
            raise TrainingError(
                f"{self.part}: begun with another bundle, other texts or options; "
                "remove it or choose another name"
            )
        self.lines, self.texts, self.pairs, self.bytes = numbers
        self.skipped = skipped

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The growing file, cut behind what is whole; an error before the first batch leaves none.

        Raises TrainingError where it cannot be written.
        """
        try:
            self.part.touch()
            os.truncate(self.part, self.bytes)
            file = self.part.open("r+b")
            file.seek(self.bytes)
        except OSError as error:
            raise TrainingError(f"{self.part}: {error.strerror or error}") from error
        try:
            with file:
                yield file
        finally:
            if not self.notes.exists():
                self.part.unlink(missing_ok=True)

    def keep(self, file: IO[bytes], rows: list[str], group: Lines, skipped: SkippedLines) -> None:
        """Write the rows of a batch of texts; all up to here is done then."""
        self.lines = group[-1][0] if group else self.lines
        self.texts += len(group)
        self.pairs += len(rows)
        for fact, count in skipped.counts.items():
            self.skipped.counts[fact] = self.skipped.counts.get(fact, 0) + count
        self.skipped.first = (self.skipped.first + skipped.first)[:20]
        try:
            file.write("".join(rows).encode())
            file.flush()
            os.fsync(file.fileno())  # before the notes that say it is there
            self.bytes = file.tell()
            names = ("lines", "texts", "pairs", "bytes")
            values = {name: getattr(self, name) for name in names}
            values |= {"asked": self.fingerprint, **vars(self.skipped)}
            with replacing(self.notes) as partial:
                partial.write_text(json.dumps(values), encoding="utf-8")
        except OSError as error:
            remedy = REMEDIES.get(error.errno or 0, "")
            raise TrainingError(
                f"{self.part}: {error.strerror or error}{remedy}; call again"
            ) from error

    def finish(self) -> Distilled:
        """The file under its own name."""
        if not self.pairs:
            reasons = ", ".join(f"{count:,}, {fact}" for fact, count in self.skipped.counts.items())
            shown = "; ".join([reasons or "the file has no lines", *self.skipped.first[:2]])
            self.part.unlink(missing_ok=True)
            self.notes.unlink(missing_ok=True)
            raise TrainingError(f"{self.output}: no pairs: {shown}")
        with file_errors(self.output, TrainingError):
            self.part.replace(self.output)
            sync(self.output.parent)
            self.notes.unlink(missing_ok=True)
        return Distilled(
            path=self.output,
            texts=self.texts,
            pairs=self.pairs,
            left_out=self.skipped.counts,
            first=self.skipped.first,
        )


@dataclasses.dataclass(kw_only=True)
class _Later(SkippedLines):
    """Lines up to `after` were counted by the call before."""

    after: int

    def add(self, path: Path, number: int, fact: str) -> None:
        if number > self.after:
            super().add(path, number, fact)


def _groups(texts: Path, size: int, done: int) -> Iterator[tuple[Lines, SkippedLines]]:
    """Batches of lines after line `done`, each with the lines that were left out before its end."""
    skipped = _Later(after=done)
    rows = read_rows(texts, columns=1, skipped=skipped)
    lines = ((number, row[0]) for number, row in rows if number > done)
    while group := list(itertools.islice(lines, size)):
        yield group, SkippedLines(counts=dict(skipped.counts), first=list(skipped.first))
        skipped.counts.clear()
        skipped.first.clear()
    if skipped.counts:
        yield [], skipped


def _answerer(
    model: Model, options: DecodeOptions, source: str | None, target: str | None
) -> Callable[[list[str]], list[list[Answer]]]:
    """How the model answers a batch of texts. Raises what would go wrong with every text."""
    task = model.bundle.manifest.task
    if task not in ("classify", "generate"):
        raise TrainingError(f"{model.bundle.path}: made to {task}, it answers no texts")
    model.tokenizer.encode("a", source_language=source, target_language=target)
    model.tokenizer.target_token(target)
    if task == "classify":
        return lambda texts: [[(answer.label, True)] for answer in model.classify(texts)]

    def generate(texts: list[str]) -> list[list[Answer]]:
        answers = model.generate(texts, options, source_language=source, target_language=target)
        return [[(answer.text, answer.finished) for answer in each] for each in answers]

    return generate


def _safe(
    answer: Callable[[list[str]], list[list[Answer]]],
    group: Lines,
    skipped: SkippedLines,
    path: Path,
) -> Sequence[list[Answer]]:
    """The answers; a text that the model does not take is counted and has none."""
    if not group:
        return []
    try:
        return answer([text for _, text in group])
    except (InputError, CapacityError) as error:
        if len(group) > 1:
            return [each for line in group for each in _safe(answer, [line], skipped, path)]
        skipped.counts[REFUSED] = skipped.counts.get(REFUSED, 0) + 1
        skipped.first.append(f"{path}:{group[0][0]}: {error}")
        return [[]]


def _rows(
    group: Lines, answers: Sequence[list[Answer]], suffix: str, skipped: SkippedLines, path: Path
) -> Iterator[str]:
    """Lines of the output, for all answers that teach something."""
    for (number, text), text_answers in zip(group, answers, strict=True):
        for answer, ended in text_answers:
            if not answer.strip():
                skipped.add(path, number, EMPTY)
            elif not ended:
                skipped.add(path, number, UNFINISHED)
            else:
                yield _row(text, answer, suffix)


def _row(text: str, answer: str, suffix: str) -> str:
    """A line of the output. In .tsv tabs and line ends inside a text become spaces."""
    if suffix == ".jsonl":
        return json.dumps({"input": text, "reference": answer}, ensure_ascii=False) + "\n"
    return "\t".join(re.sub(r"[\t\n\r]+", " ", part) for part in (text, answer)) + "\n"


def _fingerprint(model: Model, texts: Path, options: DecodeOptions, languages: Any) -> str:
    """What has to be the same for a second call to go on."""
    try:
        manifest = (model.bundle.path / MANIFEST).read_bytes()
        size = texts.stat().st_size
    except OSError as error:
        raise TrainingError(f"{texts}: {error.strerror or error}") from error
    facts = [str(texts.resolve()), size, repr(options), languages]
    return hashlib.sha256(manifest + json.dumps(facts).encode()).hexdigest()
