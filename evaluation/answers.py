"""Having a model answer examples, batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import InputError
from seq2edge.evaluation.examples import Example
from seq2edge.runtime.backend import all_logits
from seq2edge.runtime.likelihood import log_sum_exp
from seq2edge.runtime.model import Classification, GeneratedText, Model
from seq2edge.runtime.options import DecodeOptions

LONGEST = 384  # tokens of a text that perplexity reads


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """How a model is asked; None leaves it to the bundle.

    `language` is the spoken one, and `task` whether it is kept or translated to English.
    """

    options: DecodeOptions | None = None
    language: str | None = None
    task: str = "transcribe"
    source_language: str | None = None
    target_language: str | None = None
    batch: int = 8


def texts(
    model: Model, examples: Sequence[Example], request: ModelRequest
) -> Iterator[GeneratedText]:
    """The best text that the model generates or hears."""
    for batch in _batches(examples, request):
        inputs = [str(example.input) for example in batch]
        if model.dims.mels:
            found = model.transcribe(
                inputs, request.options, language=request.language, task=request.task
            )
        else:
            found = model.generate(
                inputs,
                request.options,
                source_language=request.source_language,
                target_language=request.target_language,
            )
        for best, *_ in found:
            yield best


def labels(
    model: Model, examples: Sequence[Example], request: ModelRequest
) -> Iterator[Classification]:
    """The label of each text, with the scores of all."""
    for batch in _batches(examples, request):
        yield from model.classify([str(example.input) for example in batch])


def embeddings(
    model: Model, examples: Sequence[Example], request: ModelRequest
) -> Iterator[NDArray[np.float32]]:
    """The embedding (width,) of each text."""
    for batch in _batches(examples, request):
        yield from model.embed([str(example.input) for example in batch])


def negative_log_likelihood(
    model: Model, examples: Sequence[Example], request: ModelRequest
) -> Iterator[tuple[float, float]]:
    """Of a decoder-only model: minus the log-probability of each text's tokens after its first.

    And their number. Texts are cut after LONGEST tokens.
    """
    for batch in _batches(examples, request):
        rows = [model.tokenizer.encode(str(e.input))[:LONGEST] for e in batch]
        if min(map(len, rows)) < 2:
            raise InputError("metric: perplexity needs texts of two tokens or more")
        longest = max(map(len, rows))
        tokens = np.zeros((len(rows), longest), dtype=np.int64)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
        lengths = np.array([len(ids) for ids in rows])
        cache = model.backend.start(None, len(rows), longest)
        found = np.zeros(len(rows))
        one = np.ones(len(rows), dtype=np.int64)
        for i in range(longest - 1):
            logits = all_logits(model.backend.step(tokens[:, i : i + 1], one, cache))
            likely = np.take_along_axis(logits, tokens[:, i + 1 : i + 2], axis=1)[:, 0]
            found += np.where(i + 1 < lengths, log_sum_exp(logits) - likely, 0.0)
        yield from zip(found.tolist(), (lengths - 1.0).tolist(), strict=True)


def _batches(examples: Sequence[Example], request: ModelRequest) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), request.batch):
        yield examples[start : start + request.batch]
