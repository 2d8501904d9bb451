"""A model that decodes as fast as a test lets it."""

from __future__ import annotations

import threading

from seq2edge.runtime.fake import FakeBackend, random_answer

SECONDS = 40  # longer than any test waits for what has to happen without a step


class GatedBackend(FakeBackend):
    """A fake that steps as often as it may."""

    def __init__(self) -> None:
        super().__init__(random_answer(96))
        self.gate = threading.Semaphore(0)

    def step(self, tokens, new_length, cache):
        """See Backend."""
        assert self.gate.acquire(timeout=SECONDS)
        return super().step(tokens, new_length, cache)

    def open(self, steps=100_000):
        """Let it go on."""
        self.gate.release(steps)

    @property
    def steps(self):
        """How many it did."""
        return sum(call.name == "step" for call in self.calls)
