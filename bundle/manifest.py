"""What `manifest.json` of a bundle says: closed, versioned records.

Format 4 (1 knew no quantization, 2 no calibration, 3 no privacy). Unknown keys, missing keys and
other formats are refused, so a reader never acts on half of what a bundle means.
`manifest.schema.json` is the same grammar as a JSON schema.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from seq2edge.bundle.consistency import check_parts
from seq2edge.errors import BundleError
from seq2edge.files.records import (
    OPTIONAL,
    Pattern,
    RecordError,
    decode,
    json_schema,
    parse_json,
    plain_values,
    record_errors,
)
from seq2edge.files.storage import FileRecord, Sha256
from seq2edge.model.dims import Dims

FORMAT: Final = 4
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"  # beside it, in a signed bundle
LARGEST_MANIFEST = 16 * 2**20  # bytes
MOST_ENGINES = 128  # of all targets
LARGEST_EDGE = 2**14  # pixels that an image is resized to
_DEVICES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{n}" for port in ("COM", "LPT") for n in "123456789"),
}

FileName: TypeAlias = Annotated[
    str,
    Pattern(
        regex=r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_-])?"
        r"(/[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_-])?)*",
        meaning="a relative file name inside the bundle (ASCII letters, digits, '.', '_', '-', "
        "parts joined by '/', no part that begins or ends with '.', 100 characters at most)",
        longest=100,
    ),
]
UtcTime: TypeAlias = Annotated[
    str,
    Pattern(
        regex=r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z",
        meaning="a UTC time such as 2026-01-31T23:59:59Z",
        longest=20,
    ),
]
Version: TypeAlias = Annotated[
    str,
    Pattern(
        regex=r"[0-9]+(\.[0-9]+)*",
        meaning="a release number such as 1.23.2",
        longest=40,
    ),
]
Dtype: TypeAlias = Literal[
    "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"
]
Role: TypeAlias = Literal["encoder", "decoder"]
GraphFlavour: TypeAlias = Literal["canonical", "onnxruntime", "tensorrt"]
Precision: TypeAlias = Literal[
    "float32", "int8-weight", "int4-weight", "int8-dynamic", "int8-static", "fp16", "bf16"
]
Kind: TypeAlias = Literal["encoder-decoder", "decoder", "encoder"]
Task: TypeAlias = Literal[
    "generate", "transcribe", "read", "classify", "embed", "tag", "answer", "fill", "weigh"
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorRecord:
    """An input or output of a graph; strings in `shape` are axis names of the graph contract."""

    name: str
    dtype: Dtype
    shape: tuple[int | str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphRecord:
    """One ONNX graph. `requires` maps a package to the lowest version that can run it."""

    role: Role
    target: GraphFlavour
    file: FileName
    opset: Mapping[str, int]
    requires: Mapping[str, Version]
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """An engine compiled of one graph for one target; the sidecar describes it (EngineInfo)."""

    file: FileName
    target: str
    role: Role
    sidecar: FileName


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioRecord:
    """How audio becomes features: Hz, mel bands, samples per window and hop, seconds per clip.

    An encoder of samples has no bands, windows and hops; its clips have so many seconds at most.
    """

    sampling_rate: int
    mels: int
    fft: int
    hop: int
    seconds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechRecord:
    """Ids with which a transcription is asked for: languages, tasks, no timestamps.

    `alignment_heads` are pairs (decoder layer, head) whose attention follows the audio. Tokens
    from `first_timestamp` on are times in steps of 20 ms, of which a window's first is at most
    `max_initial_timestamp` steps; `no_speech` is likely where nobody speaks; behind `previous`
    stands what was said before. Bundles made before these have none, see `runtime/speech`.
    """

    languages: Mapping[str, int] = dataclasses.field(default_factory=dict)
    tasks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    no_timestamps: int | None = None
    alignment_heads: tuple[tuple[int, ...], ...] = ()
    first_timestamp: int | None = dataclasses.field(default=None, metadata=OPTIONAL)
    max_initial_timestamp: int | None = dataclasses.field(default=None, metadata=OPTIONAL)
    no_speech: int | None = dataclasses.field(default=None, metadata=OPTIONAL)
    previous: int | None = dataclasses.field(default=None, metadata=OPTIONAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """How an image becomes what the encoder reads; steps that are None are left out.

    It becomes RGB, with `on_white` laid on white where it is transparent, and is resized to `size`,
    or until its shorter edge has `shortest_edge` pixels, with the filter `resample`. `crop` keeps
    its middle, with zeros around where it is smaller. Values, 0 to 255, are multiplied by `scale`,
    and of each channel `mean` is taken and the rest divided by `deviation`. Sizes are height and
    width.
    """

    size: tuple[int, int] | None = None
    shortest_edge: int | None = None
    resample: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = "bilinear"
    crop: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, float, float] | None = None
    deviation: tuple[float, float, float] | None = None
    on_white: bool = False

    def __post_init__(self) -> None:
        sizes = (*(self.size or ()), *(self.crop or ()), self.shortest_edge or 1)
        if min(sizes) < 1 or max(sizes) > LARGEST_EDGE:
            raise BundleError(f"size: {sizes}, an edge has 1 to {LARGEST_EDGE} pixels")
        if (self.mean is None) != (self.deviation is None) or 0 in (self.deviation or ()):
            raise BundleError("deviation: goes with a mean, and none of it is 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The special tokens' text, None where the vocabulary has none.

    `mask` is written where the model fills it.
    """

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None
    mask: str | None = dataclasses.field(default=None, metadata=OPTIONAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """Files and rules that turn text into ids and back.

    `target` is the decoder's tokenizer where source and target vocabularies are split.
    `languages` maps a language code to its token id; `language_layout` says where the source
    language's id stands in the encoder's input, before or after the text. `target_layout` says what
    the target language's id does: it stands before the source text, starts the decoder, or is the
    first token forced out of it. `source_language` and `target_language` are the defaults.
    Ids from `unknown_from` on are pieces without an embedding, which become the unknown token.
    `clean_up` removes the spaces before English punctuation when decoding.
    `prompts` maps a task to the text put first. `text_limit` is how many tokens of a text an
    encoder-only model reads, where that is fewer than it has positions for.
    """

    source: FileName
    target: FileName | None = None
    chat_template: FileName | None = None
    special: SpecialTokens = SpecialTokens()
    languages: Mapping[str, int] = dataclasses.field(default_factory=dict)
    language_layout: Literal["", "prefix", "suffix"] = ""
    target_layout: Literal["", "source", "start", "forced"] = ""
    source_language: str = ""
    target_language: str = ""
    unknown_from: int | None = None
    clean_up: bool = False
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    text_limit: int | None = dataclasses.field(default=None, metadata=OPTIONAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingRecord:
    """How a text is embedded, as its checkpoint's folder says.

    `prompts` are put before texts, by the names that ask for them; `default_prompt` is the name
    where nobody asks. A text with its prompt is cut to `longest` tokens, special ones included.
    Of the embedding the first `dimensions` values are kept, None: all. `similarity` is what two
    embeddings are compared by.
    """

    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt: str = ""
    longest: int | None = None
    dimensions: int | None = None
    similarity: Literal["", "cosine", "dot", "euclidean", "manhattan"] = ""

    def __post_init__(self) -> None:
        if self.default_prompt and self.default_prompt not in self.prompts:
            raise BundleError(f"default_prompt: {self.default_prompt!r} is none of the prompts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RerankRecord:
    """How a reranker is asked whose prompt a chat template writes.

    The template takes messages of the roles query and document, and before them system where there
    is an instruction; `instruction` is the one where nobody gives another, empty: none.
    `generation_prompt` is what it is told by that name. `tokens` are those of a language model's
    vocabulary that its score is made of: the logit of the first, less that of the second if any.
    """

    instruction: str = ""
    generation_prompt: bool = True
    tokens: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityRecord:
    """Graphs against the float model, on the recorded tokens: logits' errors, tokens that agreed.

    `max_relative` is relative to the largest logit recorded.
    Measured when the bundle was made: at export, or at its quantization. Of a shortlist, what the
    whole bundle errs and what the short one errs to that, added up.
    """

    max_absolute: float
    max_relative: float
    tokens_compared: int
    tokens_equal: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class OriginalRecord:
    """The float model against the checkpoint's own implementation, on the recorded tokens.

    `implementation` is a library, its version and a class. Without `parity` they were not compared,
    for that `reason`.
    """

    implementation: str = ""
    parity: ParityRecord | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationRecord:
    """How a bundle was quantized, and from which bundle.

    `method` is how weights were rounded, and `examples` the number it was calibrated on. `ranges`
    is how the ranges of products' 8-bit inputs were found, None where none are fixed. `smoothing`
    is the share of their outliers that went over to the weights. `cache` is the type of the
    decoder's own keys and values, `memory` that of those it reads of the encoder. `weights` tells
    for every graph's weight, "decoder: name", what it became. `source_sha256` is the hash of the
    float bundle's manifest. `float32_values` are tensors of half-precision graphs that stay
    float32, "decoder: name", with the largest absolute value that the examples gave them. Older
    bundles have no `memory`.
    """

    recipe: str
    method: str
    examples: int
    ranges: Literal["min-max", "percentile", "entropy"] | None = None
    smoothing: float = 0.0
    cache: Literal["activations", "int8"] = "activations"
    memory: Literal["activations", "int8"] = dataclasses.field(
        default="activations", metadata=OPTIONAL
    )
    weights: Mapping[str, str]
    float32_values: Mapping[str, float]
    source_sha256: Sha256
    tool_version: str
    created: UtcTime
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortlistRecord:
    """The tokens whose logits alone the decoder computes, and where the list comes from.

    `file` has the `size` ids, one a line. `origin` says whether they were given or learnt from
    `texts` texts, of whose tokens the `most` frequent ones were taken, or all. `source_sha256` is
    the hash of the whole bundle's manifest.
    """

    file: FileName
    size: int
    origin: Literal["ids", "texts"]
    texts: int = 0
    most: int | None = None
    source_sha256: Sha256
    tool_version: str
    created: UtcTime


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyRecord:
    """What the training spent of (epsilon, delta) differential privacy for each training row.

    Each of `steps` drew every row with the probability `sampling_rate`, clipped its gradient to
    `clip` and added noise of `noise_multiplier` times that; `accountant` bounded the sum.
    """

    epsilon: float
    delta: float
    steps: int
    noise_multiplier: float
    sampling_rate: float
    clip: float
    accountant: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProvenanceRecord:
    """Where the bundle comes from. `packages` maps a package to the version used.

    `privacy` is None where the training was not private, or elsewhere.
    """

    tool_version: str
    created: UtcTime
    source: str
    source_format: str
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unused_tensors: tuple[str, ...] = ()
    privacy: PrivacyRecord | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole bundle.

    `shortlist`, `lexicon`, `embedding`, `reranking`, `relevance`, `images` and `original` are not
    written where there are none, so that older versions read the rest. `lexicon` is the file of a
    lexical shortlist. `relevance` is what the score of a classifier with one label is where it
    reranks (None: the sigmoid).
    `generation` holds the checkpoint's decoding defaults, `generation_ignored` those of its
    settings that the runtime does not apply. `files` lists every file but the manifest; it is
    empty until a `BundleWriter` finishes.
    """

    format: Literal[4] = FORMAT
    kind: Kind
    task: Task
    family: str
    dims: Dims
    precision: Precision = "float32"
    quantization: QuantizationRecord | None = None
    generation: Mapping[str, Any] | None = None
    generation_ignored: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    problem: Literal["", "single_label", "multi_label", "regression"] = ""
    relevance: Literal["sigmoid", "plain"] | None = dataclasses.field(
        default=None, metadata=OPTIONAL
    )
    audio: AudioRecord | None = None
    speech: SpeechRecord | None = None
    images: ImageRecord | None = dataclasses.field(default=None, metadata=OPTIONAL)
    tokenizer: TokenizerRecord | None = None
    shortlist: ShortlistRecord | None = dataclasses.field(default=None, metadata=OPTIONAL)
    lexicon: FileName | None = dataclasses.field(default=None, metadata=OPTIONAL)
    embedding: EmbeddingRecord | None = dataclasses.field(default=None, metadata=OPTIONAL)
    reranking: RerankRecord | None = dataclasses.field(default=None, metadata=OPTIONAL)
    graphs: tuple[GraphRecord, ...] = ()
    engines: tuple[EngineRecord, ...] = ()
    parity: ParityRecord | None = None
    original: OriginalRecord | None = dataclasses.field(default=None, metadata=OPTIONAL)
    provenance: ProvenanceRecord
    files: Mapping[FileName, FileRecord] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind != self.dims.kind:
            raise BundleError(f"kind: {self.kind!r}, but the dims are of {self.dims.kind!r}")
        mels = self.audio.mels if self.audio else 0
        if mels != self.dims.mels:
            raise BundleError(f"audio: {mels} mels, but the dims have {self.dims.mels}")
        if self.dims.samples is not None and self.audio is None:
            raise BundleError("audio: missing, the dims are of an encoder of samples")
        if (self.precision == "float32") != (self.quantization is None):
            raise BundleError(f"quantization: does not go with precision {self.precision!r}")
        if self.quantization is not None and self.parity is None:
            raise BundleError("parity: missing, a quantized bundle needs what was measured")
        if self.shortlist is not None and not 2 <= self.shortlist.size <= self.dims.vocab:
            vocab = self.dims.vocab
            raise BundleError(f"shortlist: {self.shortlist.size} tokens, needs 2 to {vocab}")
        if self.reranking is not None and not (self.tokenizer and self.tokenizer.chat_template):
            raise BundleError("reranking: missing the tokenizer's chat template")
        if len(self.engines) > MOST_ENGINES:
            raise BundleError(f"engines: {len(self.engines)}, a bundle has at most {MOST_ENGINES}")
        check_parts(self)
        _check_graphs(self.graphs)
        _check_names(self.files)

    @classmethod
    def from_bytes(cls, data: bytes, subject: str = MANIFEST) -> Manifest:
        """A manifest from a file's bytes; `subject` names the file in errors.

        Raises BundleError for anything but exactly a manifest of this format.
        """
        with record_errors(subject, BundleError):
            values = parse_json(data)
            _check_format(values)
            manifest: Manifest = decode(cls, values)
        return manifest

    def to_bytes(self) -> bytes:
        """The manifest as the file's bytes, UTF-8 JSON.

        Raises BundleError when a value would not be read back, such as a NaN or a numpy scalar.
        """
        try:
            text = json.dumps(plain_values(self), indent=2, ensure_ascii=False, allow_nan=False)
            data = f"{text}\n".encode()
        except (TypeError, ValueError) as error:
            raise BundleError(f"{MANIFEST}: a value is not JSON, {error}") from error
        Manifest.from_bytes(data)
        return data

    def references(self) -> Iterator[tuple[str, str]]:
        """Where the manifest names a file, and the name: `("tokenizer.source", ...)`."""
        for i, graph in enumerate(self.graphs):
            yield f"graphs[{i}].file", graph.file
        for i, engine in enumerate(self.engines):
            yield f"engines[{i}].file", engine.file
            yield f"engines[{i}].sidecar", engine.sidecar
        for key in ("source", "target", "chat_template") if self.tokenizer else ():
            if name := getattr(self.tokenizer, key):
                yield f"tokenizer.{key}", name
        if self.shortlist is not None:
            yield "shortlist.file", self.shortlist.file
        if self.lexicon is not None:
            yield "lexicon", self.lexicon


def utc_now() -> UtcTime:
    """The present, as records keep it."""
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def manifest_schema() -> str:
    """The text of `manifest.schema.json`."""
    return json.dumps(json_schema(Manifest), indent=2) + "\n"


def check_file_name(name: str) -> None:
    """Raise BundleError unless `name` may be a file beside the manifest."""
    try:
        decode(FileName, name, "file name")
    except RecordError as error:
        raise BundleError(str(error)) from error
    _check_names((name,))


def _check_format(values: object) -> None:
    version = values.get("format") if isinstance(values, dict) else None
    if type(version) is int and version != FORMAT:
        remedy = "update seq2edge" if version > FORMAT else "export the checkpoint again"
        raise RecordError(f"format {version}, this version reads {FORMAT}, {remedy}")


def _check_graphs(graphs: tuple[GraphRecord, ...]) -> None:
    keys = set()
    for i, graph in enumerate(graphs):
        if (graph.role, graph.target) in keys:
            raise BundleError(f"graphs[{i}]: a second {graph.role} for {graph.target}")
        keys.add((graph.role, graph.target))


def _check_names(names: Mapping[str, FileRecord] | tuple[str, ...]) -> None:
    """Refuse names that clash, or that some file system cannot hold."""
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise BundleError(f"files: {other!r} and {name!r} differ only in upper and lower case")
    for name in names:
        parts = name.casefold().split("/")
        if parts[0] in (MANIFEST, SIGNATURE):
            raise BundleError(f"files: {name!r} is reserved for the manifest itself")
        if any(part.split(".")[0].upper() in _DEVICES for part in parts):
            raise BundleError(f"files: {name!r} is a device name on Windows, rename it")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in folded:
                raise BundleError(f"files: {name!r} lies below another file of the list")
