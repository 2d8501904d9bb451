"""Sentences of mixed length: requests that come and go against batches that wait for their last.

Makes the OPUS-MT-sized random model of `decode_speed.py`, quantizes it to int8 and decodes 64
sources of 4 to 60 tokens, each up to about its source's length, in interleaved rounds: as one load
of the scheduler, and in batches of several sizes, sorted by length and not, each run until its
last row has ended. Prints tokens per second and how many times as fast the load is.

    python benchmarks/decode_load.py [--folder .cache/benchmark] [--beams 1] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from decode_speed import VOCAB, make_model

import seq2edge
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.runtime.model import Model
from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import decode

SENTENCES, SIZES, ROWS = 64, (16, 64), (32, 64)


def bundle_in(folder: Path, recipe: str) -> Path:
    """The quantized bundle, made where it is missing."""
    checkpoint, plain, small = folder / "marian", folder / "bundle", folder / recipe
    if not plain.exists():
        export_checkpoint(make_model(checkpoint), plain)
    if not small.exists():
        quantize_bundle(plain, small, recipe)
    return small


def make_requests(model: Model, beams: int) -> list[Request]:
    """Random sources; an answer is as long as the limit, since a random model ends nowhere."""
    rng = np.random.default_rng(0)
    made = []
    for length in rng.integers(4, 61, SENTENCES).tolist():
        new = max(2, int(length * rng.uniform(0.8, 1.3)))
        options = model.options.replace(
            num_beams=beams, max_new_tokens=new, min_new_tokens=new, max_length=None
        )
        made.append(model.request(rng.integers(1, VOCAB - 1, length).tolist(), options))
    return made


def in_batches(model: Model, requests: list[Request], size: int) -> int:
    """Tokens of all, batch after batch, none of which anything joins or leaves."""
    backend, count = model.backend, 0
    backend.running = False
    try:
        for start in range(0, len(requests), size):
            part = requests[start : start + size]
            results = decode(backend, part, rows=len(requests) * 4)
            count += sum(len(best[0].ids) for best in results)
    finally:
        backend.running = True
    return count


def as_load(model: Model, requests: list[Request], rows: int) -> int:
    """Tokens of all, as the scheduler takes them."""
    return sum(len(best[0].ids) for best in decode(model.backend, requests, rows=rows))


def main() -> None:
    """Time them all, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmark"))
    parser.add_argument("--recipe", default="int8-dynamic")
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    model = seq2edge.load(
        bundle_in(arguments.folder, arguments.recipe), device="cpu", threads=arguments.threads
    )
    beams = arguments.beams
    requests = make_requests(model, beams)
    by_length = sorted(requests, key=lambda request: len(request.source))
    tasks: dict[str, Callable[[], int]] = {
        f"load, {rows} rows": lambda rows=rows: as_load(model, requests, rows * beams)
        for rows in ROWS
    }
    for size in SIZES:
        tasks[f"batches of {size}"] = lambda size=size: in_batches(model, requests, size)
        tasks[f"batches of {size}, sorted"] = lambda size=size: in_batches(model, by_length, size)
    as_load(model, requests[:8], 8 * beams)  # whatever happens at the first call only
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(arguments.rounds):
        for name, task in tasks.items():
            begin = time.perf_counter()
            count = task()
            rates[name].append(count / (time.perf_counter() - begin))
    loads = {name: statistics.median(rates[name]) for name in tasks if name.startswith("load")}
    best = max(loads.values())
    print(f"{arguments.recipe}, {arguments.threads} threads, beams {beams}")
    for name in tasks:
        rate = statistics.median(rates[name])
        print(f"{name:26} {rate:8.0f} tokens/s   the best load is {best / rate:.2f}x as fast")


if __name__ == "__main__":
    main()
