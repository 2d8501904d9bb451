"""Running TensorRT's builder so that its progress is seen and it can be stopped.

The builder runs in a thread of its own: the caller's thread stays free to be interrupted, and an
interruption becomes the builder's own cancellation at its next step, never an exception inside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from typing import Any

from seq2edge.files.progress import PartProgress

POLL = 0.1  # seconds between looks at the thread


def run_builder(
    trt: Any, builder: Any, network: Any, config: Any, progress: PartProgress = lambda _: None
) -> Any:
    """What `build_serialized_network` gives; None where it made nothing.

    Raises KeyboardInterrupt when the user interrupts, after the builder has stopped.
    """
    phases = _Phases(progress=progress)
    monitor = _monitor(trt, phases)
    config.progress_monitor = monitor
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(builder.build_serialized_network(network, config))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, name="tensorrt-builder", daemon=True)
    with _interruptions(phases):
        thread.start()
        while thread.is_alive():
            thread.join(POLL)
            phases.show()
    if phases.cancelled:
        raise KeyboardInterrupt
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def _interruptions(phases: _Phases) -> Iterator[None]:
    """An interruption is noted while the builder works: an exception would leave it running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(*_: Any) -> None:
        phases.cancelled = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclasses.dataclass
class _Phases:
    """The phases that the builder is in, the outermost first, and how far each is."""

    progress: PartProgress
    cancelled: bool = False
    lock: Any = dataclasses.field(default_factory=threading.Lock)
    done: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)  # steps, of all
    shown: float = 0.0

    def enter(self, name: str, steps: int) -> None:
        with self.lock:
            self.done[name] = (0, max(1, steps))

    def step(self, name: str, step: int) -> bool:
        with self.lock:
            if name in self.done:
                self.done[name] = (step + 1, self.done[name][1])
        return not self.cancelled

    def leave(self, name: str) -> None:
        with self.lock:
            if name in self.done and len(self.done) > 1:
                del self.done[name]

    def part(self) -> float:
        """Each phase refines the step that the one around it is in."""
        part, share = 0.0, 1.0
        with self.lock:
            for steps, total in self.done.values():
                part += share * min(steps, total) / total
                share /= total
        return min(1.0, part)

    def show(self) -> None:
        """Tell the progress; it never runs back."""
        self.shown = max(self.shown, self.part())
        self.progress(self.shown)


def _monitor(trt: Any, phases: _Phases) -> Any:
    """TensorRT's view of the phases."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(
            self,
            phase_name: str,
            parent_phase: str | None,  # noqa: ARG002 - phases are entered in order
            num_steps: int,
        ) -> None:
            phases.enter(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.leave(phase_name)

    return Monitor()
