"""What a user gives to calibrate on and to measure with: texts, or audio clips, with references."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeAlias

from seq2edge.errors import InputError

TRANSCRIPTS = ("transcripts.tsv", "transcripts.txt")
Clips: TypeAlias = dict[str, Path]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """A text or the path of a clip; the reference is a translation, a transcript or a label."""

    input: str | Path
    reference: str | None = None


def read_examples(path: str | Path, task: str) -> list[Example]:
    """Examples for a model of that task (a manifest's `task`).

    A text file has one example a line, and after a tab its reference. A folder holds clips (*.wav)
    and where there are references a file `transcripts.tsv` of lines `name<tab>text`. Audio is not
    read here. Raises InputError for what is missing, empty, of another task or inconsistent.
    """
    path = Path(path)
    if task == "transcribe":
        return _read_clips(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder, this model reads text: give a file with a text a line")
    return _read_texts(path)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error
    lines = [line.strip("\r\n") for line in text.split("\n")]
    return [line for line in lines if line.strip()]


def _read_texts(path: Path) -> list[Example]:
    rows = [line.split("\t") for line in _lines(path)]
    if not rows:
        raise InputError(f"{path}: holds no text")
    columns = len(rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != columns or columns > 2:
            raise InputError(
                f"{path}: text {number} has {len(row)} columns, the first has {columns}; "
                "give a text a line, or a text, a tab and its reference"
            )
    return [Example(input=row[0], reference=row[1] if columns == 2 else None) for row in rows]


def _read_clips(path: Path) -> list[Example]:
    if not path.is_dir():
        raise InputError(f"{path}: no folder, this model reads sound: give a folder of *.wav files")
    clips = {clip.stem: clip for clip in sorted(path.glob("*.wav"))}
    if not clips:
        raise InputError(f"{path}: holds no *.wav file")
    listed = next((path / name for name in TRANSCRIPTS if (path / name).is_file()), None)
    if listed is None:
        return [Example(input=clip) for clip in clips.values()]
    texts = _read_transcripts(listed)
    for names, fact in (
        (clips.keys() - texts, "no transcript of"),
        (texts - clips.keys(), "no clip"),
    ):
        if names:
            raise InputError(f"{listed}: {fact} {', '.join(sorted(names)[:5])}")
    return [Example(input=clip, reference=texts[name]) for name, clip in clips.items()]


def _read_transcripts(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        name, tab, text = line.partition("\t")
        if not tab:
            raise InputError(f"{path}: line {number} has no tab between name and text")
        texts[name.removesuffix(".wav")] = text
    return texts
