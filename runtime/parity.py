"""The numeric proof: what the float model answered, replayed on any backend.

`record` runs a fixed program on the reference model (unequal batch, prefill, two beams an input,
steps with the model's own tokens) and keeps inputs, tokens and logits; `replay` runs the same
program on another backend, feeding it the recorded tokens, and compares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.manifest import ParityRecord
from seq2edge.model.dims import Dims
from seq2edge.runtime.backend import (
    AligningCache,
    Answer,
    Backend,
    Cache,
    Candidates,
    Logits,
    all_logits,
)
from seq2edge.runtime.likelihood import log_sum_exp

Arrays = dict[str, NDArray[Any]]

NO_NUMBER = float(np.finfo(np.float32).max)  # the error of an answer that is no number
STEPS = 8
BEAMS = 2
TOP = 64
RECORDED = ("top_ids", "top_logits", "log_sum_exp", "alignment")  # of every step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest error of a logit: absolute, or relative to the largest logit recorded."""

    absolute: float
    relative: float


# What a quantized bundle may differ by between machines: its largest error, as a factor, and the
# share of tokens that are the float model's.
SLACK_ERROR, SLACK_TOKENS = 2.0, 0.1

# One table for every check of numbers, by the precision of the bundle.
TOLERANCES = {"float32": Tolerance(absolute=2e-4, relative=2e-5)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineTolerance:
    """Largest error relative to the largest logit recorded, and the least share of equal tokens."""

    relative: float
    tokens: float


# What an engine may differ by from the float model, by its precision. Wide: kernels round in their
# own order (float32 products may run in TF32), and engines that answer nonsense err by about 1.
ENGINE_TOLERANCES = {
    "float32": EngineTolerance(relative=1e-2, tokens=0.9),
    "fp16": EngineTolerance(relative=2e-2, tokens=0.85),
    "bf16": EngineTolerance(relative=6e-2, tokens=0.75),
    "int8-weight": EngineTolerance(relative=1e-1, tokens=0.7),
    "int8-static": EngineTolerance(relative=2e-1, tokens=0.6),
    "int4-weight": EngineTolerance(relative=3e-1, tokens=0.5),
    "fp8": EngineTolerance(relative=2e-1, tokens=0.6),
    "fp4": EngineTolerance(relative=3e-1, tokens=0.5),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity(ParityRecord):
    """What a replay measured, and whether it is near enough."""

    @property
    def figures(self) -> str:
        """The errors and, where there are any, the equal tokens, in words."""
        tokens = f", {self.tokens_equal} of {self.tokens_compared} tokens equal"
        return (
            f"largest error {self.max_absolute:.1e} ({self.max_relative:.1e} of the largest value)"
            f"{tokens if self.tokens_compared else ''}"
        )

    def within(self, precision: str) -> bool:
        """Whether errors are within the tolerance table and every token is the same."""
        allowed = TOLERANCES[precision]
        close = self.max_absolute <= allowed.absolute or self.max_relative <= allowed.relative
        return close and self.tokens_equal == self.tokens_compared

    def no_worse_than(self, recorded: ParityRecord) -> bool:
        """Whether a quantized bundle errs here about as much as where it was made.

        Kernels of other processors round otherwise; one that saturates errs many times as much.
        """
        share = self.tokens_equal / max(1, self.tokens_compared)
        before = recorded.tokens_equal / max(1, recorded.tokens_compared)
        tokens = share >= before - SLACK_TOKENS
        return tokens and self.max_absolute <= SLACK_ERROR * recorded.max_absolute

    def engine_within(self, precision: str, recorded: ParityRecord | None = None) -> bool:
        """Whether an engine of that precision answers as the model does.

        `recorded` is what a quantized bundle erred when it was made: so much more is allowed.
        """
        allowed = ENGINE_TOLERANCES[precision]
        relative, tokens = allowed.relative, allowed.tokens
        if recorded is not None:
            before = recorded.tokens_equal / max(1, recorded.tokens_compared)
            relative = max(relative, SLACK_ERROR * recorded.max_relative)
            tokens = min(tokens, before - SLACK_TOKENS)
        equal = self.tokens_equal >= tokens * self.tokens_compared
        return equal and self.max_relative <= relative


def combine(parts: Sequence[Parity]) -> Parity:
    """What several replays measured, as one."""
    return Parity(
        max_absolute=max(part.max_absolute for part in parts),
        max_relative=max(part.max_relative for part in parts),
        tokens_compared=sum(part.tokens_compared for part in parts),
        tokens_equal=sum(part.tokens_equal for part in parts),
    )


def make_inputs(dims: Dims, start: tuple[int, ...], seed: int = 0) -> Arrays:
    """Random sources and prompts of unequal lengths that fit the model, reproducible by seed."""
    rng = np.random.default_rng(seed)
    inputs: Arrays = {}
    if dims.encoder is not None:
        longest = min(12, dims.encoder.max_positions or 12)
        if dims.mels:
            features = rng.standard_normal((1, dims.mels, dims.frames), dtype=np.float32)
            inputs["source"] = features
            inputs["source_length"] = np.array([dims.frames // 2])
        else:
            vocab = dims.source_vocab or dims.vocab
            inputs["source"] = rng.integers(0, vocab, (2, longest))
            inputs["source_length"] = np.array([longest, max(1, longest // 2)])
            if dims.kind == "encoder" and dims.token_types > 1:
                inputs["token_types"] = rng.integers(0, dims.token_types, (2, longest))
    if dims.kind == "decoder":
        inputs["prompt"] = rng.integers(0, dims.vocab, (2, 7))
        inputs["prompt_length"] = np.array([7, 4])
    elif dims.kind == "encoder-decoder":
        batch = len(inputs["source"])
        inputs["prompt"] = np.tile(np.array(start or (0,), dtype=np.int64), (batch, 1))
        inputs["prompt_length"] = np.full(batch, inputs["prompt"].shape[1])
    return inputs


def record(backend: Backend, inputs: Arrays) -> Arrays:
    """Run the reference and keep what it answered: tokens, largest logits and log-sum-exps."""
    if "prompt" not in inputs:
        return {**inputs, "pooled": _pooled(backend, inputs)}
    # The TOP largest logits of a step and the log-sum-exp stand for all: they are what decoding
    # looks at, and a vocabulary of logits at every step would make the bundle large.
    tokens: list[NDArray[np.int64]] = []
    ids, logits, totals = [], [], []
    alignments: Arrays = {}
    for i, (answer, cache) in enumerate(_decode(backend, inputs, tokens)):
        if backend.aligns:
            alignments[f"alignment_{i}"] = _alignment(cache).copy()
        scores = all_logits(answer)
        possible = int((~np.isneginf(scores)).sum(axis=-1).min())  # fewer with a shortlist
        top = np.argsort(-scores, axis=-1, kind="stable")[:, : min(TOP, possible)]
        ids.append(top)
        logits.append(np.take_along_axis(scores, top, axis=-1))
        totals.append(log_sum_exp(scores, np.float32))
        tokens.append(_next_tokens(top, len(inputs["prompt"]), len(tokens)))
    return {
        **inputs,
        "tokens": np.stack(tokens),
        **{f"top_ids_{i}": top for i, top in enumerate(ids)},
        **{f"top_logits_{i}": top for i, top in enumerate(logits)},
        **{f"log_sum_exp_{i}": total for i, total in enumerate(totals)},
        **alignments,
    }


def replay(backend: Backend, reference: Arrays) -> Parity:
    """Run the same program on another backend and compare; what it finds by itself too."""
    if "prompt" not in reference:
        return _compare([(reference["pooled"], _pooled(backend, reference))], [])
    pairs, choices = [], []
    tokens = list(reference["tokens"])
    beams = len(tokens[0]) // len(reference["prompt"])
    decoded = _decode(backend, reference, tokens, beams=beams, steps=len(tokens) - 1)
    for i, (answer, cache) in enumerate(decoded):
        scores = all_logits(answer)
        if isinstance(answer, Candidates):
            pairs.extend(_candidate_pairs(answer, scores))
        top_ids = reference[f"top_ids_{i}"]
        pairs.append((reference[f"top_logits_{i}"], np.take_along_axis(scores, top_ids, axis=-1)))
        pairs.append((reference[f"log_sum_exp_{i}"], log_sum_exp(scores, np.float32)))
        choices.append((top_ids[:, 0], scores.argmax(axis=-1)))
        if backend.aligns and f"alignment_{i}" in reference:
            pairs.append((reference[f"alignment_{i}"], _alignment(cache).copy()))
    if backend.verifies:
        pairs.extend(_verified_pairs(backend, reference))
    return _compare(pairs, choices)


def _pooled(backend: Backend, inputs: Arrays) -> NDArray[np.float32]:
    """What an encoder-only model answers; 0 for padding, whose answers mean nothing."""
    lengths = inputs["source_length"]
    pooled = backend.pool(inputs["source"], lengths, inputs.get("token_types"))
    if pooled.ndim > 2:  # (batch, source, values)
        valid = np.arange(pooled.shape[1]) < lengths[:, None]
        pooled = np.where(valid[:, :, None], pooled, np.float32(0))
    return pooled


def _verified_pairs(
    backend: Backend, reference: Arrays
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """What one call answers to the first row's tokens that the program feeds one by one."""
    part = _part(reference, [0], 1)
    last = len(part["tokens"]) - 1
    memory = None
    if "source" in part:
        memory = backend.encode(part["source"], part["source_length"])
    cache = backend.start(memory, 1, None)
    backend.step(part["prompt"], part["prompt_length"], cache)
    tokens = np.ascontiguousarray(part["tokens"][:last].T)
    scores = all_logits(backend.step(tokens, np.array([last]), cache, last))
    for i in range(last):
        if backend.aligns and f"alignment_{i + 1}" in part:
            yield part[f"alignment_{i + 1}"], _alignment(cache)[i : i + 1]
        ids, line = part[f"top_ids_{i + 1}"], scores[i : i + 1]
        yield part[f"top_logits_{i + 1}"], np.take_along_axis(line, ids, axis=-1)


def split_for_engine(reference: Arrays, *, batch: tuple[int, ...], rows: int) -> Iterator[Arrays]:
    """The same program in parts of `batch` (least, best, most) inputs and at most `rows` rows.

    Where there are no two rows for an input, it ends before the beams are exchanged.
    """
    count = len(reference.get("prompt", reference.get("source", ())))
    size = min(max(count, batch[0]), batch[2])
    beams = min(BEAMS, rows // size)
    for first in range(0, count, size):
        taken = max(batch[0], min(size, count - first))
        yield _part(reference, [(first + i) % count for i in range(taken)], beams)


def _part(reference: Arrays, items: list[int], beams: int) -> Arrays:
    """Some inputs of a reference, and their first beams."""
    rows = [item * BEAMS + beam for item in items for beam in range(beams)]
    last = STEPS if beams > 1 else STEPS // 2 + 1
    part: Arrays = {}
    for name, values in reference.items():
        head, _, number = name.rpartition("_")
        if name == "tokens":
            part[name] = values[: last + 1, rows]
        elif head not in RECORDED:
            part[name] = values[items]
        elif int(number) <= last:
            part[name] = values[rows if int(number) else items]
    return part


def _decode(
    backend: Backend,
    inputs: Arrays,
    tokens: list[NDArray[np.int64]],
    *,
    beams: int = BEAMS,
    steps: int = STEPS,
) -> Iterator[tuple[Answer, Cache]]:
    """What the prefill (batch rows) and each step (batch * beams rows) answer, and the cache.

    Valid until the next is asked for; `tokens[i]` must be there then.
    """
    # The program: prefill the prompts, spread each over its beams, then one token a step; halfway
    # the beams change places, so that a cache which reorders its rows wrongly is noticed.
    batch = len(inputs["prompt"])
    memory = None
    if "source" in inputs:
        memory = backend.encode(inputs["source"], inputs["source_length"])
    cache = backend.start(memory, batch, None)
    yield backend.step(inputs["prompt"], inputs["prompt_length"], cache), cache
    cache.reorder(np.repeat(np.arange(batch), beams))
    one = np.ones(batch * beams, dtype=np.int64)
    for i in range(steps):
        yield backend.step(tokens[i][:, None], one, cache), cache
        if i == STEPS // 2:  # exchange the beams of each input
            exchanged = np.arange(batch * beams).reshape(batch, beams)[:, ::-1]
            cache.reorder(np.ascontiguousarray(exchanged).reshape(-1))


def _alignment(cache: Cache) -> NDArray[np.float32]:
    """What the rows of a backend that aligns attend to."""
    return cast("AligningCache", cache).alignment


def _candidate_pairs(
    candidates: Candidates, scores: Logits
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """What candidates are by all logits, and what the backend said that they are."""
    places = np.clip(candidates.ids, 0, scores.shape[1] - 1)
    largest = -np.sort(-scores, axis=-1)[:, : candidates.values.shape[1]]
    return [
        (np.take_along_axis(scores, places, axis=-1), candidates.values.copy()),
        (largest, -np.sort(-candidates.values, axis=-1)),
        (log_sum_exp(scores, np.float32), candidates.log_sum_exp.copy()),
    ]


def _next_tokens(top: NDArray[np.int64], batch: int, step: int) -> NDArray[np.int64]:
    """The tokens to go on with, (batch * BEAMS,): best and second best, then each row's best."""
    if step == 0:
        return top[:batch, :BEAMS].reshape(-1).astype(np.int64)
    return top[:, 0].astype(np.int64)


def _compare(
    pairs: list[tuple[NDArray[Any], NDArray[Any]]],
    choices: list[tuple[NDArray[Any], NDArray[Any]]],
) -> Parity:
    """Largest error of (recorded, replayed) values, and how many of the tokens are the same."""
    worst = max(float(np.abs(a - b).max()) for a, b in pairs)
    largest = max(float(np.abs(a).max()) for a, _ in pairs)
    return Parity(
        max_absolute=worst if np.isfinite(worst) else NO_NUMBER,
        max_relative=worst / largest if np.isfinite(worst) else NO_NUMBER,
        tokens_compared=sum(a.size for a, _ in choices),
        tokens_equal=sum(int((a == b).sum()) for a, b in choices),
    )
