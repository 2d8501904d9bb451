"""Running bundles beside each other on the same inputs: outputs, throughput, peak memory.

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
from typing import Any, TypeAlias

import numpy as np

from seq2edge.errors import BackendError
from seq2edge.evaluation.answers import ModelRequest, ids_of
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.metrics import AGREEMENT, Metric
from seq2edge.runtime.model import Model
from seq2edge.runtime.understanding import TOKEN_TASKS

Input: TypeAlias = Any  # ids of a text, features of a clip, or pixels of an image
Throughput: TypeAlias = dict[int, float]  # tokens (inputs, without decoding) per second, by batch

NEW_TOKENS = 32
ROUNDS = 3
BATCHES = (1, 8)
CLIP_SAMPLES = 4 * 16_000  # of a clip that is made up
CLIPS = 64  # or images, whose features are in memory


def model_inputs(model: Model, examples: Sequence[Example]) -> list[Input]:
    """What the model reads of the examples; random input where there are none."""
    dims = model.dims
    rng = np.random.default_rng(0)
    if dims.reads_signal:
        if examples:
            return [model.signal(str(example.input)) for example in examples[:CLIPS]]
        shape = (max(BATCHES), *(dims.source_shape or (CLIP_SAMPLES,)))
        return list(rng.standard_normal(shape, dtype=np.float32))
    if examples:
        return [ids_of(model, example, new_tokens=NEW_TOKENS) for example in examples]
    vocab = dims.source_vocab or dims.vocab
    stack = dims.encoder or dims.decoder
    assert stack is not None
    longest = min(24, (stack.max_positions or 64) // 2)
    return [rng.integers(0, vocab, longest).tolist() for _ in range(max(BATCHES))]


def greedy_outputs(model: Model, inputs: Sequence[Input], language: str | None = None) -> list[Any]:
    """Each input's greedy tokens, as many as fit up to NEW_TOKENS; or what an encoder gives."""
    return [
        output
        for group in _groups(inputs, max(BATCHES))
        for output in _run_greedily(model, group, language)
    ]


def measure_throughput(
    models: Sequence[Model], inputs: Sequence[Input], language: str | None = None
) -> list[Throughput]:
    """Each model's median throughput by batch, in interleaved rounds."""
    for model in models:
        _run_greedily(model, list(inputs[:1]), language)  # whatever happens at the first call only
    rounds: list[dict[int, list[float]]] = [{b: [] for b in BATCHES} for _ in models]
    for _ in range(ROUNDS):
        for batch in BATCHES:
            group = [inputs[i % len(inputs)] for i in range(batch)]
            for model, measured in zip(models, rounds, strict=True):
                measured[batch].append(_measure_once(model, group, language))
    return [{b: statistics.median(v) for b, v in measured.items()} for measured in rounds]


def _groups(inputs: Sequence[Input], size: int) -> Iterator[list[Input]]:
    for start in range(0, len(inputs), size):
        yield list(inputs[start : start + size])


def _measure_once(model: Model, group: list[Input], language: str | None) -> float:
    begin = time.perf_counter()
    outputs = _run_greedily(model, group, language)
    count = sum(map(len, outputs)) if model.dims.decoder else len(group)
    return count / (time.perf_counter() - begin)


def _run_greedily(model: Model, group: list[Input], language: str | None = None) -> Any:
    """One batch: the tokens of each input without a choice of ends, or what the encoder gives."""
    if model.dims.decoder is None:
        task = model.bundle.manifest.task
        if task in TOKEN_TASKS:
            values = model.token_logits(group)
            return [rows[: len(ids)].ravel() for rows, ids in zip(values, group, strict=True)]
        run: Callable[[Any], Any] = model.classify_ids if task == "classify" else model.embed_ids
        return run(group)
    prompt = max(map(len, group)) if model.dims.encoder is None else 1
    # As a max_length: the model takes less where its positions end.
    options = model.options.greedy(max_length=prompt + NEW_TOKENS, ends=False)
    if model.dims.reads_signal:
        if language is not None:
            options = options.replace(decoder_prompt=model.speech_prompt(language, "transcribe"))
        generated = model.signal_ids(group, options)
    else:
        tokenizer = model.bundle.manifest.tokenizer
        if tokenizer is not None and tokenizer.target_language:
            options = model.with_target_language(options, None)
        generated = model.generate_ids(group, options)
    return [sequences[0].ids for sequences in generated]


def agreements(expected: Any, outputs: Any) -> Iterator[float]:
    """For each input: the share of tokens before the first difference, or the cosine.

    Of a single number, whose cosine is its sign, what its square error leaves of the variance: the
    mean over the inputs is the coefficient of determination.
    """
    if not isinstance(expected[0], tuple) and np.size(expected[0]) == 1:
        first, second = (np.ravel(values).astype(np.float64) for values in (expected, outputs))
        spread = first.var() or np.square(first).mean() or 1.0
        yield from np.maximum(0, 1 - np.square(first - second) / spread).tolist()
        return
    for a, b in zip(expected, outputs, strict=True):
        if isinstance(a, tuple):
            same = [x == y for x, y in zip(a, b, strict=True)]
            yield (same.index(False) if False in same else len(same)) / len(same)
        else:
            yield float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def agreement_metric(model: Model, inputs: Sequence[Input], language: str | None = None) -> Metric:
    """How much of the model's outputs for these inputs another one gives too, in percent."""
    expected = greedy_outputs(model, inputs, language)

    def ask(other: Model, _: Sequence[Example], __: ModelRequest) -> Iterator[Any]:
        yield from greedy_outputs(other, inputs, language)

    def measure(outputs: Sequence[Any], _: Sequence[Example]) -> Iterator[Sequence[float]]:
        for share in agreements(expected, outputs):
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
from seq2edge.quantize import benchmark
from seq2edge.runtime.model import load
model = load(sys.argv[1], device="cpu", threads=json.loads(sys.argv[2]))
benchmark.greedy_outputs(model, benchmark.model_inputs(model, ())[:1])
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
