"""What quantization is worth on this machine: size, memory, load time, speed, quality.

Speed is measured in interleaved rounds, so that a noisy machine disturbs both bundles alike; the
verdict is about their ratio.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.errors import BackendError
from seq2edge.quantize.examples import Example
from seq2edge.quantize.metrics import Estimate, choose_metric, score
from seq2edge.runtime.model import Model

Input = Any  # ids of a text, or the features of a clip (mels, frames)
Answers = list[tuple[int, ...]]  # tokens of each input; the class of each input

NEW_TOKENS = 32
ROUNDS = 3
BATCHES = (1, 8)
CLIPS = 64  # whose features are in memory
PAYS = 1.1  # a ratio of speeds above which faster is called faster, noise considered


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One bundle's figures. Rates are tokens (or inputs, without decoding) per second, by batch."""

    bytes: int
    peak_memory: int
    load_seconds: float
    rates: dict[int, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """Both bundles' task metric, and the quantized one's minus the float one's."""

    metric: str
    float32: Estimate
    quantized: Estimate
    change: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Both bundles' figures, the share of the float model's answers that are kept, and words."""

    float32: Side
    quantized: Side
    unit: str
    agreement: float
    compared: int
    quality: Quality | None
    sentence: str

    @property
    def size_ratio(self) -> float:
        """Quantized over float."""
        return self.quantized.bytes / self.float32.bytes

    def table(self) -> Iterator[str]:
        """Both bundles' figures as lines of text."""
        rows: list[tuple[str, Callable[[Side], str]]] = [
            ("size, MB", lambda side: f"{side.bytes / 1e6:.1f}"),
            ("peak memory, MB", lambda side: f"{side.peak_memory / 1e6:.0f}"),
            ("load, s", lambda side: f"{side.load_seconds:.2f}"),
            *(
                (f"{self.unit}/s, batch {batch}", lambda side, b=batch: f"{side.rates[b]:.1f}")
                for batch in BATCHES
            ),
        ]
        yield f"{'':<20}{'float32':>12}{'quantized':>12}"
        for label, figure in rows:
            yield f"{label:<20}{figure(self.float32):>12}{figure(self.quantized):>12}"
        if self.quality is not None:
            sides = (self.quality.float32, self.quality.quantized)
            yield f"{self.quality.metric:<20}{sides[0].value:>12.2f}{sides[1].value:>12.2f}"

    def speedup(self, batch: int) -> float:
        """Quantized over float."""
        return self.quantized.rates[batch] / self.float32.rates[batch]


def judge(
    float_bundle: Bundle,
    quantized: Bundle,
    *,
    examples: Sequence[Example] = (),
    metric: str | None = None,
    language: str | None = None,
    threads: int | None = None,
) -> Verdict:
    """Run both bundles on the same inputs: the examples, or random ones where none are given.

    Agreement is the share of generated tokens before the first difference (or of equal classes, or
    the mean cosine of embeddings). The task's metric is measured on the examples, see `METRICS`;
    `language` is a multilingual speech model's. Raises OptionError and InputError where metric,
    examples and model do not go together.
    """
    sides = [_open(bundle, threads) for bundle in (float_bundle, quantized)]
    models = [model for model, _ in sides]
    inputs = _inputs(models[0], examples)
    quality = _quality(models, examples, metric, language)
    answers, rates = _race(models, inputs, language)
    figures = [
        Side(
            bytes=bundle.size,
            peak_memory=_peak_memory(bundle.path, threads),
            load_seconds=seconds,
            rates=rate,
        )
        for bundle, (_, seconds), rate in zip((float_bundle, quantized), sides, rates, strict=True)
    ]
    agreement = _agreement(*answers)
    verdict = Verdict(
        float32=figures[0],
        quantized=figures[1],
        unit="tokens" if models[0].dims.decoder else "inputs",
        agreement=agreement,
        compared=len(inputs),
        quality=quality,
        sentence="",
    )
    name = str(quantized.manifest.precision)
    return dataclasses.replace(verdict, sentence=_sentence(verdict, name, sampled=bool(examples)))


def _open(bundle: Bundle, threads: int | None) -> tuple[Model, float]:
    begin = time.perf_counter()
    model = seq2edge.load(bundle.path, device="cpu", threads=threads)
    return model, time.perf_counter() - begin


def _quality(
    models: list[Model], examples: Sequence[Example], name: str | None, language: str | None
) -> Quality | None:
    if not examples:
        return None
    metric = choose_metric(models[0], examples, name)
    if metric is None:
        return None
    before, after = (score(metric, model, examples, language=language) for model in models)
    return Quality(
        metric=metric.name,
        float32=before.estimate(),
        quantized=after.estimate(),
        change=after.change_from(before),
    )


def _inputs(model: Model, examples: Sequence[Example]) -> list[Input]:
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


def _race(
    models: list[Model], inputs: list[Input], language: str | None
) -> tuple[list[Any], list[dict[int, float]]]:
    """Answers to all inputs, and each model's median rate by batch, in interleaved rounds."""
    answers = [
        [
            answer
            for group in _groups(inputs, max(BATCHES))
            for answer in _answer(model, group, language)
        ]
        for model in models
    ]
    rates: list[dict[int, list[float]]] = [{b: [] for b in BATCHES} for _ in models]
    for _ in range(ROUNDS):
        for batch in BATCHES:
            group = [inputs[i % len(inputs)] for i in range(batch)]
            for model, measured in zip(models, rates, strict=True):
                measured[batch].append(_rate(model, group, language))
    medians = [{b: statistics.median(v) for b, v in measured.items()} for measured in rates]
    return answers, medians


def _groups(inputs: list[Input], size: int) -> Iterator[list[Input]]:
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]


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
    options = model.options.replace(
        num_beams=1,
        num_return_sequences=1,
        max_length=prompt + NEW_TOKENS,  # the model takes less where its positions end
        max_new_tokens=None,
        min_new_tokens=0,
        min_length=0,
        eos_token_id=(),
        forced_eos_token_id=(),
    )
    if model.dims.mels:
        if language is not None:
            options = options.replace(decoder_prompt=model.speech_prompt(language, "transcribe"))
        found = model.transcribe_ids(np.stack(group), options)
    else:
        found = model.generate_ids(group, options)
    return [sequences[0].ids for sequences in found]


def _agreement(wanted: Any, found: Any) -> float:
    """The mean over inputs: tokens before the first difference, equal classes, or cosines."""
    shares = []
    for a, b in zip(wanted, found, strict=True):
        if isinstance(a, tuple):
            same = [x == y for x, y in zip(a, b, strict=True)]
            shares.append((same.index(False) if False in same else len(same)) / len(same))
        else:
            shares.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return statistics.fmean(shares)


_PROBE = """
import json, re, sys
import seq2edge
from seq2edge.quantize import verdict
model = seq2edge.load(sys.argv[1], device="cpu", threads=json.loads(sys.argv[2]))
verdict._answer(model, verdict._inputs(model, ())[:1])
print(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024)
"""


def _peak_memory(path: Path, threads: int | None) -> int:
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


def _sentence(verdict: Verdict, name: str, *, sampled: bool) -> str:
    """Plain words on whether it pays here."""
    single, several = (verdict.speedup(batch) for batch in BATCHES)
    smaller = 1 / verdict.size_ratio
    if min(single, several) >= PAYS:
        speed = f"{single:.1f}x as fast one at a time and {several:.1f}x in batches of {BATCHES[1]}"
        word = "pays here"
    elif max(single, several) >= PAYS:
        speed = f"{single:.1f}x the speed one at a time, {several:.1f}x in batches of {BATCHES[1]}"
        word = "pays here for one of the two"
    else:
        speed = f"not faster ({single:.1f}x and {several:.1f}x)"
        word = "pays here by its size alone" if smaller >= PAYS else "does not pay here"
    kept = f"keeps {verdict.agreement:.1%} of the float model's answers"
    on = "the examples given" if sampled else "random input, which says little: give examples"
    sentence = f"{name} {word}: {smaller:.1f}x smaller, {speed}; {kept} on {on}"
    if verdict.quality is None:
        return sentence
    quality = verdict.quality
    change = quality.change
    return (
        f"{sentence}; {quality.metric} {quality.float32.value:.2f} becomes "
        f"{quality.quantized.value:.2f} ({change.value:+.2f}, 95 % of draws "
        f"{change.low:+.2f} to {change.high:+.2f})"
    )
