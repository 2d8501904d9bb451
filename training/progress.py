"""How far a training is, as lines."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from seq2edge.files.progress import Say


class ProgressLines(Callback):
    """Says steps done of all, the loss and the time left once a second, and every check's loss.

    The former lines begin with a carriage return: the next line takes their place on a screen.
    """

    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say
        self._said = 0.0
        self._began: tuple[float, int] | None = None

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any, **named: Any) -> None:
        """Say the step."""
        del arguments, named
        now, done = time.monotonic(), trainer.global_step
        self._began = self._began or (now, done)
        if now - self._said < 1.0:
            return
        self._said = now
        began, first = self._began
        rate = (done - first) / (now - began) if now > began else 0.0
        left = f", {(trainer.max_steps - done) / rate / 60:.0f} min left" if rate else ""
        loss = trainer.callback_metrics.get("loss")
        shown = f", loss {float(loss):.3f}" if loss is not None else ""
        self._say(f"\rstep {done:,} of {trainer.max_steps:,}{shown}, {rate:.1f} steps/s{left}")

    def on_validation_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        """Say the check's loss."""
        del arguments
        loss = trainer.callback_metrics.get("validation_loss")
        if loss is not None:
            self._say(f"step {trainer.global_step:,}: validation loss {float(loss):.4f}")
