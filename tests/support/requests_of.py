"""Requests decoded together, in the fewest words."""

from __future__ import annotations

import numpy as np

from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import ROWS, Scheduler, decode


def decode_prompts(
    backend,
    prompts,
    options,
    *,
    max_new_tokens,
    sources=None,
    positions=0,
    rows=ROWS,
    processors=(),
):
    """Each prompt's sequences; `sources` are what an encoder reads, a source a prompt."""
    requests = [
        Request(
            prompt=prompt,
            source=None if sources is None else sources[i],
            positions=positions,
            options=options,
            max_new_tokens=max_new_tokens,
            processors=processors,
        )
        for i, prompt in enumerate(prompts)
    ]
    return decode(backend, requests, rows=rows)


def decode_as_they_come(backend, load, *, rows, seed=0):
    """The groups of requests that come between steps, and the numbers of those cancelled then."""
    scheduler, rng = Scheduler(backend, rows=rows), np.random.default_rng(seed)
    groups, cancelled = [], set()
    while scheduler.step() or len(groups) < len(load):
        groups += map(scheduler.submit, load[len(groups) :][: rng.integers(0, 4)])
        if groups and rng.random() < 0.1:
            number = int(rng.integers(len(groups)))
            if not groups[number].done:
                groups[number].cancel()
                cancelled.add(number)
    return groups, cancelled
