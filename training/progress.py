"""The bar of a training, on stderr."""

from __future__ import annotations

import sys
import time
from typing import Any

import click
import lightning as L
from lightning.pytorch.callbacks import ProgressBar


class Progress(ProgressBar):
    """Steps done of all, the loss, and the time left; a line for every check."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps
        self._shown = 0.0
        self._began: tuple[float, int] | None = None
        self._enabled = True
        self._screen = sys.stderr.isatty()

    def disable(self) -> None:
        """See Lightning: called in all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """See Lightning."""
        self._enabled = True

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any, **named: Any) -> None:
        """Show the step, at most once a second."""
        del arguments, named
        now = time.monotonic()
        self._began = self._began or (now, trainer.global_step)
        if not self._enabled or now - self._shown < (1.0 if self._screen else 30.0):
            return
        self._shown = now
        began, first = self._began
        done = trainer.global_step
        rate = (done - first) / (now - began) if now > began else 0.0
        left = f", {(trainer.max_steps - done) / rate / 60:.0f} min left" if rate else ""
        loss = trainer.callback_metrics.get("loss")
        shown = f", loss {float(loss):.3f}" if loss is not None else ""
        line = f"step {done:,} of {trainer.max_steps:,}{shown}, {rate:.1f} steps/s{left}"
        click.echo(f"\r{line:<78}" if self._screen else line, nl=not self._screen, err=True)

    def on_validation_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        """Show the check's loss."""
        del arguments
        loss = trainer.callback_metrics.get("validation_loss")
        if self._enabled and loss is not None:
            line = f"step {trainer.global_step:,}: validation loss {float(loss):.4f}"
            click.echo(f"\r{line:<78}" if self._screen else line, err=True)
