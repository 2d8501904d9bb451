"""Time of a decoding step of several bundles, each in a process of its own, in turn.

Every round asks each process once, so that a noisy machine disturbs all alike. Prints the median
milliseconds of a step, and the median of the rounds' ratios to the first bundle. Of clips and
images a step is the decoder's alone.

    python benchmarks/bundles_in_turn.py whole short [--threads 2] [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

import seq2edge

SOURCE, NEW = 24, 64
CASES = ((1, 1), (8, 1), (1, 4))  # inputs and beams
Run: TypeAlias = Callable[[int, int], float]  # of such a case, seconds


def answer(bundle: str, threads: int) -> None:
    """Read a case a line, write the seconds that it took."""
    model = seq2edge.load(bundle, device="cpu", threads=threads)
    run = decoder_of(model) if model.dims.reads_signal else generation_of(model)
    for line in sys.stdin:
        print(run(*map(int, line.split())), flush=True)


def generation_of(model: seq2edge.Model) -> Run:
    """Texts of SOURCE tokens, to NEW tokens that are searched for."""
    vocab = model.dims.source_vocab or model.dims.vocab
    sources = np.random.default_rng(0).integers(1, vocab, (8, SOURCE)).tolist()
    options = model.options.greedy(max_new_tokens=NEW, ends=False)

    def run(batch: int, beams: int) -> float:
        chosen = options.replace(num_beams=beams)
        begin = time.perf_counter()
        model.generate_ids(sources[:batch], chosen)
        return time.perf_counter() - begin

    return run


def decoder_of(model: seq2edge.Model) -> Run:
    """Clips or images, whose encoder would hide the steps: NEW of these alone, without a search."""
    backend, dims = model.backend, model.dims
    sources = np.random.default_rng(0).standard_normal((8, *dims.source_shape), np.float32)

    def run(batch: int, beams: int) -> float:
        memory = backend.encode(sources[:batch], np.full(batch, dims.source_positions))
        cache = backend.start(memory, batch, NEW + 4)
        backend.step(np.ones((batch, 4), np.int64), np.full(batch, 4), cache)
        if beams > 1:
            cache.reorder(np.repeat(np.arange(batch), beams))
        rows = batch * beams
        begin = time.perf_counter()
        for token in range(NEW):
            backend.step(np.full((rows, 1), token), np.ones(rows, np.int64), cache)
        return time.perf_counter() - begin

    return run


def ask(process: subprocess.Popen[str], batch: int, beams: int) -> float:
    """Milliseconds of a step in that process."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{batch} {beams}\n")
    process.stdin.flush()
    return 1000 * float(process.stdout.readline()) / NEW


def main() -> None:
    """Start a process for each bundle, and ask them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        answer(arguments.bundles[0], arguments.threads)
        return
    command = [sys.executable, __file__, "--worker", "--threads", str(arguments.threads)]
    processes = [
        subprocess.Popen(
            [*command, bundle], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for bundle in arguments.bundles
    ]
    for batch, beams in CASES:
        for process in processes:
            ask(process, batch, beams)  # whatever happens at the first call only
        rounds = [[ask(p, batch, beams) for p in processes] for _ in range(arguments.rounds)]
        for number, bundle in enumerate(arguments.bundles):
            step = statistics.median(times[number] for times in rounds)
            ratio = statistics.median(times[0] / times[number] for times in rounds)
            name = Path(bundle).name
            print(f"{batch} inputs, {beams} beams  {name:<24}{step:8.2f} ms{ratio:7.2f}x")
    for process in processes:
        process.communicate()


if __name__ == "__main__":
    main()
