"""What the processes of a group do in tests; they import it by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seq2edge.errors import TrainingError

Say = Callable[[str], None]


def rank() -> int:
    """This process's number in the group."""
    return int(os.environ["RANK"])


def speak(say: Say, words: str) -> str:
    """Every process says the words and returns them with its number."""
    say(words)
    return f"{words} {rank()}"


def fail(say: Say, message: str) -> None:
    """The second process raises; the first waits for it without end."""
    if rank():
        raise TrainingError(message)
    time.sleep(600)


def crash(say: Say) -> None:
    """A mistake in the second process, not an error that a user causes."""
    if rank():
        os._exit(3)
    time.sleep(600)


def die(say: Say, folder: Path) -> None:
    """The second process is killed; the first says where it is and waits without end."""
    if rank():
        while not (folder / "0").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "0").write_text(str(os.getpid()))
    time.sleep(600)


def die_in_training(say: Say, step: int, **arguments: Any) -> Any:
    """A training whose second process is killed before `step`."""
    from seq2edge.training import train
    from seq2edge.training.training_module import TrainingModule

    draw = TrainingModule.on_train_batch_start

    def draw_or_die(self: TrainingModule, batch: Any, batch_idx: int) -> None:
        if rank() and self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        draw(self, batch, batch_idx)

    TrainingModule.on_train_batch_start = draw_or_die  # type: ignore[method-assign]
    return train._train(say=say, **arguments)
