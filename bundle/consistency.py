"""Whether the parts of a manifest fit each other, and the files their sizes.

What a manifest says is believed as far as this goes. Its decoding defaults are checked where a
model is loaded (`runtime/limits.py`), tokenizers and recorded answers where they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from seq2edge.errors import BundleError
from seq2edge.model.dims import Dims, StackDims

if TYPE_CHECKING:
    from seq2edge.bundle.manifest import (
        AudioRecord,
        EmbeddingRecord,
        ImageRecord,
        Manifest,
        SpeechRecord,
        TokenizerRecord,
    )

CLIP = (16_000, 400, 160)  # of features: Hz, samples per window, samples between windows
COLORS = 3  # channels of what images become
FREE = 2**20  # weights that need no proof
WEIGHTS_A_BYTE = 8  # four times as many as the smallest type has: equal tensors are stored once


def check_parts(manifest: Manifest) -> None:
    """Raise BundleError for a part of the manifest that does not fit its dims."""
    dims = manifest.dims
    if manifest.task != dims.task:
        raise BundleError(f"task: {manifest.task!r}, but the dims are made to {dims.task}")
    classes = dims.labels if dims.head in ("classifier", "tokens") else 0
    if len(manifest.labels) != classes:
        raise BundleError(
            f"labels: {len(manifest.labels)} names, but the dims tell {classes} labels apart"
        )
    if manifest.reranking is not None:
        _check_ids("reranking.tokens", manifest.reranking.tokens, dims.vocab)
    if manifest.tokenizer is not None:
        _check_tokenizer(manifest.tokenizer, dims)
    if manifest.speech is not None:
        _check_speech(manifest.speech, dims)
    if manifest.audio is not None:
        _check_audio(manifest.audio, dims)
    if manifest.images is not None:
        _check_images(manifest.images, dims)
    if manifest.embedding is not None:
        _check_embedding(manifest.embedding, dims)


def check_weights(dims: Dims, size: int, subject: Path) -> None:
    """Raise BundleError about `subject` for dims whose weights `size` bytes cannot hold."""
    weights = _fewest_weights(dims)
    if weights > size * WEIGHTS_A_BYTE + FREE:
        raise BundleError(
            f"{subject}: dims: {weights:,} weights or more, but all files have {size:,} bytes"
        )


def _fewest_weights(dims: Dims) -> int:
    """Weights of tables and products that every model of these sizes has."""
    rows = dims.vocab + dims.source_vocab
    weights = rows * (dims.table_width or min(dims.width, dims.source_width))
    for stack, width in ((dims.encoder, dims.source_width), (dims.decoder, dims.width)):
        if stack is not None:
            weights += _weights_of_layers(stack, width)
    return weights


def _weights_of_layers(stack: StackDims, width: int) -> int:
    attention = 2 * width * (stack.query_width + stack.key_width)
    feedforward = 2 * width * stack.hidden
    if stack.shared_layers:
        return attention + feedforward
    attentions = stack.mixers.count("attention") if stack.mixers else stack.layers
    return attentions * attention + stack.layers * feedforward


def _check_ids(name: str, ids: Mapping[str, int] | tuple[int, ...], vocab: int) -> None:
    """Of a mapping its values."""
    for token in ids.values() if isinstance(ids, Mapping) else ids:
        if token >= vocab:
            raise BundleError(f"{name}: token {token}, the vocabulary has {vocab}")


def _check_tokenizer(record: TokenizerRecord, dims: Dims) -> None:
    rows = dims.source_vocab or dims.vocab
    generated = record.target_layout in ("start", "forced")
    read = bool(record.language_layout) or not generated
    limit = min(rows if read else dims.vocab, dims.vocab if generated else rows)
    _check_ids("tokenizer.languages", record.languages, limit)
    for name in ("source_language", "target_language"):
        code = getattr(record, name)
        if code and code not in record.languages:
            raise BundleError(f"tokenizer.{name}: {code!r} is none of the languages")
    if record.unknown_from is not None and record.unknown_from > rows:
        raise BundleError(
            f"tokenizer.unknown_from: {record.unknown_from}, but {rows} pieces have an embedding"
        )
    if record.text_limit == 0:
        raise BundleError("tokenizer.text_limit: 0, no text could be read")


def _check_speech(record: SpeechRecord, dims: Dims) -> None:
    _check_ids("speech.languages", record.languages, dims.vocab)
    _check_ids("speech.tasks", record.tasks, dims.vocab)
    for name in ("no_timestamps", "first_timestamp", "no_speech", "previous"):
        _check_ids(f"speech.{name}", (getattr(record, name) or 0,), dims.vocab)
    for pair in record.alignment_heads:
        stack = dims.decoder
        if stack is None or len(pair) != 2 or pair[0] >= stack.layers or pair[1] >= stack.heads:
            raise BundleError(f"speech.alignment_heads: {list(pair)} is no head of the decoder")


def _check_audio(record: AudioRecord, dims: Dims) -> None:
    made = (record.sampling_rate, record.fft, record.hop)
    expected = CLIP if dims.samples is None else (CLIP[0], 0, 0)
    if made != expected:
        raise BundleError(f"audio: rate, window and hop are {made}, clips are read by {expected}")
    samples = dims.longest_clip if dims.samples is not None else dims.frames * record.hop
    seconds = samples // record.sampling_rate
    if record.seconds != seconds:
        raise BundleError(f"audio: {record.seconds} seconds, but the dims take {seconds}")


def _check_images(record: ImageRecord, dims: Dims) -> None:
    image = dims.image
    if image is None:
        raise BundleError("images: how they are read, but the dims have none")
    if image.channels != COLORS:
        raise BundleError(f"images: of {COLORS} channels, but the dims take {image.channels}")
    steps = record.crop or record.size or record.shortest_edge
    if steps is not None and (record.crop or record.size) != (image.height, image.width):
        raise BundleError(
            f"images: made {record.crop or record.size or 'of any shape'}, "
            f"but the dims take {(image.height, image.width)}"
        )


def _check_embedding(record: EmbeddingRecord, dims: Dims) -> None:
    kept = record.dimensions
    if kept is not None and not 1 <= kept <= dims.embedding_width:
        raise BundleError(
            f"embedding.dimensions: {kept}, but the dims give {dims.embedding_width} values"
        )
    if record.longest == 0:
        raise BundleError("embedding.longest: 0, no text could be read")
