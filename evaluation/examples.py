"""What a user gives to calibrate on and to measure with: texts, clips or images, with references.

Files may be compressed (.gz, .bz2, .xz).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seq2edge.errors import InputError
from seq2edge.evaluation.speech_times import SUFFIXES as OF_TIMES
from seq2edge.files.compressed import READ_ERRORS, content_suffix, open_bytes
from seq2edge.runtime.sound.suffixes import SOUNDS

TRANSCRIPTS = ("transcripts.tsv", "transcripts.txt")
# What the files of a task that reads none are called, and how their names end.
SIGNALS = {"transcribe": ("sound", "clip"), "read": ("images", "image")}
SUFFIXES = {
    "transcribe": SOUNDS,
    "read": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"),
}
KEYS = ("input", "reference", "references", "domain")  # of a JSON line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """A text, a pair, or the path of a clip or an image, with what is right for it.

    A reference is a translation, a transcript or a label; any of several is right. The domain is
    whatever results are to be told apart by.
    """

    input: str | Path | tuple[str, str]
    references: tuple[str, ...] = ()
    domain: str = ""
    # A file of what is said when in a recording, see `read_times`.
    times: Path | None = None


def read_examples(path: str | Path, task: str) -> list[Example]:
    """Examples for a model of that task (a manifest's `task`).

    - A text file has one example a line, and after a tab its reference.
    - A .jsonl file has an object a line: `input`, and where there are any `reference` (or
      `references`, a list of which any is right) and `domain`. The input of a model that reads
      sound or images is the path of a file, relative to this one; that of a classifier may be a
      list of two texts, which it reads as one.
    - A folder holds recordings (*.wav, *.flac, ...) or images (*.png, *.jpg, ...), and where there
      are references a file `transcripts.tsv` of lines `name<tab>text`; beside a recording may lie
      what is said when in it, in a .srt, .json or .tsv file of its name.

    Audio and images are not read here. Raises InputError for what is missing, empty, of another
    task or inconsistent.
    """
    path = Path(path)
    if path.is_dir():
        if task in SIGNALS:
            return _read_files(path, task)
        raise InputError(f"{path}: a folder, this model reads text: give a file with a text a line")
    if content_suffix(path) == ".jsonl":
        return _read_json(path, task)
    if task in SIGNALS:
        raise InputError(
            f"{path}: no folder, this model reads {SIGNALS[task][0]}: give a folder of "
            f"{_patterns(task)} files, or a .jsonl file that names them"
        )
    return _read_texts(path)


def _patterns(task: str) -> str:
    return " or ".join(f"*{suffix}" for suffix in SUFFIXES[task][:2])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1, without their ends."""
    try:
        with open_bytes(path) as file:
            data = file.read()
        text = data.decode("utf-8")
    except READ_ERRORS as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip("\r\n")


def _read_texts(path: Path) -> list[Example]:
    rows = [line.split("\t") for _, line in _lines(path)]
    if not rows:
        raise InputError(f"{path}: holds no text")
    columns = len(rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != columns or columns > 2:
            raise InputError(
                f"{path}: text {number} has {len(row)} columns, the first has {columns}; "
                "give a text a line, or a text, a tab and its reference"
            )
    return [Example(input=row[0], references=tuple(row[1:])) for row in rows]


def _read_json(path: Path, task: str) -> list[Example]:
    examples = [
        _from_json(line, f"{path}: line {number}", pairs=task == "classify")
        for number, line in _lines(path)
    ]
    if not examples:
        raise InputError(f"{path}: holds no example")
    if task not in SIGNALS:
        return examples
    files = [
        dataclasses.replace(example, input=path.parent / str(example.input)) for example in examples
    ]
    for example in files:
        if not Path(str(example.input)).is_file():
            raise InputError(f"{path}: no {SIGNALS[task][1]} {example.input}")
    return files


def _from_json(line: str, where: str, *, pairs: bool) -> Example:
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f'{where}: not an object, give {{"input": ..., "reference": ...}}')
    for key in values:
        if key not in KEYS:
            raise InputError(f"{where}: the key {key!r} is unknown, known: {', '.join(KEYS)}")
    if "reference" in values and "references" in values:
        raise InputError(f"{where}: has both reference and references, give one of them")
    references = [values["reference"]] if "reference" in values else values.get("references", [])
    texts = references if isinstance(references, list) else [None]
    source: Any = values.get("input")
    inputs = source if pairs and isinstance(source, list) and len(source) == 2 else [source]
    if not all(isinstance(text, str) for text in (*inputs, *texts)) or not inputs[0].strip():
        or_pair = " or a list of two" if pairs else ""
        raise InputError(f"{where}: needs a text{or_pair} as input, and texts as references")
    domain = values.get("domain", "")
    if not isinstance(domain, str):
        raise InputError(f"{where}: the domain {domain!r:.40} is no text")
    source = tuple(inputs) if len(inputs) > 1 else source
    return Example(input=source, references=tuple(references), domain=domain)


def _read_files(path: Path, task: str) -> list[Example]:
    """The clips or images of a folder, with what is said or written in them if a file tells it."""
    kind = SIGNALS[task][1]
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() not in SUFFIXES[task]:
            continue
        if file.stem in files:
            raise InputError(f"{path}: {files[file.stem].name} and {file.name} have one name")
        files[file.stem] = file
    if not files:
        raise InputError(f"{path}: holds no {_patterns(task)} file")
    listed = next((path / name for name in TRANSCRIPTS if (path / name).is_file()), None)
    times = {
        name: _times_of(file) if task == "transcribe" else None for name, file in files.items()
    }
    if listed is None:
        return [Example(input=file, times=times[name]) for name, file in files.items()]
    texts = _read_transcripts(listed, task)
    for names, fact in (
        (files.keys() - texts, "no transcript of"),
        (texts - files.keys(), f"no {kind}"),
    ):
        if names:
            raise InputError(f"{listed}: {fact} {', '.join(sorted(names)[:5])}")
    return [
        Example(input=file, references=(texts[name],), times=times[name])
        for name, file in files.items()
    ]


def _times_of(file: Path) -> Path | None:
    """The file beside a recording that says what is said when in it, if there is one."""
    beside = [file.with_suffix(suffix) for suffix in OF_TIMES]
    return next((path for path in beside if path.is_file()), None)


def _read_transcripts(path: Path, task: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in _lines(path):
        name, tab, text = line.partition("\t")
        if not tab:
            raise InputError(f"{path}: line {number} has no tab between name and text")
        suffix = Path(name).suffix
        known = suffix.lower() in SUFFIXES[task]
        texts[name.removesuffix(suffix) if known else name] = text
    return texts
