"""What a decoding step costs beside its graph: choosing, feeding, moving rows.

Times decoding of a random prompt to two lengths, takes off what ONNX Runtime's calls took, and
prints the slope between the lengths, the median of rounds, greedy and with four beams.

    python benchmarks/step_overhead.py BUNDLE [--threads 2] [--rounds 31]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import seq2edge
from seq2edge.runtime.model import Model

SHORT, LONG = 16, 80  # tokens
LENGTH = 32  # of the prompt


class Timed:
    """A session that adds up the time of its calls."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.seconds, self.calls = 0.0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, *arguments: Any) -> None:
        """See InferenceSession."""
        begin = time.perf_counter()
        self._session.run_with_iobinding(*arguments)
        self.seconds += time.perf_counter() - begin
        self.calls += 1


def outside(model: Model, graph: Timed, beams: int, new: int) -> tuple[float, float]:
    """Seconds of a text of so many tokens without the graph's, and of a call of the graph."""
    ids = np.random.default_rng(0).integers(3, 90, LENGTH).tolist()
    options = model.options.replace(
        num_beams=beams,
        do_sample=False,
        max_new_tokens=new,
        max_length=None,
        min_new_tokens=0,
        eos_token_id=(),
        forced_eos_token_id=(),
    )
    graph.seconds, graph.calls = 0.0, 0
    begin = time.perf_counter()
    model.generate_ids([ids], options)
    return time.perf_counter() - begin - graph.seconds, graph.seconds / graph.calls


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    model = seq2edge.load(arguments.bundle, device="cpu", threads=arguments.threads)
    sessions: dict[str, Any] = model.backend.sessions  # type: ignore[attr-defined]
    graph = sessions["decoder"] = Timed(sessions["decoder"])
    for beams in (1, 4):
        outside(model, graph, beams, LONG)
        slopes, calls = [], []
        for _ in range(arguments.rounds):
            short, _ = outside(model, graph, beams, SHORT)
            long, call = outside(model, graph, beams, LONG)
            slopes.append((long - short) / (LONG - SHORT))
            calls.append(call)
        print(
            f"beams {beams}: {1000 * statistics.median(slopes):.3f} ms a step beside the graph, "
            f"{1000 * statistics.median(calls):.2f} ms of the graph"
        )


if __name__ == "__main__":
    main()
