"""Voice commands: listen, cut at pauses, transcribe, do what was said.

    arecord -q -t raw -f S16_LE -c 1 -r 16000 | python examples/embedding/voice_commands.py BUNDLE
    python examples/embedding/voice_commands.py BUNDLE examples/librivox.wav

Without WAVE files it reads a microphone's samples from standard input: 16 kHz, 16 bits, mono.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

import seq2edge
from seq2edge.errors import Seq2EdgeError
from seq2edge.runtime.sound.recording import read_samples
from seq2edge.runtime.sound.resampling import SAMPLING_RATE

BLOCK = SAMPLING_RATE // 10  # samples that are listened to at a time
LOUD = 0.01  # root mean square of a block of speech; full scale is 1
PAUSE = 6  # quiet blocks that end a command
LONGEST = 250  # blocks; the model hears 30 s at a time
ALIKE = 0.7  # from 0 to 1, how much of a command must have been heard right

Samples = NDArray[np.float32]


def blocks_of(stream: BinaryIO) -> Iterator[Samples]:
    """Blocks of a microphone's 16-bit samples."""
    while data := stream.read(2 * BLOCK):
        yield np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768


def blocks_of_file(path: str) -> Iterator[Samples]:
    """Blocks of a recording, and a pause."""
    samples = read_samples(path)
    for start in range(0, len(samples), BLOCK):
        yield samples[start : start + BLOCK]
    yield from [np.zeros(BLOCK, np.float32)] * PAUSE


def utterances(blocks: Iterable[Samples]) -> Iterator[Samples]:
    """What was said between pauses, with the block before it: words begin softly."""
    said: list[Samples] = []
    before, quiet = np.zeros(0, np.float32), 0
    for block in blocks:
        loud = float(np.sqrt(np.mean(block**2))) > LOUD
        if said or loud:
            said = [*said, block] if said else [before, block]
            quiet = 0 if loud else quiet + 1
        if said and (quiet == PAUSE or len(said) == LONGEST):
            yield np.concatenate(said)
            said, quiet = [], 0
        before = block


def closest(heard: str, commands: Iterable[str]) -> str | None:
    """The command that was meant, None where none is near."""
    words = " ".join(re.findall(r"\w+", heard.lower()))
    near = difflib.get_close_matches(words, list(commands), n=1, cutoff=ALIKE)
    return near[0] if near else None


def listen(
    model: seq2edge.Model, blocks: Iterable[Samples], commands: dict[str, Callable[[], None]]
) -> None:
    """Do what is said, until the sound ends."""
    options = model.options.replace(max_new_tokens=30, max_length=None)
    for samples in utterances(blocks):
        heard = model.transcribe([samples], options)[0][0].text
        command = closest(heard, commands)
        print(f"{heard.strip()!r}: {command or 'no command'}", file=sys.stderr)
        if command is not None:
            commands[command]()


def main(bundle: str, *paths: str) -> None:
    """With two commands that say what they would do."""
    commands = {
        "turn on the light": lambda: print("light on", flush=True),
        "turn off the light": lambda: print("light off", flush=True),
    }
    model = seq2edge.load(bundle)
    for blocks in map(blocks_of_file, paths) if paths else [blocks_of(sys.stdin.buffer)]:
        listen(model, blocks, commands)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Seq2EdgeError as error:
        sys.exit(f"voice_commands: {error}")
