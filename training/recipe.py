"""A training recipe: what to train, on what, for how long. Read from TOML, strict to the key."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from seq2edge.errors import TrainingError
from seq2edge.files.records import RecordError, decode, hints
from seq2edge.files.storage import read_regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 2**20  # bytes of a recipe
Objective: TypeAlias = Literal["seq2seq", "causal", "denoise", "infill", "classify"]
TokenizerKind: TypeAlias = Literal["bpe", "unigram", "bytes", "characters", "words"]
TargetKind: TypeAlias = Literal["", "bpe", "unigram", "bytes", "characters", "words"]
Precision: TypeAlias = Literal["auto", "float32", "bf16-mixed", "fp16-mixed"]
TWO_SIDED = ("seq2seq", "classify")  # objectives whose rows have an input and an answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Sizes: a preset's, changed where a field is set. Zero and "" mean the preset's value."""

    preset: Literal["tiny", "small", "base", "big"] = "tiny"
    width: int = 0
    hidden: int = 0
    heads: int = 0
    encoder_layers: int = 0
    decoder_layers: int = 0
    activation: str = ""
    norm: str = ""
    positions: str = ""
    gated: bool = False
    max_positions: int = 0  # longest input and output in tokens, special ones included
    dropout: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Files, relative to the recipe. Their kind follows the name: .tsv, .jsonl, .txt (+ .gz ...).

    `fields` are the JSONL keys of a row's input and answer. `weights` has a number for each
    training file: how often its rows are read in one epoch. `tags` has a text for each training
    file that is put before its inputs. A row that is longer than the model's positions is left
    out and counted (`cut` shortens it instead).
    """

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    tags: tuple[str, ...] = ()
    cut: bool = False
    rows: int = 0  # read no more than these of each training file; 0 reads all


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerRecipe:
    """How text becomes tokens. A `target` of its own splits the vocabulary."""

    kind: TokenizerKind = "bpe"
    size: int = 8000
    target: TargetKind = ""
    target_size: int = 8000
    lowercase: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """AdamW (Loshchilov and Hutter 2019), a linear warm-up, then the schedule."""

    steps: int
    batch_tokens: int = 4000  # padded source and target tokens of one step, over all processes
    accumulate: int = 1  # parts that a step's batch is read in, to save memory
    learning_rate: float = 1e-3
    warmup: int = 400
    schedule: Literal["cosine", "linear", "inverse_sqrt", "constant"] = "cosine"
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip: float = 1.0
    label_smoothing: float = 0.1
    precision: Precision = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckRecipe:
    """Validation and checkpoints, in steps. `patience` checks without a gain end the training."""

    every: int = 500
    patience: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiseRecipe:
    """Corruption of raw text: the part of the tokens, and the mean length of a span."""

    density: float = 0.15
    span: float = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorsRecipe:
    """Word vectors that a new model's embedding starts from: a word2vec or GloVe file.

    `tables` says which one gets them where source and target have vocabularies of their own.
    `frozen` tables keep them, and their other rows, as they are.
    """

    file: str = ""
    frozen: bool = False
    tables: Literal["both", "source", "target"] = "both"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterRecipe:
    """LoRA (Hu et al. 2022) of every linear layer; rank 0 trains all weights.

    The change of a layer is weighed by alpha / rank.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyRecipe:
    """Differential privacy (Abadi et al. 2016) of each row; epsilon 0 trains without it.

    `clip` bounds the gradient of one row, in place of the optimizer's; `batch` is the expected
    number of rows a step, in place of `batch_tokens`.
    """

    epsilon: float = 0.0
    delta: float = 1e-5
    clip: float = 1.0
    batch: int = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingRecipe:
    """What the checkpoint's generation defaults will be."""

    num_beams: int = 1
    max_new_tokens: int = 0  # 0: the model's positions
    length_penalty: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training. `start` is a checkpoint whose weights it starts from."""

    objective: Objective
    data: DataRecipe
    optimizer: OptimizerRecipe
    model: ModelRecipe = ModelRecipe()
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    check: CheckRecipe = CheckRecipe()
    denoise: DenoiseRecipe = DenoiseRecipe()
    vectors: VectorsRecipe = VectorsRecipe()
    adapter: AdapterRecipe = AdapterRecipe()
    privacy: PrivacyRecipe = PrivacyRecipe()
    decoding: DecodingRecipe = DecodingRecipe()
    start: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


def read_recipe(path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a TOML file, with `changes` by dotted name (`optimizer.steps`).

    Files in it become absolute. Raises TrainingError naming the key.
    """
    path = Path(path)
    try:
        values = tomllib.loads(read_regular(path, LARGEST, TrainingError).decode())
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # of decoding and of TOML
        raise TrainingError(f"{path}: not TOML: {error}") from error
    for name, value in (changes or {}).items():
        _change(values, name, value)
    try:
        recipe: Recipe = _record(Recipe, values, "")
    except (RecordError, TrainingError) as error:
        raise TrainingError(f"{path}: {error}") from error
    return _absolute(recipe, path.parent)


def parse_value(text: str) -> Any:
    """A TOML value (`3`, `true`, `["a.tsv"]`), or the text itself where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The inverse of `Recipe.to_dict`."""
    recipe: Recipe = _record(Recipe, dict(values), "")
    return recipe


def _change(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, key = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise TrainingError(f"{name}: {section} is no section of a recipe")
    values[key] = value


def _record(record: Any, values: object, path: str) -> Any:
    """Like `records.decode`, but what is left out takes its default."""
    if not isinstance(values, dict):
        raise TrainingError(f"{path}: expected a section, got {values!r:.60}")
    known = hints(record)
    unknown = next((key for key in values if key not in known), None)
    if unknown is not None:
        raise TrainingError(
            f"{_below(path, unknown)}: unknown, known here: {', '.join(sorted(known))}"
        )
    fields = {}
    for field in dataclasses.fields(record):
        where = _below(path, field.name)
        if field.name in values:
            hint, value = known[field.name], values[field.name]
            whole = _record if dataclasses.is_dataclass(hint) else decode
            fields[field.name] = whole(hint, value, where)
        elif field.default is dataclasses.MISSING:
            raise TrainingError(f"{where}: missing")
    return record(**fields)


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)


def _absolute(recipe: Recipe, folder: Path) -> Recipe:
    return _placed(recipe, lambda name: str((folder / name).resolve()))


def without_folders(recipe: Recipe) -> Recipe:
    """The recipe with the names of its files alone, to be published with a model."""
    return _placed(recipe, lambda name: Path(name).name)


def _placed(recipe: Recipe, place: Callable[[str], str]) -> Recipe:
    data = dataclasses.replace(
        recipe.data,
        train=tuple(map(place, recipe.data.train)),
        validation=tuple(map(place, recipe.data.validation)),
    )
    vectors = recipe.vectors
    if vectors.file:
        vectors = dataclasses.replace(vectors, file=place(vectors.file))
    start = place(recipe.start) if recipe.start else ""
    return dataclasses.replace(recipe, data=data, vectors=vectors, start=start)


def _check(recipe: Recipe) -> None:
    """What no single field can see."""
    _check_data(recipe.data)
    _check_numbers(recipe)
    if recipe.objective not in TWO_SIDED and len(recipe.data.fields) > 1:
        raise TrainingError(f"data.fields: {recipe.objective} reads one text a row")
    if recipe.objective not in TWO_SIDED and recipe.data.tags:
        raise TrainingError(f"data.tags: stand before inputs, {recipe.objective} has none")
    if recipe.tokenizer.target and recipe.objective != "seq2seq":
        raise TrainingError(f"tokenizer.target: {recipe.objective} has one vocabulary")
    _check_adapter(recipe.adapter, recipe.start)
    _check_privacy(recipe)
    _check_vectors(recipe)


def _check_adapter(adapter: AdapterRecipe, start: str) -> None:
    if adapter == AdapterRecipe():
        return
    if not adapter.rank:
        raise TrainingError("adapter.rank: 0, the other settings are about adapters")
    if adapter.alpha <= 0:
        raise TrainingError("adapter.alpha: must be above 0")
    if not start:
        raise TrainingError("adapter.rank: adapters change a trained model, set start")


def _check_privacy(recipe: Recipe) -> None:
    """Refuse bounds out of range, and what would tell of rows beside the gradients."""
    privacy = recipe.privacy
    if privacy == PrivacyRecipe():
        return
    for name, fits, range_ in (
        ("epsilon", privacy.epsilon > 0, "above 0, the other settings are about it"),
        ("delta", 0 < privacy.delta < 1, "between 0 and 1"),
        ("clip", privacy.clip > 0, "above 0"),
        ("batch", privacy.batch > 0, "1 or more"),
    ):
        if not fits:
            raise TrainingError(f"privacy.{name}: {getattr(privacy, name)}, must be {range_}")
    if recipe.data.weights:
        raise TrainingError("data.weights: a private training reads all rows equally often")
    if recipe.optimizer.precision not in ("auto", "float32"):
        raise TrainingError("optimizer.precision: a private training computes in float32")
    learnt = {recipe.tokenizer.kind, recipe.tokenizer.target} - {"", "bytes"}
    if learnt and not recipe.start:
        raise TrainingError(
            f"tokenizer.kind: {learnt.pop()!r} is learnt from the private texts and would show "
            "their words; use bytes, or start from a checkpoint of public texts"
        )


def _check_vectors(recipe: Recipe) -> None:
    """Refuse vectors where no new table of words takes them."""
    vectors, kinds = recipe.vectors, {recipe.tokenizer.kind, recipe.tokenizer.target} - {""}
    if vectors == VectorsRecipe():
        return
    if not vectors.file:
        raise TrainingError("vectors.file: missing, the other settings are about it")
    if recipe.start:
        raise TrainingError("vectors.file: is for new models, the one at start has its embedding")
    if vectors.tables != "both" and not recipe.tokenizer.target:
        raise TrainingError(f"vectors.tables: {vectors.tables!r}, but there is one vocabulary")
    if not kinds & {"words", "bpe", "unigram"}:
        raise TrainingError(
            f"vectors.file: tokens of the kind {recipe.tokenizer.kind!r} are no words, "
            "set tokenizer.kind to words, bpe or unigram"
        )


def _check_data(data: DataRecipe) -> None:
    if not data.train:
        raise TrainingError("data.train: names no file")
    for name, values in (("weights", data.weights), ("tags", data.tags)):
        if values and len(values) != len(data.train):
            raise TrainingError(
                f"data.{name}: {len(values)} of them for {len(data.train)} training files"
            )
    if any(weight <= 0 for weight in data.weights):
        raise TrainingError("data.weights: must be above 0, leave a file out instead")


def _check_numbers(recipe: Recipe) -> None:
    """Refuse counts below one, rates of zero and parts that are not from 0 to below 1."""
    optimizer = recipe.optimizer
    for name, least in (("steps", 1), ("batch_tokens", 1), ("accumulate", 1)):
        if getattr(optimizer, name) < least:
            raise TrainingError(f"optimizer.{name}: must be {least} or more")
    if optimizer.learning_rate <= 0:
        raise TrainingError("optimizer.learning_rate: must be above 0")
    if recipe.check.every < 1:
        raise TrainingError("check.every: must be 1 or more")
    for name, part in (
        ("model.dropout", recipe.model.dropout),
        ("optimizer.label_smoothing", optimizer.label_smoothing),
        ("denoise.density", recipe.denoise.density),
        ("adapter.dropout", recipe.adapter.dropout),
    ):
        if not 0 <= part < 1:
            raise TrainingError(f"{name}: {part} is not from 0 to below 1")
