"""What the check of a bundle's graphs adds to the time that loading takes.

Every round loads each bundle twice, with the check and without, so that a noisy machine disturbs
both alike: in a process that has loaded it before, or with `--fresh` in new ones, imports included.
Prints medians of milliseconds by the clock and of the CPU, and the median of the rounds' ratios.

    python benchmarks/load_check.py whole short [--rounds 15] [--fresh]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.bundle.manifest import GraphRecord
from seq2edge.runtime.backends import onnxruntime


def unchecked(bundle: Bundle, record: GraphRecord) -> Path:
    """What the check answers, without it."""
    return bundle.file(record.file)


def load(bundle: str, threads: int, *, check: bool) -> None:
    """Load it, with the check or without."""
    replaced = onnxruntime.checked_graph if check else unchecked
    with mock.patch.object(onnxruntime, "checked_graph", replaced):
        seq2edge.load(bundle, device="cpu", threads=threads)


def start(bundle: str, threads: int, *, check: bool) -> None:
    """The same in a process of its own."""
    command = [sys.executable, __file__, bundle, "--threads", str(threads), "--worker"]
    subprocess.run([*command, "checked" if check else "unchecked"], check=True)


def measure(run: Callable[..., None], bundle: str, threads: int, *, check: bool) -> list[float]:
    """Milliseconds by the clock and of the CPU, in this process and those that it started."""
    clock, before = time.perf_counter(), used()
    run(bundle, threads, check=check)
    return [1000 * (time.perf_counter() - clock), 1000 * (used() - before)]


def used() -> float:
    """Seconds of the CPU that this process and its children have had."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def main() -> None:
    """Load in turn, and print what the check takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--worker", choices=("checked", "unchecked"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        load(arguments.bundles[0], arguments.threads, check=arguments.worker == "checked")
        return
    run = start if arguments.fresh else load
    for bundle in arguments.bundles:
        run(bundle, arguments.threads, check=True)  # whatever happens at the first call only
        rounds = [
            [measure(run, bundle, arguments.threads, check=check) for check in (True, False)]
            for _ in range(arguments.rounds)
        ]
        for number, kind in enumerate(("clock", "CPU")):
            with_check, without = (
                statistics.median(times[which][number] for times in rounds) for which in (0, 1)
            )
            ratio = statistics.median(one[number] / other[number] for one, other in rounds)
            print(
                f"{Path(bundle).name:<24}{kind:<7}{with_check:8.1f} ms with, {without:8.1f} ms "
                f"without the check, {100 * ratio - 100:+.1f} %"
            )


if __name__ == "__main__":
    main()
