"""How long requests wait at a number of machines: queues simulated from measured times.

Measures on this machine how many tokens a second a bundle generates with 1, 2, 4 ... rows at a
time, and how long its answers are; then lets requests for those answers come at random (Poisson) to
some machines of that speed. Each decodes up to `--rows` of them at once, which share its speed, and
lets the others wait in line; a new request goes where the fewest are. Prints for each rate the
seconds to the whole answer, and the share of time in which a machine works.

    python benchmarks/queueing.py BUNDLE TEXTS [--rows 8] [--machines 1 2 4] [--threads 2]
        [--rates 1 2 4 8] [--price 0.10]

`--price` is that of a machine for an hour: with it the cost of a million tokens is printed.
"""

from __future__ import annotations

import argparse
import collections
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import seq2edge
from seq2edge.runtime.model import Model


def measure(model: Model, texts: Sequence[str], rows: int) -> tuple[list[float], list[int]]:
    """Tokens a second with 1 to `rows` rows at a time, and the tokens of each answer."""
    speeds: dict[int, float] = {}
    lengths: list[int] = []
    model.generate(texts[:1])  # the first call of all sets things up
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size < rows] + [rows]
    for size in sizes:
        begin = time.perf_counter()
        answers = list(model.generate_each(texts, rows=size))
        seconds = time.perf_counter() - begin
        lengths = [len(texts[0].ids) for texts in answers]
        speeds[size] = sum(lengths) / seconds
    return [between(speeds, size) for size in range(1, rows + 1)], lengths


def between(speeds: dict[int, float], size: int) -> float:
    """The speed with so many rows, on the line between those that were measured."""
    below = max(each for each in speeds if each <= size)
    above = min(each for each in speeds if each >= size)
    part = (size - below) / (above - below) if above > below else 0.0
    return speeds[below] + part * (speeds[above] - speeds[below])


class Machine:
    """Requests that share its speed, and those that wait; by the tokens that each still needs."""

    def __init__(self, speeds: Sequence[float]) -> None:
        self.speeds = speeds
        self.running: list[list[float]] = []  # tokens left, and when it came
        self.waiting: collections.deque[list[float]] = collections.deque()
        self.busy = 0.0

    def __len__(self) -> int:
        return len(self.running) + len(self.waiting)

    def next_end(self) -> float:
        """Seconds until the first of them ends."""
        if not self.running:
            return float("inf")
        share = self.speeds[len(self.running) - 1] / len(self.running)
        return min(left for left, _ in self.running) / share

    def submit(self, tokens: float, now: float) -> None:
        """Begin a request, or let it wait."""
        self.waiting.append([tokens, now])
        self._admit()

    def run(self, seconds: float, now: float, ended: Callable[[float], object]) -> None:
        """Let time pass, up to `next_end`; tells how long each took that ends `now`."""
        if self.running:
            share = self.speeds[len(self.running) - 1] / len(self.running)
            self.busy += seconds
            for request in self.running:
                request[0] -= seconds * share
            for _, came in (each for each in self.running if each[0] <= 1e-9):
                ended(now - came)
            self.running = [each for each in self.running if each[0] > 1e-9]
            self._admit()

    def _admit(self) -> None:
        while self.waiting and len(self.running) < len(self.speeds):
            self.running.append(self.waiting.popleft())


def simulate(
    speeds: Sequence[float],
    lengths: Sequence[float],
    rate: float,
    machines: int,
    *,
    requests: int = 20_000,
    seed: int = 0,
) -> tuple[list[float], float]:
    """Seconds that requests took, sorted, and the share of time in which a machine works.

    The first tenth, which finds the machines empty, does not count.
    """
    draw = random.Random(seed)
    boxes = [Machine(speeds) for _ in range(machines)]
    took: list[float] = []
    now, submitted = 0.0, 0
    arrival = draw.expovariate(rate)
    while len(took) < requests:
        step = min([arrival - now, *(box.next_end() for box in boxes)])
        now += step
        for box in boxes:
            box.run(step, now, took.append)
        if now >= arrival - 1e-12 and submitted < requests:
            min(boxes, key=len).submit(max(1, draw.choice(lengths)), now)
            submitted += 1
            arrival = now + draw.expovariate(rate) if submitted < requests else float("inf")
    share = sum(box.busy for box in boxes) / (now * machines)
    return sorted(took[requests // 10 :]), share


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--price", type=float)
    options = parser.parse_args()
    model = seq2edge.load(options.bundle, device="cpu", threads=options.threads)
    texts = options.texts.read_text(encoding="utf-8").split("\n")
    speeds, lengths = measure(model, [text for text in texts if text.strip()], options.rows)
    for size in (size for size in (1, 2, 4, 8, 16, 32, 64) if size <= options.rows):
        print(f"{size:3} rows at a time: {speeds[size - 1]:9,.0f} tokens/s")
    mean = statistics.fmean(lengths)
    most = speeds[-1] / mean
    print(f"answers of {mean:.1f} tokens: one machine does at most {most:.1f} requests/s")
    if options.price is not None:
        cost = options.price / 3600 / speeds[-1] * 1e6
        print(f"at {options.price:.2f} an hour a million tokens costs at least {cost:.4f}")
    print("machines  requests/s   busy    p50 s    p95 s    p99 s")
    for machines in options.machines:
        for rate in options.rates or [machines * most * part for part in (0.5, 0.7, 0.8, 0.9)]:
            if rate >= machines * most:
                print(f"{machines:8}{rate:12.1f}   more than they do: the queue grows for ever")
                continue
            took, busy = simulate(speeds, lengths, rate, machines)
            p50, p95, p99 = (took[int(len(took) * part)] for part in (0.5, 0.95, 0.99))
            print(f"{machines:8}{rate:12.1f}{busy:7.0%}{p50:9.3f}{p95:9.3f}{p99:9.3f}")


if __name__ == "__main__":
    main()
