"""Sound that arrives while something else is done: a thread that reads, and when it did."""

from __future__ import annotations

import bisect
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from seq2edge.errors import BackendError, InputError, foreign_errors
from seq2edge.runtime.sound.resampling import SAMPLING_RATE, Samples

BLOCK = 0.1  # seconds that are read at a time
_WAITING = 600  # blocks that wait for whoever takes them; a pipe waits then, a microphone fails


class Arrivals:
    """The blocks of 16 kHz samples of an iterator, taken whenever there is time for them."""

    def __init__(self, blocks: Iterator[Samples]) -> None:
        self._blocks = blocks
        self._queue: queue.Queue[Samples | BaseException | None] = queue.Queue(_WAITING)
        self._ends: list[int] = []  # how many samples had arrived, and when
        self._times: list[float] = []
        threading.Thread(target=self._run, name="seq2edge-sound", daemon=True).start()

    def _run(self) -> None:
        count = 0
        try:
            for block in self._blocks:
                if len(block):
                    count += len(block)
                    self._times.append(time.monotonic())
                    self._ends.append(count)
                    self._queue.put(block)
        except BaseException as error:  # noqa: BLE001 - raised where the sound is taken
            self._queue.put(error)
        else:
            self._queue.put(None)

    def take(self) -> Samples | None:
        """All samples that have arrived, one at least; None at the end. Raises what ended it."""
        blocks: list[Samples] = []
        while True:
            if blocks and self._queue.empty():
                return np.concatenate(blocks)
            block = self._queue.get()
            if isinstance(block, np.ndarray):
                blocks.append(block)
            elif blocks:
                self._queue.put(block)
                return np.concatenate(blocks)
            elif block is None:
                return None
            else:
                raise block

    def time_of(self, seconds: float) -> float:
        """When this place of the sound had arrived, on the clock of `time.monotonic`."""
        place = bisect.bisect_left(self._ends, round(seconds * SAMPLING_RATE))
        return self._times[min(place, len(self._times) - 1)]


def microphone(name: str | None = None) -> Iterator[Samples]:
    """Blocks of what a microphone hears, at 16 kHz, until nobody asks for more.

    `name` is a part of its name or its number; None: the system's own choice. Raises BackendError
    where there is none or a library is missing, and InputError where sound was lost.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: it is there, and PortAudio is not
        raise BackendError(
            f"microphone: not usable here ({error}); install seq2edge[microphone] and PortAudio"
        ) from error
    device: Any = int(name) if name is not None and name.isdecimal() else name
    with foreign_errors(BackendError, "microphone"):
        stream = sounddevice.InputStream(
            samplerate=SAMPLING_RATE, channels=1, dtype="float32", device=device
        )
        stream.start()
    try:
        while True:
            with foreign_errors(BackendError, "microphone"):
                samples, lost = stream.read(round(BLOCK * SAMPLING_RATE))
            if lost:
                raise InputError("microphone: sound was lost, the model is slower than speech")
            yield np.array(samples[:, 0], np.float32)
    finally:
        stream.close()
