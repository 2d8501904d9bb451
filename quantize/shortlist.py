"""A float bundle in, one that generates the tokens of a list alone out: `seq2edge shortlist`."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge import __version__
from seq2edge.bundle import Bundle, BundleWriter
from seq2edge.bundle.manifest import (
    MANIFEST,
    GraphFlavour,
    Manifest,
    ParityRecord,
    ShortlistRecord,
    utc_now,
)
from seq2edge.bundle.reference import REFERENCE, write_reference
from seq2edge.bundle.shortlist import SHORTLIST, write_ids
from seq2edge.errors import BundleError, ExportError, InputError, OptionError
from seq2edge.evaluation.examples import Example
from seq2edge.export.specialise import FILES, write_graphs
from seq2edge.export.weights import WEIGHTS
from seq2edge.files.progress import Progress
from seq2edge.quantize.onnxruntime_graphs import read_graphs
from seq2edge.runtime import parity
from seq2edge.runtime.backend import Backend, Features, Lengths, Logits, Memory, Tokens, all_logits
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend, import_onnxruntime, runs
from seq2edge.runtime.filters import NEVER
from seq2edge.runtime.limits import check_listed
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.recorded import read_recorded
from seq2edge.runtime.tokenizer import Tokenizer

# What a logit may differ by from the whole bundle's, relative to the largest: products of other
# sizes sum in another order.
LARGEST_DIFFERENCE = 1e-5
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortlistReport:
    """What was made of which bundle.

    `difference` is the largest of a listed token's logit to the whole bundle's, by target.
    """

    source: Bundle
    bundle: Bundle
    ids: tuple[int, ...]
    difference: dict[str, float]


def shorten_vocabulary(
    source: str | Path,
    destination: str | Path,
    *,
    ids: Sequence[int] = (),
    examples: Sequence[Example] = (),
    most: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> ShortlistReport:
    """Write a copy of a float bundle whose decoder computes the logits of a list's tokens alone.

    The list is `ids`, or learnt from `examples`: all tokens of their references (a decoder-only
    model's: of the whole texts), or the `most` frequent ones, and with them what has to stay: added
    and special tokens, those that the decoding defaults name, and single bytes and characters, so
    that any text can still be spelled. The tokens of the copy are those of the whole bundle with
    all others in `suppress_tokens`.

        report = seq2edge.quantize.shortlist.shorten_vocabulary("model", "short", ids=ids)
        report.bundle.size

    Raises OptionError for a list without a token that the decoding defaults force or end with, and
    where both or neither of `ids` and `examples` are given; InputError for ids that are none and
    for examples without references; BundleError for a source that is quantized, damaged or has no
    vocabulary; ExportError where a logit is not the whole bundle's.
    """
    if bool(ids) == bool(examples):
        raise OptionError("shortlist: give ids, or examples to learn them from")
    if most is not None and (not examples or most < 1):
        raise OptionError(f"most: {most}, so many tokens of examples, 1 or more")
    bundle = Bundle.open(source, hashes=True)
    _check_source(bundle)
    progress("read", 0.0)
    listed = _checked(ids, bundle) if ids else learn_ids(bundle, examples, most)
    check_listed(DecodeOptions.from_dict(dict(bundle.manifest.generation or {})), listed)
    chosen = np.array(sorted(listed), dtype=np.int64)
    with BundleWriter(destination, overwrite=overwrite) as writer:
        progress("weights", 0.1)
        models = read_graphs(bundle, "canonical")
        graphs = write_graphs(writer, models, bundle.manifest.dims, ids=chosen)
        write_ids(writer.path(SHORTLIST), chosen.tolist())
        _copy_others(writer, bundle)
        manifest = dataclasses.replace(
            bundle.manifest,
            graphs=graphs,
            engines=(),
            shortlist=ShortlistRecord(
                file=SHORTLIST,
                size=len(chosen),
                origin="texts" if examples else "ids",
                texts=len(examples),
                most=most,
                source_sha256=hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest(),
                tool_version=__version__,
                created=utc_now(),
            ),
        )
        gate = _Gate(bundle, writer, manifest, chosen, threads)
        for number, target in enumerate(gate.targets):
            progress("compare", 0.3 + 0.6 * number / len(gate.targets))
            gate.compare(target)
        progress("write", 0.9)
        finished = writer.finish(dataclasses.replace(manifest, parity=gate.parity()))
    progress("write", 1.0)
    return ShortlistReport(
        source=bundle, bundle=finished, ids=tuple(chosen.tolist()), difference=gate.difference
    )


def learn_ids(bundle: Bundle, examples: Sequence[Example], most: int | None = None) -> set[int]:
    """The tokens of examples' references (or whole texts), and what has to stay.

    Raises InputError for examples without references and for a bundle without a tokenizer.
    """
    manifest = bundle.manifest
    if manifest.tokenizer is None:
        raise InputError(f"{bundle.path}: has no tokenizer, give the ids")
    tokenizer = Tokenizer(bundle.path, manifest.tokenizer)
    counts: Counter[int] = Counter()
    for number, example in enumerate(examples, start=1):
        texts = list(example.references)
        if manifest.kind == "decoder":
            texts.insert(0, str(example.input))
        if not texts:
            raise InputError(f"example {number}: has no reference, which tokens are learnt from")
        for text in texts:
            counts.update(tokenizer.encode_target(text))
    frequent = sorted(counts, key=lambda token: (-counts[token], token))[:most]
    vocab = manifest.dims.vocab
    return {token for token in {*frequent, *_staying(manifest, tokenizer)} if token < vocab}


def _staying(manifest: Manifest, tokenizer: Tokenizer) -> set[int]:
    """Tokens that are on every learnt list."""
    options = DecodeOptions.from_dict(dict(manifest.generation or {}))
    ids = {*options.eos_token_id, *options.forced_eos_token_id, *options.decoder_prompt}
    single = [options.bos_token_id, options.pad_token_id, options.decoder_start_token_id]
    single.append(options.forced_bos_token_id)
    record, speech = tokenizer.record, manifest.speech
    if record.target_layout in ("start", "forced"):
        ids |= set(record.languages.values())
    if speech is not None:
        ids |= {*speech.languages.values(), *speech.tasks.values()}
        single.append(speech.no_timestamps)
    ids |= {token for token in single if token is not None}
    pieces = tokenizer.ids_of_tokens()
    special = {getattr(record.special, name) for name in ("bos", "eos", "pad", "unk")}
    ids |= {token for piece, token in pieces.items() if piece in special}
    ids |= {token for piece, token in pieces.items() if len(piece) == 1 or BYTE.fullmatch(piece)}
    return ids | tokenizer.added_ids()


def _checked(ids: Sequence[int], bundle: Bundle) -> set[int]:
    vocab = bundle.manifest.dims.vocab
    for token in ids:
        if not 0 <= token < vocab:
            raise InputError(f"shortlist: id {token}, the vocabulary has {vocab}")
    if len(set(ids)) < 2:
        raise InputError("shortlist: one token alone, give those that answers are made of")
    return set(ids)


def _check_source(bundle: Bundle) -> None:
    manifest = bundle.manifest
    if manifest.precision != "float32":
        raise BundleError(
            f"{bundle.path}: quantized ({manifest.precision}); shorten the float bundle, then "
            "quantize"
        )
    if manifest.kind == "encoder":
        raise BundleError(f"{bundle.path}: made to {manifest.task}, it generates no tokens")
    if manifest.shortlist is not None:
        raise BundleError(f"{bundle.path}: has a shortlist already; shorten the whole bundle")
    if REFERENCE not in manifest.files:
        raise BundleError(f"{bundle.path}: has no {REFERENCE}, export the checkpoint again")


def _copy_others(writer: BundleWriter, bundle: Bundle) -> None:
    """Tokenizers; engines were compiled for the whole vocabulary."""
    manifest = bundle.manifest
    own = {graph.file for graph in manifest.graphs} | {WEIGHTS, REFERENCE}
    for engine in manifest.engines:
        own |= {engine.file, engine.sidecar}
    for name in manifest.files:
        if name not in own:
            shutil.copyfile(bundle.file(name), writer.path(name))


class _Gate:
    """Compares the graphs of both bundles, and records anew what the short one has to answer."""

    def __init__(
        self,
        source: Bundle,
        writer: BundleWriter,
        manifest: Manifest,
        ids: NDArray[np.int64],
        threads: int | None,
    ) -> None:
        version = str(import_onnxruntime().__version__)
        self.targets = [target for target in FILES if runs(source, target, version)]
        if not self.targets:
            raise BundleError(f"{source.path}: none of its graphs run in onnxruntime {version}")
        self.difference: dict[str, float] = {}
        self._source, self._writer, self._manifest = source, writer, manifest
        self._ids, self._threads = ids, threads
        self._reference: parity.Arrays | None = None
        self._measured: list[parity.Parity] = []

    def compare(self, target: GraphFlavour) -> None:
        """Raise ExportError unless the listed tokens' logits are the whole bundle's."""
        whole = _Listed(self._open(self._source, target), self._ids)
        if self._reference is None:
            before = read_recorded(self._source)
            inputs = ("source", "source_length", "prompt", "prompt_length")
            self._reference = parity.record(whole, {k: before[k] for k in inputs if k in before})
            if parity.FLOAT32_ERROR in before:  # of a graph and the same one shortened
                self._reference[parity.FLOAT32_ERROR] = 2 * before[parity.FLOAT32_ERROR]
            write_reference(self._writer.path(REFERENCE), self._reference)
        else:
            parity.replay(whole, self._reference)
        expected = whole.steps
        del whole  # two models at a time are enough
        backend = self._open(self._writer.preview(self._manifest), target)
        short = _Listed(backend, self._ids)
        parity.replay(short, self._reference)
        pairs = list(zip(expected, short.steps, strict=True))
        worst = max(float(np.abs(a - b).max()) for a, b in pairs)
        largest = max(1.0, *(float(np.abs(a).max()) for a, _ in pairs))
        measured = parity.replay(backend, self._reference)
        if not worst <= LARGEST_DIFFERENCE * largest or not measured.within():
            raise ExportError(
                f"shortlist: logits of the {target} graphs differ by {worst:.1e} from the whole "
                f"bundle's, {measured.figures}; the bundle was not written"
            )
        self.difference[target] = worst
        self._measured.append(measured)

    def parity(self) -> ParityRecord:
        """How far the short graphs may be from the model: what both errors add up to."""
        worst, before = parity.combine(self._measured).record, self._manifest.parity
        if before is None:
            return worst
        return dataclasses.replace(
            worst,
            max_absolute=worst.max_absolute + before.max_absolute,
            max_relative=worst.max_relative + before.max_relative,
        )

    def _open(self, bundle: Bundle, target: GraphFlavour) -> OnnxRuntimeBackend:
        return OnnxRuntimeBackend(bundle, target=target, threads=self._threads)


class _Listed:
    """A backend of which the logits of some tokens count; `steps` keeps these (rows, tokens)."""

    name = "listed"
    capacity: int | None = None
    rows: int | None = None
    running = verifies = False

    def __init__(self, backend: Backend, ids: NDArray[np.int64]) -> None:
        self.steps: list[Logits] = []
        self._backend, self._ids = backend, ids
        self.aligns = backend.aligns

    def encode(self, source: Tokens | Features, source_length: Lengths) -> Memory:
        """See Backend."""
        return self._backend.encode(source, source_length)

    def start(self, memory: Memory | None, rows: int, capacity: int | None) -> Any:
        """See Backend."""
        return self._backend.start(memory, rows, capacity)

    def step(self, tokens: Tokens, new_length: Lengths, cache: Any, positions: int = 1) -> Logits:
        """See Backend."""
        logits = all_logits(self._backend.step(tokens, new_length, cache, positions))
        kept = logits[:, self._ids]
        listed = np.full_like(logits, NEVER)
        listed[:, self._ids] = kept
        self.steps.append(kept)
        return listed

    def pool(
        self, source: Tokens, source_length: Lengths, token_types: Tokens | None = None
    ) -> NDArray[np.float32]:
        """See Backend."""
        return self._backend.pool(source, source_length, token_types)
