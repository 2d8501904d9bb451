"""Lines that a training says about its steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from seq2edge.training import progress
from seq2edge.training.progress import ProgressLines


def test_steps_are_said_once_a_second_and_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of steps begin with a carriage return; rate and time left are those of this start."""
    now, lines = 100.0, list[str]()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    bar = ProgressLines(lines.append)
    metrics = {"loss": torch.tensor(2.5), "validation_loss": torch.tensor(1.25)}
    for step, seconds in ((10, 0.0), (11, 0.5), (20, 2.0)):
        now = 100.0 + seconds
        trainer = SimpleNamespace(global_step=step, max_steps=1220, callback_metrics=metrics)
        bar.on_train_batch_end(trainer)  # type: ignore[arg-type]
    bar.on_validation_end(trainer)  # type: ignore[arg-type]
    assert lines == [
        "\rstep 10 of 1,220, loss 2.500, 0.0 steps/s",
        "\rstep 20 of 1,220, loss 2.500, 5.0 steps/s, 4 min left",
        "step 20: validation loss 1.2500",
    ]
