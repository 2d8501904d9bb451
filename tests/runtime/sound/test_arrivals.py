"""Sound is read while something else is done, and a microphone that is not there is a line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.errors import BackendError, InputError
from seq2edge.runtime.sound.arrivals import Arrivals, microphone


def test_what_has_arrived_is_taken_at_once() -> None:
    """In order, all of it, then nothing; and when it came is known."""
    blocks = [np.full(1600, number, np.float32) for number in range(5)]

    def slowly() -> Iterator[NDArray[np.float32]]:
        yield from blocks[:3]
        time.sleep(0.2)
        yield from blocks[3:]

    arrivals = Arrivals(slowly())
    taken = []
    while (samples := arrivals.take()) is not None:
        taken.append(samples)
    np.testing.assert_array_equal(np.concatenate(taken), np.concatenate(blocks))
    assert arrivals.time_of(0.45) - arrivals.time_of(0.25) > 0.15
    assert arrivals.time_of(9.0) == arrivals.time_of(0.5)


def test_what_ends_a_source_is_raised_behind_its_sound() -> None:
    """An error of the reading thread is one of who takes."""

    def broken() -> Iterator[NDArray[np.float32]]:
        yield np.zeros(10, np.float32)
        raise InputError("talk.wav: the file is cut short")

    arrivals = Arrivals(broken())
    taken = arrivals.take()
    assert taken is not None
    assert len(taken) == 10
    with pytest.raises(InputError, match="cut short"):
        arrivals.take()


class Stream:
    """A microphone that hears ones, and loses sound at its third block."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.count, self.closed = settings, 0, False
        Stream.last = self

    last: Stream

    def start(self) -> None:
        """Begin to hear."""

    def read(self, frames: int) -> tuple[NDArray[np.float32], bool]:
        """So many frames, and whether some were lost."""
        self.count += 1
        return np.ones((frames, 1), np.float32), self.count == 3

    def close(self) -> None:
        """Hear no more."""
        self.closed = True


def test_a_microphone_is_heard_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name or number; sound that was lost is told, and the microphone let go."""
    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=Stream))
    blocks = microphone("3")
    assert len(next(blocks)) == len(next(blocks)) == 1600
    assert Stream.last.settings["device"] == 3
    with pytest.raises(InputError, match="microphone: sound was lost, the model is slower"):
        next(blocks)
    assert Stream.last.closed
    next(microphone("USB"))
    assert Stream.last.settings == {
        "samplerate": 16000,
        "channels": 1,
        "dtype": "float32",
        "device": "USB",
    }


def test_no_microphone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the library, nor a device."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(BackendError, match=r"install seq2edge\[microphone\] and PortAudio"):
        next(microphone())

    def refuse(**_: Any) -> None:
        raise RuntimeError("Error querying device -1")

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=refuse))
    with pytest.raises(BackendError, match="microphone: Error querying device -1"):
        next(microphone())
