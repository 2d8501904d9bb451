"""The builder's progress and its cancellation, with a builder that only counts."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from seq2edge.export.tensorrt.builder import run_builder


class Library:
    """Stands in for TensorRT's module."""

    class IProgressMonitor:
        """What monitors derive from."""


class Config:
    """Stands in for a builder's configuration."""

    progress_monitor = None


class Builder:
    """Two nested phases, twenty steps each; `pause` seconds a step."""

    def __init__(self, pause=0.0, error=None):
        self.pause, self.error, self.steps = pause, error, 0

    def build_serialized_network(self, network, config):
        """Stops where the monitor says so, as TensorRT's does."""
        monitor = config.progress_monitor
        monitor.phase_start("outer", None, 20)
        for i in range(20):
            monitor.phase_start(f"inner {i}", "outer", 5)
            for j in range(5):
                time.sleep(self.pause)
                self.steps += 1
                if self.error:
                    raise self.error
                if not monitor.step_complete(f"inner {i}", j):
                    return None
            monitor.phase_finish(f"inner {i}")
            if not monitor.step_complete("outer", i):
                return None
        monitor.phase_finish("outer")
        return b"plan"


def test_progress_runs_forward_to_the_end():
    """Steps of an inner phase are parts of a step of the outer one."""
    parts = []
    builder = Builder(pause=0.01)
    assert run_builder(Library, builder, None, Config(), parts.append) == b"plan"
    assert parts == sorted(parts)
    assert len(set(parts)) > 3
    assert 0 < parts[0] < 0.5
    assert parts[-1] == pytest.approx(1.0)


def test_an_interruption_stops_the_builder_at_its_next_step():
    """No exception reaches it, and it is gone when KeyboardInterrupt arrives."""
    builder = Builder(pause=0.05)
    before = signal.getsignal(signal.SIGINT)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run_builder(Library, builder, None, Config())
    assert 0 < builder.steps < 100
    assert "tensorrt-builder" not in {thread.name for thread in threading.enumerate()}
    assert signal.getsignal(signal.SIGINT) is before


def test_errors_of_the_builder_are_the_callers():
    """With their own type."""
    with pytest.raises(MemoryError):
        run_builder(Library, Builder(error=MemoryError()), None, Config())


def test_a_build_in_another_thread_leaves_signals_alone():
    """Only the main thread may set handlers."""
    found = []
    work = threading.Thread(
        target=lambda: found.append(run_builder(Library, Builder(), None, Config()))
    )
    work.start()
    work.join()
    assert found == [b"plan"]
