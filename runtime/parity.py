"""The numeric proof: what the float model answered, replayed on any backend.

`record` runs a fixed program on the reference model (unequal batch, prefill, two beams an input,
steps with the model's own tokens) and keeps inputs, tokens and logits; `replay` runs the same
program on another backend, feeding it the recorded tokens, and compares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, cast

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
Pair: TypeAlias = "tuple[NDArray[Any], NDArray[Any]]"  # recorded and replayed values
# Of each row the likeliest tokens and their logits, recorded, (rows, TOP); the replay's (rows,).
ChoicePair: TypeAlias = "tuple[NDArray[Any], NDArray[Any], NDArray[Any]]"

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

# Of bundles whose reference does not say what the float32 model itself errs, by their precision.
TOLERANCES = {"float32": Tolerance(absolute=2e-4, relative=2e-5)}

# A reference is what the model answers in float64. Graphs may err so many times as much as the
# float32 model does, which errs no less than so much of the largest logit.
FLOAT32_ERROR = "float32_error"
ERROR_MULTIPLE = 8.0
LEAST_ERROR = 2.0**-22
ELSEWHERE = 4.0  # and so many times as much again with another machine's kernels


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
    """What a replay measured, and whether it is near enough; `allowed` is a logit's error."""

    allowed: float = 0.0

    @property
    def record(self) -> ParityRecord:
        """What a manifest keeps."""
        names = (field.name for field in dataclasses.fields(ParityRecord))
        return ParityRecord(**{name: getattr(self, name) for name in names})

    @property
    def figures(self) -> str:
        """The errors and, where there are any, the equal tokens, in words."""
        tokens = f", {self.tokens_equal} of {self.tokens_compared} tokens equal"
        return (
            f"largest error {self.max_absolute:.1e} ({self.max_relative:.1e} of the largest value)"
            f"{tokens if self.tokens_compared else ''}"
        )

    def within(self, times: float = 1.0) -> bool:
        """Whether errors are at most `times` what is allowed, and every token is the same."""
        close = self.max_absolute <= times * self.allowed
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
        allowed=max(part.allowed for part in parts),
    )


def allowed_error(reference: Arrays) -> float:
    """How much a logit of the float32 graphs may differ from the recorded one."""
    kept = ("top_logits", "pooled")
    values = [array for name, array in reference.items() if name.startswith(kept)]
    largest = max(float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) for array in values)
    if FLOAT32_ERROR in reference:
        return ERROR_MULTIPLE * max(float(reference[FLOAT32_ERROR]), LEAST_ERROR * largest)
    table = TOLERANCES["float32"]
    return max(table.absolute, table.relative * largest)


def make_inputs(
    dims: Dims, start: tuple[int, ...], seed: int = 0, avoid: frozenset[int] = frozenset()
) -> Arrays:
    """Random sources and prompts of unequal lengths that fit the model, reproducible by seed.

    Without the ids to `avoid`: some models take padding out of a text wherever it stands.
    """
    rng = np.random.default_rng(seed)

    def draw(vocab: int, length: int) -> NDArray[np.int64]:
        possible = np.setdiff1d(np.arange(vocab), list(avoid))
        return possible[rng.integers(0, len(possible), (2, length))]

    inputs: Arrays = {}
    if dims.encoder is not None:
        longest = min(12, dims.encoder.max_positions or 12)
        if dims.source_shape:
            inputs["source"] = rng.standard_normal((1, *dims.source_shape), dtype=np.float32)
            inputs["source_length"] = np.array([dims.source_positions])
        elif dims.samples is not None:
            whole, part = map(dims.samples.length, (longest, longest // 2))
            inputs["source"] = rng.standard_normal((2, whole + 1), dtype=np.float32)
            inputs["source_length"] = np.array([whole + 1, part])
        else:
            inputs["source"] = draw(dims.source_vocab or dims.vocab, longest)
            inputs["source_length"] = np.array([longest, max(1, longest // 2)])
            if dims.kind == "encoder" and dims.token_types > 1:
                inputs["token_types"] = rng.integers(0, dims.token_types, (2, longest))
    if dims.kind == "decoder":
        inputs["prompt"] = draw(dims.vocab, 7)
        inputs["prompt_length"] = np.array([7, 4])
    elif dims.kind == "encoder-decoder":
        batch = len(inputs["source"])
        inputs["prompt"] = np.tile(np.array(start or (0,), dtype=np.int64), (batch, 1))
        inputs["prompt_length"] = np.full(batch, inputs["prompt"].shape[1])
    return inputs


def record(backend: Backend, inputs: Arrays, avoid: frozenset[int] = frozenset()) -> Arrays:
    """Run the reference and keep what it answered: tokens, largest logits and log-sum-exps.

    It goes on with its own tokens, but for those to `avoid`. Values are kept as float32.
    """
    if "prompt" not in inputs:
        return {**inputs, "pooled": _pooled(backend, inputs).astype(np.float32)}
    # The TOP largest logits of a step and the log-sum-exp stand for all: they are what decoding
    # looks at, and a vocabulary of logits at every step would make the bundle large.
    tokens: list[NDArray[np.int64]] = []
    ids, logits, totals = [], [], []
    alignments: Arrays = {}
    for i, (answer, cache) in enumerate(_decode(backend, inputs, tokens)):
        if backend.aligns:
            alignments[f"alignment_{i}"] = _alignment(cache).astype(np.float32)
        scores = all_logits(answer)
        possible = int((~np.isneginf(scores)).sum(axis=-1).min())  # fewer with a shortlist
        top = np.argsort(-scores, axis=-1, kind="stable")[:, : min(TOP, possible)]
        ids.append(top)
        logits.append(np.take_along_axis(scores, top, axis=-1).astype(np.float32))
        totals.append(log_sum_exp(scores, scores.dtype).astype(np.float32))
        tokens.append(_next_tokens(top, avoid, len(inputs["prompt"]), len(tokens)))
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
        pair = (reference["pooled"], _pooled(backend, reference))
        return compare([pair], [], allowed_error(reference))
    pairs: list[Pair] = []
    choices: list[ChoicePair] = []
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
        choices.append((top_ids, reference[f"top_logits_{i}"], scores.argmax(axis=-1)))
        if backend.aligns and f"alignment_{i}" in reference:
            pairs.append((reference[f"alignment_{i}"], _alignment(cache).copy()))
    if backend.verifies:
        pairs.extend(_verified_pairs(backend, reference))
    return compare(pairs, choices, allowed_error(reference))


def _pooled(backend: Backend, inputs: Arrays) -> NDArray[np.float32]:
    """What an encoder-only model answers; 0 for padding, whose answers mean nothing."""
    lengths = inputs["source_length"]
    pooled = backend.pool(inputs["source"], lengths, inputs.get("token_types"))
    if pooled.ndim > 2:  # (batch, source, values)
        valid = np.arange(pooled.shape[1]) < lengths[:, None]
        pooled = np.where(valid[:, :, None], pooled, np.float32(0))
    return pooled


def _verified_pairs(backend: Backend, reference: Arrays) -> Iterator[Pair]:
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
        elif name == FLOAT32_ERROR:
            part[name] = values
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


def histories(reference: Arrays) -> list[list[tuple[int, list[int]]]]:
    """Of each answer of the program, what its rows read: number of the input, and all ids."""
    batch, (_, rows) = len(reference["prompt"]), reference["tokens"].shape
    lengths = reference["prompt_length"].tolist()
    known = [(i, reference["prompt"][i, : lengths[i]].tolist()) for i in range(batch)]
    answers = [known]
    width = rows // batch
    known = [known[row // width] for row in range(rows)]
    for i, tokens in enumerate(reference["tokens"][:-1].tolist()):
        known = [(of, [*ids, token]) for (of, ids), token in zip(known, tokens, strict=True)]
        answers.append(known)
        if i == STEPS // 2:
            known = [known[row // width * width + width - 1 - row % width] for row in range(rows)]
    return answers


def _alignment(cache: Cache) -> NDArray[np.float32]:
    """What the rows of a backend that aligns attend to."""
    return cast("AligningCache", cache).alignment


def _candidate_pairs(candidates: Candidates, scores: Logits) -> list[Pair]:
    """What candidates are by all logits, and what the backend said that they are."""
    places = np.clip(candidates.ids, 0, scores.shape[1] - 1)
    largest = -np.sort(-scores, axis=-1)[:, : candidates.values.shape[1]]
    return [
        (np.take_along_axis(scores, places, axis=-1), candidates.values.copy()),
        (largest, -np.sort(-candidates.values, axis=-1)),
        (log_sum_exp(scores, np.float32), candidates.log_sum_exp.copy()),
    ]


def _next_tokens(
    top: NDArray[np.int64], avoid: frozenset[int], batch: int, step: int
) -> NDArray[np.int64]:
    """The tokens to go on with, (batch * BEAMS,): best and second best, then each row's best."""
    count = BEAMS if step == 0 else 1
    chosen = [[token for token in row if token not in avoid][:count] for row in top.tolist()]
    return np.array(chosen[:batch] if step == 0 else chosen, dtype=np.int64).reshape(-1)


def compare(pairs: Sequence[Pair], choices: Sequence[ChoicePair], allowed: float) -> Parity:
    """Largest error of the values, and how many of the tokens are the same.

    Of tokens whose recorded logits lie so near to each other that both may err past the other,
    either is right.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # no number is the largest error of all
        worst = float(np.max([np.abs(a - b).max() for a, b in pairs]))
    largest = float(np.max([np.abs(a).max() for a, _ in pairs]))
    return Parity(
        max_absolute=worst if np.isfinite(worst) else NO_NUMBER,
        max_relative=worst / largest if np.isfinite(worst) else NO_NUMBER,
        tokens_compared=sum(chosen.size for _, _, chosen in choices),
        tokens_equal=sum(_count_equal(choice, 2 * allowed) for choice in choices),
        allowed=allowed,
    )


def _count_equal(choice: ChoicePair, slack: float) -> int:
    """Rows whose token is the likeliest recorded one, or as likely."""
    top_ids, top_logits, chosen = choice
    as_likely = top_logits >= top_logits[:, :1] - slack
    return int(((top_ids == chosen[:, None]) & as_likely).any(axis=1).sum())
