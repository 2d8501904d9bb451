"""Having a model answer examples, batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import InputError
from seq2edge.evaluation.examples import Example
from seq2edge.runtime.encoders import Text
from seq2edge.runtime.model import Model
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import rows_of
from seq2edge.runtime.sequences import GeneratedText
from seq2edge.runtime.understanding import Classification

if TYPE_CHECKING:
    from seq2edge.runtime.speech.transcriber import Transcriber
    from seq2edge.runtime.speech.transcript import Transcript

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
    batch: int = 8  # inputs at a time


def text_of(example: Example) -> Text:
    """What is read of an example that is no clip."""
    return example.input if isinstance(example.input, tuple) else str(example.input)


def ids_of(
    model: Model, example: Example, *, new_tokens: int, longest: int | None = None
) -> list[int]:
    """The ids of an example's text or pair, as many as there are positions for."""
    text = text_of(example)
    if isinstance(text, tuple) or model.bundle.manifest.reranking is not None:
        return model.read_text(text, cut=True).ids
    return model.encode_text(text, cut=True, new_tokens=new_tokens, longest=longest)


def texts(
    model: Model, examples: Sequence[Example], request: ModelRequest
) -> Iterator[GeneratedText | Transcript]:
    """The best text that the model generates, hears or reads; what is drawn is always the same."""
    options = request.options or model.options
    if options.do_sample and options.seed is None:
        options = options.replace(seed=0)
    if not model.dims.reads_signal:
        generated = model.generate_each(
            (str(example.input) for example in examples),
            options,
            rows=request.batch * rows_of(options),
            source_language=request.source_language,
            target_language=request.target_language,
        )
        yield from (best for best, *_ in generated)
        return
    for batch in _batches(examples, request):
        if model.dims.image is None:
            yield from _transcripts(model, batch, request, options)
            continue
        for best, *_ in model.read([str(example.input) for example in batch], options):
            yield best


def _transcripts(
    model: Model, batch: Sequence[Example], request: ModelRequest, options: DecodeOptions
) -> Iterator[GeneratedText | Transcript]:
    """What clips say; one that is longer than what the encoder takes is read by windows."""
    from seq2edge.runtime.sound.log_mel import SAMPLING_RATE, SECONDS
    from seq2edge.runtime.sound.recording import read_samples

    window = SECONDS * SAMPLING_RATE if model.dims.samples is None else model.dims.longest_clip
    clips = [read_samples(str(example.input)) for example in batch]
    short = [clip for clip in clips if len(clip) <= window]
    long = [clip for clip in clips if len(clip) > window]
    results = iter(model.transcribe(short, options, language=request.language, task=request.task))
    by_windows = transcriber(model, request, options).transcribe_each(long) if long else iter(())
    for clip in clips:
        yield next(results)[0] if len(clip) <= window else next(by_windows)


def transcriber(
    model: Model, request: ModelRequest, options: DecodeOptions | None, *, words: bool = False
) -> Transcriber:
    """What reads recordings of any length as a request has it, also the times of words."""
    from seq2edge.runtime.speech.options import AUTO, SpeechOptions
    from seq2edge.runtime.speech.transcriber import Transcriber

    speech = SpeechOptions(
        language=request.language or AUTO,
        task="translate" if request.task == "translate" else "transcribe",
        words=words,
        batch=request.batch,
    )
    return Transcriber(model, speech, options)


def labels(
    model: Model, examples: Sequence[Example], request: ModelRequest
) -> Iterator[Classification]:
    """The label of each text or pair, with the scores of all."""
    for batch in _batches(examples, request):
        yield from model.classify([text_of(example) for example in batch])


def embeddings(
    model: Model, examples: Sequence[Example], request: ModelRequest
) -> Iterator[NDArray[np.float32]]:
    """The embedding (width,) of each text."""
    for batch in _batches(examples, request):
        yield from model.embed([text_of(example) for example in batch])


def negative_log_likelihood(
    model: Model, examples: Sequence[Example], request: ModelRequest
) -> Iterator[tuple[float, int]]:
    """Of a decoder-only model: minus the log-likelihood of each text's tokens after its first.

    And their number. Texts are cut after LONGEST tokens.
    """
    for batch in _batches(examples, request):
        rows = [model.tokenizer.encode(str(example.input))[:LONGEST] for example in batch]
        if min(map(len, rows)) < 2:
            raise InputError("metric: perplexity needs texts of two tokens or more")
        for scored in model.score_ids(rows):
            yield -scored.log_likelihood, scored.tokens


def _batches(examples: Sequence[Example], request: ModelRequest) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), request.batch):
        yield examples[start : start + request.batch]
