"""Real graphs under a mixed load: each request gets the tokens that it gets alone."""

from __future__ import annotations

import numpy as np
import pytest

import seq2edge
from seq2edge.runtime.scheduler import Scheduler, decode

KINDS = [
    {},
    {"num_beams": 2},
    {"num_beams": 4, "num_return_sequences": 2},
    {"do_sample": True, "seed": 5, "top_k": 20},
    {"do_sample": True, "seed": 6, "num_return_sequences": 3},
    {"repetition_penalty": 1.4, "min_new_tokens": 3},
    {"no_repeat_ngram_size": 2, "num_beams": 3},
]


def requests(model, count, seed):
    """Kinds, lengths and limits of every sort."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        changes = KINDS[rng.integers(len(KINDS))]
        limit = int(rng.integers(max(1, changes.get("min_new_tokens", 1)), 20))
        options = model.options.replace(max_length=None, max_new_tokens=limit, **changes)
        ids = rng.integers(3, 90, rng.integers(1, 25)).tolist()
        made.append(model.request(ids, options))
    return made


@pytest.mark.parametrize("graphs", ["onnxruntime", "canonical"])
@pytest.mark.parametrize("name", ["bart", "t5", "llama"])
def test_each_request_gets_what_it_gets_alone(exported, name, graphs):
    """That come at different times, a few rows at a time; some are cancelled on the way."""
    folder = exported(name)[1] / "bundle"
    model = seq2edge.load(folder, device="cpu", threads=1, graphs=graphs)
    load = requests(model, 40, seed=len(name))
    alone = [decode(model.backend, [request])[0] for request in load]
    scheduler, rng = Scheduler(model.backend, rows=14), np.random.default_rng(0)
    groups, cancelled = [], set()
    while len(groups) < len(load) or scheduler.step():
        if len(groups) < len(load) and rng.random() < 0.6:
            groups.append(scheduler.submit(load[len(groups)]))
        if groups and rng.random() < 0.05:
            number = int(rng.integers(len(groups)))
            if not groups[number].done:
                groups[number].cancel()
                cancelled.add(number)
    for number, (group, wanted) in enumerate(zip(groups, alone, strict=True)):
        if number not in cancelled:
            found = group.results()
            assert [s.ids for s in found] == [s.ids for s in wanted]
            scores = [s.score for s in wanted]
            assert [s.score for s in found] == pytest.approx(scores, abs=1e-3)
    assert len(cancelled) < len(load) / 2
