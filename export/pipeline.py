"""From a checkpoint to a bundle whose graphs were proven equal to the model."""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from seq2edge import __version__
from seq2edge.bundle import Bundle, BundleWriter
from seq2edge.bundle.consistency import CLIP
from seq2edge.bundle.lexicon import LEXICON, write_lexicon
from seq2edge.bundle.manifest import (
    AudioRecord,
    EmbeddingRecord,
    GraphRecord,
    ImageRecord,
    Manifest,
    ProvenanceRecord,
    Role,
    SpeechRecord,
    TokenizerRecord,
    utc_now,
)
from seq2edge.bundle.reference import REFERENCE, read_reference, write_reference
from seq2edge.checkpoints.generation import GenerationDefaults, fit_defaults, read_generation
from seq2edge.checkpoints.hub import Hub, find_checkpoint
from seq2edge.checkpoints.images import read_image_processor
from seq2edge.checkpoints.importers.sentence_transformers import SentenceFolder
from seq2edge.checkpoints.load import Checkpoint, load_checkpoint
from seq2edge.checkpoints.sounds import check_feature_extractor
from seq2edge.checkpoints.tokenizer import Converted, convert_tokenizer
from seq2edge.errors import ExportError
from seq2edge.export.card import read_privacy
from seq2edge.export.eager import EagerBackend
from seq2edge.export.graphs import alignment_heads, trace_decoder, trace_encoder
from seq2edge.export.original import compare_with_original
from seq2edge.export.passes.fold_transposes import FoldTransposes
from seq2edge.export.passes.name_weights import NameWeights
from seq2edge.export.specialise import CANONICAL_RELEASE, FILES, write_graphs
from seq2edge.files.progress import Progress
from seq2edge.model.dims import Dims
from seq2edge.model.transformer import Heads, Transformer
from seq2edge.runtime import parity
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend, require_release
from seq2edge.runtime.limits import check_vocabulary
from seq2edge.runtime.options import DecodeOptions

# Where each stage begins and ends on the way.
STAGES = {
    "load": (0.0, 0.1),
    "trace encoder": (0.1, 0.3),
    "trace decoder": (0.3, 0.5),
    "weights": (0.5, 0.8),
    "reference": (0.8, 0.84),
    "original": (0.84, 0.9),
    "parity": (0.9, 1.0),
}

EMBEDS = ("embedding", "sparse")  # heads of what sentence-transformers' folders say
PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "transformers", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export made and measured; `parity` by target."""

    bundle: Bundle
    parity: dict[str, parity.Parity]
    ignored_settings: dict[str, Any]
    unused_tensors: tuple[str, ...]
    notes: tuple[str, ...]


def export_checkpoint(
    checkpoint: str | Path,
    destination: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
    alignments: bool = False,
    original: bool = True,
    task: str | None = None,
    words: Sequence[str] = (),
    template: str = "",
    long_context: bool = False,
    progress: Progress = lambda *_: None,
) -> ExportReport:
    """Export a checkpoint to a bundle.

    `checkpoint` is a folder or file; where there is none of that name, a model "owner/name" of a
    Hugging Face hub, of this `revision` (a branch, tag or commit). Its `token` is by default
    `HF_TOKEN` or the stored login; `offline` takes what is in the hub's cache.
    `task` says what it is to do, where its class leaves a choice: to embed texts with a
    masked-language model, say. `rerank` makes a reranker of a language model too: its score is how
    much likelier it finds the first of two `words` than the second behind a prompt, which a chat
    `template` of the roles query and document writes, or one that is known by name. Both are by
    default what the folder says, or what is known of models of its type.
    With `long_context` the positions of a model with LongRoPE are those of its longest texts; else
    its bundle takes texts up to the original length.
    With `alignments` the decoder also gives which source each token comes from, for
    `DecodeOptions(alignments=True)`.

    With `original` transformers' own model of the checkpoint is asked too, where there is one, in a
    process of its own; what came of it stands in the manifest.

    Raises CheckpointError or UnsupportedError for what cannot be loaded, BundleError for a
    destination that cannot be written, BackendError for an ONNX Runtime that is too old to check
    graphs, and ExportError when a graph differs from the model or the
    model from the original, or for alignments of a model that is no encoder-decoder.
    """
    require_release(CANONICAL_RELEASE)
    progress = _overall(progress)
    with BundleWriter(destination, overwrite=overwrite) as writer:
        progress("load", 0.0)
        hub = Hub(revision=revision, token=token, offline=offline)
        place, origin = find_checkpoint(checkpoint, hub)
        loaded = load_checkpoint(
            place, task=task, words=words, template=template, long_context=long_context
        )
        defaults = read_generation(loaded.source.generation, loaded.source.config)
        if loaded.dims.head == "lm":
            defaults = fit_defaults(defaults, loaded.dims)
            options = DecodeOptions.from_dict(defaults.options)
            check_vocabulary(options, loaded.dims)  # refuse contradictions before tracing
        heads: Heads = ()
        if alignments:
            speech = _speech(defaults, loaded.dims.vocab)
            heads = alignment_heads(loaded.dims, speech.alignment_heads)
        images, notes = _read_images(loaded)
        if loaded.dims.task == "transcribe":
            check_feature_extractor(loaded.source.path, loaded.dims)
        tokenizer, more = _write_tokenizer(writer, loaded)
        graphs = _write_graphs(writer, loaded, heads, progress)
        manifest = _manifest(loaded, origin, defaults, tokenizer, graphs)
        manifest = dataclasses.replace(manifest, images=images)
        if loaded.source.lexicon is not None:
            write_lexicon(writer.path(LEXICON), loaded.source.lexicon)
            manifest = dataclasses.replace(manifest, lexicon=LEXICON)
        progress("reference", 0.0)
        reference = record_reference(loaded, heads)
        write_reference(writer.path(REFERENCE), reference)
        del loaded
        gc.collect()
        progress("original", 0.0)
        judged = compare_with_original(place, manifest, writer.path(REFERENCE), enabled=original)
        measured = _gate(writer.preview(manifest), progress)
        worst = parity.combine(list(measured.values())).record
        bundle = writer.finish(dataclasses.replace(manifest, parity=worst, original=judged))
    return ExportReport(
        bundle=bundle,
        parity=measured,
        ignored_settings=defaults.ignored,
        unused_tensors=bundle.manifest.provenance.unused_tensors,
        notes=notes + more,
    )


def _overall(progress: Progress) -> Progress:
    """Report the part of a stage as a part of everything."""

    def show(stage: str, part: float) -> None:
        start, end = STAGES[stage]
        progress(stage, start + part * (end - start))

    return show


def record_reference(loaded: Checkpoint, heads: Heads = ()) -> parity.Arrays:
    """What the model answers in float64, and how much it errs from that in float32."""
    padding = {loaded.source.config.get("pad_token_id")}
    for stack in (loaded.dims.encoder, loaded.dims.decoder):
        if stack is not None and stack.position_offset:  # positions are counted from it
            padding.add(stack.position_offset - 1)
    avoid = frozenset(token for token in padding if isinstance(token, int))
    start = _start_tokens(read_generation(loaded.source.generation, loaded.source.config).options)
    inputs = parity.make_inputs(loaded.dims, start, avoid=avoid)
    reference = parity.record(EagerBackend(loaded.model.double(), heads), inputs, avoid)
    reference[parity.FLOAT32_ERROR] = np.zeros(())
    own = parity.replay(EagerBackend(loaded.model.float(), heads), reference)
    return {**reference, parity.FLOAT32_ERROR: np.array(own.max_absolute)}


def _start_tokens(options: dict[str, Any]) -> tuple[int, ...]:
    start = options.get("decoder_start_token_id")
    return () if start is None else (int(start),)


def _read_images(loaded: Checkpoint) -> tuple[ImageRecord | None, tuple[str, ...]]:
    """How images are made ready, where the model reads any; and remarks."""
    image = loaded.dims.image
    if image is None:
        return None, ()
    record = read_image_processor(loaded.source.path, image)
    missing = "the checkpoint has no image processor: the bundle takes pixels alone"
    return record, () if record is not None else (missing,)


def _write_tokenizer(
    writer: BundleWriter, loaded: Checkpoint
) -> tuple[TokenizerRecord | None, tuple[str, ...]]:
    """Convert the checkpoint's tokenizer into the bundle; the manifest's record, and remarks."""
    source, dims = loaded.source, loaded.dims
    if loaded.reranker is not None:
        converted: Converted | None = loaded.reranker.tokenizer
    else:
        converted = convert_tokenizer(
            source.path,
            config=source.config,
            vocab=dims.vocab,
            source_vocab=dims.source_vocab,
            files=source.tokenizer_files,
            pieces=source.pieces,
            fills=dims.head == "masked",
        )
    if converted is None:
        return None, ("the checkpoint has no tokenizer: the bundle takes token ids alone",)
    for name, data in converted.files.items():
        writer.path(name).write_bytes(data)
    record, sentence, longest = converted.record, source.sentence, converted.longest
    if sentence is not None:  # which bounds embeddings itself
        longest = (sentence.longest or longest) if sentence.crosses else None
    if dims.kind == "encoder" and longest is not None:
        assert dims.encoder is not None
        positions = dims.encoder.max_positions
        if not positions or longest < positions:
            record = dataclasses.replace(record, text_limit=longest)
    return record, converted.notes


def _write_graphs(
    writer: BundleWriter, loaded: Checkpoint, alignment: Heads, progress: Progress
) -> tuple[GraphRecord, ...]:
    """Trace, specialise and write all graphs over one weights file."""
    models: dict[Role, ir.Model] = {}
    with _quiet():
        for role, model in _traced(loaded.model, alignment, progress):
            FoldTransposes()(model)
            NameWeights()(model)
            models[role] = model
    total = sum(parameter.nbytes for parameter in loaded.model.parameters())
    written = 0

    def count(size: int) -> None:
        nonlocal written
        written += size
        progress("weights", min(1.0, written / total))

    return write_graphs(writer, models, loaded.dims, progress=count)


def _traced(
    model: Transformer, alignment: Heads, progress: Progress
) -> Iterator[tuple[Role, ir.Model]]:
    if model.dims.encoder is not None:
        progress("trace encoder", 0.0)
        yield "encoder", trace_encoder(model)
    if model.dims.decoder is not None:
        progress("trace decoder", 0.0)
        yield "decoder", trace_decoder(model, alignment)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs about packages it did not find; nobody can act on that."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _manifest(
    loaded: Checkpoint,
    origin: str,
    defaults: GenerationDefaults,
    tokenizer: TokenizerRecord | None,
    graphs: tuple[GraphRecord, ...],
) -> Manifest:
    """What the checkpoint says of itself, in the manifest's records."""
    dims = loaded.dims
    generates = dims.head == "lm"
    return Manifest(
        kind=dims.kind,  # type: ignore[arg-type]
        task=dims.task,  # type: ignore[arg-type]
        family=loaded.family,
        dims=dims,
        generation=defaults.options if generates else None,
        generation_ignored=defaults.ignored if generates else {},
        labels=loaded.labels,
        problem=loaded.problem,  # type: ignore[arg-type]
        relevance=loaded.relevance,  # type: ignore[arg-type]
        audio=_audio(dims),
        speech=_speech(defaults, dims.vocab) if dims.task == "transcribe" else None,
        tokenizer=tokenizer,
        embedding=_embedding(loaded.source.sentence) if dims.head in EMBEDS else None,
        reranking=loaded.reranker.record if loaded.reranker is not None else None,
        graphs=graphs,
        provenance=ProvenanceRecord(
            tool_version=__version__,
            created=utc_now(),
            source=origin,
            source_format=loaded.source.source_format,
            packages={name: importlib.metadata.version(name) for name in PACKAGES},
            unused_tensors=loaded.unused_tensors,
            privacy=read_privacy(loaded.source.path) if loaded.family == "seq2edge" else None,
        ),
    )


def _embedding(sentence: SentenceFolder | None) -> EmbeddingRecord | None:
    """What a folder of sentence-transformers says beside its model."""
    if sentence is None:
        return None
    return EmbeddingRecord(
        prompts=sentence.prompts,
        default_prompt=sentence.default_prompt,
        longest=sentence.longest,
        dimensions=sentence.dimensions,
        similarity=sentence.similarity,  # type: ignore[arg-type]
    )


def _audio(dims: Dims) -> AudioRecord | None:
    rate, window, hop = CLIP
    if dims.samples is not None:
        seconds = dims.longest_clip // rate
        return AudioRecord(sampling_rate=rate, mels=0, fft=0, hop=0, seconds=seconds)
    if not dims.mels:
        return None
    seconds = dims.frames * hop // rate
    return AudioRecord(sampling_rate=rate, mels=dims.mels, fft=window, hop=hop, seconds=seconds)


def _speech(defaults: GenerationDefaults, vocab: int) -> SpeechRecord:
    """Ids that transformers' generation reads or, by their places before the times, derives."""
    extras = defaults.extras
    no_timestamps = extras.get("no_timestamps_token_id")
    previous = extras.get("prev_sot_token_id")
    first = None if no_timestamps is None else no_timestamps + 1
    suppressed = defaults.options.get("suppress_tokens") or []
    if previous is None and no_timestamps is not None and len(suppressed) > 1:
        previous = suppressed[-2]
    return SpeechRecord(
        languages={k.strip("<|>"): v for k, v in (extras.get("lang_to_id") or {}).items()},
        tasks=dict(extras.get("task_to_id") or {}),
        no_timestamps=no_timestamps,
        alignment_heads=tuple(tuple(pair) for pair in extras.get("alignment_heads") or ()),
        first_timestamp=first if first is not None and first < vocab else None,
        max_initial_timestamp=extras.get("max_initial_timestamp_index"),
        no_speech=no_timestamps - 1 if no_timestamps else None,
        previous=previous,
    )


def _gate(bundle: Bundle, progress: Progress) -> dict[str, parity.Parity]:
    """Replay the reference on every kind of graphs; a difference fails the export."""
    reference = read_reference(bundle.file(REFERENCE))
    measured: dict[str, parity.Parity] = {}
    for i, target in enumerate(FILES):
        progress("parity", i / len(FILES))
        # No name for the backend: the next one must not come while this one is in memory.
        agreement = parity.replay(OnnxRuntimeBackend(bundle, target=target), reference)
        if not agreement.within():
            raise ExportError(
                f"parity: {target} graphs differ from the model: logits by "
                f"{agreement.max_absolute:.2e} ({agreement.max_relative:.1e} of the largest) "
                f"where {agreement.allowed:.1e} are allowed, "
                f"{agreement.tokens_equal} of {agreement.tokens_compared} tokens "
                "the same; the bundle was not written"
            )
        measured[target] = agreement
    progress("parity", 1.0)
    return measured
