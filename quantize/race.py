"""Running bundles beside each other on the same inputs: answers, rates, peak memory.

Speed is measured in interleaved rounds, so that a noisy machine disturbs all alike; what counts is
the ratio.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seq2edge.errors import BackendError
from seq2edge.evaluation.answers import ModelRequest
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.metrics import AGREEMENT, Metric
from seq2edge.runtime.model import Model

Input = Any  # ids of a text, or the features of a clip (mels, frames)
Rates = dict[int, float]  # tokens (or inputs, without decoding) per second, by batch

NEW_TOKENS = 32
ROUNDS = 3
BATCHES = (1, 8)
CLIPS = 64  # whose features are in memory


def inputs_of(model: Model, examples: Sequence[Example]) -> list[Input]:
    """What the model reads of the examples; random input where there are none."""
    dims = model.dims
    rng = np.random.default_rng(0)
    if dims.mels:
        if examples:
            return [model.features(str(example.input)) for example in examples[:CLIPS]]
        shape = (max(BATCHES), dims.mels, dims.frames)
        return list(rng.standard_normal(shape, dtype=np.float32))
    if examples:
        return [_encode(model, str(example.input)) for example in examples]
    vocab = dims.source_vocab or dims.vocab
    stack = dims.encoder or dims.decoder
    assert stack is not None
    longest = min(24, (stack.max_positions or 64) // 2)
    return [rng.integers(0, vocab, longest).tolist() for _ in range(max(BATCHES))]


def _encode(model: Model, text: str) -> list[int]:
    """A text's ids, cut where the model's positions end, with room for what it writes."""
    stack = model.dims.encoder or model.dims.decoder
    assert stack is not None
    ids: list[int] = model.tokenizer.encode(text)
    return ids[: max(1, stack.max_positions - NEW_TOKENS)] if stack.max_positions else ids


def answers(model: Model, inputs: Sequence[Input], language: str | None = None) -> list[Any]:
    """Greedy tokens of every input, or what an encoder gives."""
    return [
        answer
        for group in _groups(inputs, max(BATCHES))
        for answer in _answer(model, group, language)
    ]


def race(
    models: Sequence[Model], inputs: Sequence[Input], language: str | None = None
) -> list[Rates]:
    """Each model's median rate by batch, in interleaved rounds."""
    for model in models:
        _answer(model, list(inputs[:1]), language)  # whatever happens at the first call only
    rates: list[dict[int, list[float]]] = [{b: [] for b in BATCHES} for _ in models]
    for _ in range(ROUNDS):
        for batch in BATCHES:
            group = [inputs[i % len(inputs)] for i in range(batch)]
            for model, measured in zip(models, rates, strict=True):
                measured[batch].append(_rate(model, group, language))
    return [{b: statistics.median(v) for b, v in measured.items()} for measured in rates]


def _groups(inputs: Sequence[Input], size: int) -> Iterator[list[Input]]:
    for start in range(0, len(inputs), size):
        yield list(inputs[start : start + size])


def _rate(model: Model, group: list[Input], language: str | None) -> float:
    begin = time.perf_counter()
    answers = _answer(model, group, language)
    made = sum(len(a) for a in answers) if model.dims.decoder else len(group)
    return made / (time.perf_counter() - begin)


def _answer(model: Model, group: list[Input], language: str | None = None) -> Any:
    """Greedy tokens of each input, as many as fit up to NEW_TOKENS; or what the encoder gives."""
    if model.dims.decoder is None:
        classify = model.bundle.manifest.task == "classify"
        run: Callable[[Any], Any] = model.classify_ids if classify else model.embed_ids
        return run(group)
    prompt = max(map(len, group)) if model.dims.encoder is None else 1
    # As a max_length: the model takes less where its positions end.
    options = model.options.greedy(max_length=prompt + NEW_TOKENS, ends=False)
    if model.dims.mels:
        if language is not None:
            options = options.replace(decoder_prompt=model.speech_prompt(language, "transcribe"))
        found = model.transcribe_ids(np.stack(group), options)
    else:
        found = model.generate_ids(group, options)
    return [sequences[0].ids for sequences in found]


def agreements(wanted: Any, found: Any) -> Iterator[float]:
    """For each input: the share of tokens before the first difference, or the cosine."""
    for a, b in zip(wanted, found, strict=True):
        if isinstance(a, tuple):
            same = [x == y for x, y in zip(a, b, strict=True)]
            yield (same.index(False) if False in same else len(same)) / len(same)
        else:
            yield float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def agreement_metric(model: Model, inputs: Sequence[Input], language: str | None = None) -> Metric:
    """How much of the model's answers to these inputs another one gives too, in percent."""
    wanted = answers(model, inputs, language)

    def ask(other: Model, _: Sequence[Example], __: ModelRequest) -> Iterator[Any]:
        yield from answers(other, inputs, language)

    def measure(found: Sequence[Any], _: Sequence[Example]) -> Iterator[Sequence[float]]:
        for share in agreements(wanted, found):
            yield 100 * share, 1.0

    return Metric(
        name=AGREEMENT,
        tasks=(model.bundle.manifest.task,),
        higher_is_better=True,
        references=False,
        ask=ask,
        measure=measure,
        aggregate=lambda total: float(total[0] / total[1]),
    )


_PROBE = """
import json, re, sys
import seq2edge
from seq2edge.quantize import race
model = seq2edge.load(sys.argv[1], device="cpu", threads=json.loads(sys.argv[2]))
race.answers(model, race.inputs_of(model, ())[:1])
print(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024)
"""


def peak_memory(path: Path, threads: int | None) -> int:
    """Bytes at most resident in a process of its own that loads the bundle and answers once."""
    done = subprocess.run(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-c", _PROBE, str(path.resolve()), json.dumps(threads)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BackendError(f"{path}: cannot be measured alone: {done.stderr.strip()[-300:]}")
    return int(done.stdout)
