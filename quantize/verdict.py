"""What quantization is worth on this machine: size, memory, load time, speed, quality."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from seq2edge.bundle import Bundle
from seq2edge.evaluation.answers import ModelRequest
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.metrics import Estimate, choose_metric, score
from seq2edge.quantize.benchmark import (
    BATCHES,
    Throughput,
    agreements,
    greedy_outputs,
    measure_throughput,
    model_inputs,
    peak_memory,
)
from seq2edge.runtime.model import Model, load

PAYS = 1.1  # a ratio of speeds above which faster is called faster, noise considered


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One bundle's figures: sizes in bytes, tokens (inputs, without decoding) per second by batch.

    Without memory, time and rates: only an engine on its device can tell them.
    """

    bytes: int
    peak_memory: int | None = None
    load_seconds: float | None = None
    rates: Throughput = dataclasses.field(default_factory=dict)


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
            ("peak memory, MB", lambda side: _figure(side.peak_memory, "{:.0f}", 1e6)),
            ("load, s", lambda side: _figure(side.load_seconds, "{:.2f}")),
            *(
                (
                    f"{self.unit}/s, batch {batch}",
                    lambda side, b=batch: _figure(side.rates.get(b), "{:.1f}"),
                )
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


def _figure(value: float | None, form: str, unit: float = 1.0) -> str:
    return "-" if value is None else form.format(value / unit)


def judge(
    float_bundle: Bundle,
    quantized: Bundle,
    *,
    emulated: Bundle | None = None,
    examples: Sequence[Example] = (),
    metric: str | None = None,
    language: str | None = None,
    threads: int | None = None,
) -> Verdict:
    """Run both bundles on the same inputs: the examples, or random ones where none are given.

    Agreement is the share of generated tokens before the first difference (or the mean cosine of
    what an encoder gives). The task's metric is measured on the examples, see `METRICS`;
    `language` is a multilingual speech model's. `emulated` answers for a bundle that does not run
    here; then nothing but size and answers is told. Raises OptionError and InputError where metric,
    examples and model do not go together.
    """
    sides = [_open(bundle, threads) for bundle in (float_bundle, emulated or quantized)]
    models = [model for model, _ in sides]
    inputs = model_inputs(models[0], examples)
    quality = _quality(models, examples, metric, language)
    agreement = statistics.fmean(
        agreements(*(greedy_outputs(model, inputs, language) for model in models))
    )
    if emulated is None:
        figures = [
            Side(
                bytes=bundle.size,
                peak_memory=peak_memory(bundle.path, threads),
                load_seconds=seconds,
                rates=rates,
            )
            for bundle, (_, seconds), rates in zip(
                (float_bundle, quantized),
                sides,
                measure_throughput(models, inputs, language),
                strict=True,
            )
        ]
    else:
        figures = [Side(bytes=bundle.size) for bundle in (float_bundle, quantized)]
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
    model = load(bundle.path, device="cpu", threads=threads)
    return model, time.perf_counter() - begin


def _quality(
    models: list[Model], examples: Sequence[Example], name: str | None, language: str | None
) -> Quality | None:
    if not examples:
        return None
    metric = choose_metric(models[0], examples, name)
    if metric is None:
        return None
    request = ModelRequest(language=language)
    before, after = (score(metric, model, examples, request) for model in models)
    return Quality(
        metric=metric.name,
        float32=before.estimate(),
        quantized=after.estimate(),
        change=after.change_from(before),
    )


def _sentence(verdict: Verdict, name: str, *, sampled: bool) -> str:
    """Plain words on whether it pays here."""
    smaller = 1 / verdict.size_ratio
    if verdict.quantized.rates:
        word, speed = _speed(*(verdict.speedup(batch) for batch in BATCHES), smaller=smaller)
    else:
        word = "does not run here, its answers are emulated"
        speed = "its speed shows where an engine runs"
    kept = f"keeps {verdict.agreement:.1%} of the float model's answers"
    on = "the examples given" if sampled else "random input, which says little: give examples"
    sentence = f"{name} {word}: {smaller:.1f}x smaller, {speed}; {kept} on {on}"
    if verdict.quality is None:
        return sentence
    quality = verdict.quality
    change = quality.change
    return (
        f"{sentence}; {quality.metric} {quality.float32.value:.2f} becomes "
        f"{quality.quantized.value:.2f} ({change.value:+.2f}, 95 % CI "
        f"{change.low:+.2f} to {change.high:+.2f})"
    )


def _speed(single: float, several: float, *, smaller: float) -> tuple[str, str]:
    """Whether it pays, and the ratios of speed in words."""
    if min(single, several) >= PAYS:
        return (
            "pays here",
            f"{single:.1f}x as fast one at a time and {several:.1f}x in batches of {BATCHES[1]}",
        )
    if max(single, several) >= PAYS:
        return (
            "pays here for one of the two",
            f"{single:.1f}x the speed one at a time, {several:.1f}x in batches of {BATCHES[1]}",
        )
    word = "pays here by its size alone" if smaller >= PAYS else "does not pay here"
    return word, f"not faster ({single:.1f}x and {several:.1f}x)"
