"""Recordings with transcripts, as `seq2edge quantize --evaluation` takes them.

    python examples/speech.py prompts .cache/prompts    # prints the folder

`librivox`: five sentences read from books, 16 kHz. `prompts`: telephone prompts of four words or
more, 8 kHz, every fourth one in the list's order, 50 of them.
"""

from __future__ import annotations

import gzip
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from weights import FetchError, fetch

PROMPTS = 50


def prepare(name: str, folder: Path) -> Path:
    """Fill `folder` with clips and their transcripts. Raises FetchError with the reason."""
    clips = {"librivox": _librivox, "prompts": _prompts}
    if name not in clips:
        raise FetchError(f"{name}: unknown, known: {', '.join(clips)}")
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for clip, text in clips[name]():
        shutil.copyfile(clip, folder / clip.name)
        lines.append(f"{clip.name}\t{text}\n")
    (folder / "transcripts.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


def _librivox() -> Iterator[tuple[Path, str]]:
    source = fetch("librivox")
    for line in (source / "transcription").read_text(encoding="utf-8").splitlines():
        text, name = re.fullmatch(r"(?:<s> )?(.*?)(?: </s>)? \((.*)\)", line).groups()
        yield source / f"{name}.wav", text


def _prompts() -> Iterator[tuple[Path, str]]:
    listed = fetch("prompt-texts") / "core-sounds-en.txt.gz"
    sounds = fetch("prompt-clips")
    found = []
    for line in gzip.decompress(listed.read_bytes()).decode("utf-8").splitlines():
        name, colon, text = line.partition(": ")
        clip = sounds / f"{name}.wav"
        # Notes in brackets are no speech; a name with a slash is another folder's.
        if colon and "[" not in text and len(text.split()) >= 4 and clip.is_file():
            found.append((clip, text.strip()))
    yield from found[::4][:PROMPTS]


if __name__ == "__main__":
    try:
        print(prepare(sys.argv[1], Path(sys.argv[2])))
    except FetchError as error:
        sys.exit(f"speech: {error}")
