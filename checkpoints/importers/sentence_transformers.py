"""What a folder of sentence-transformers says beside its model: pooling, products, prompts, length.

Reimers and Gurevych 2019; the files of releases 2 to 5, read here without that library.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from seq2edge.checkpoints.importers.json_file import LARGEST, read_json
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.files.storage import read_regular

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
FLAG = "pooling_mode_"
POOLINGS = {
    "cls": "first",
    "cls_token": "first",
    "mean": "mean",
    "mean_tokens": "mean",
    "max": "max",
    "max_tokens": "max",
    "lasttoken": "last",
}
ACTIVATIONS = {"Identity": "", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
# Each kind of model has had a file of its own.
LENGTH_FILES = "sentence_*_config.json"
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dense:
    """A product behind the pooling: its folder, the activation in our words, width and bias."""

    folder: str
    width: int
    activation: str
    bias: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceFolder:
    """A whole folder. `transformer` is the folder of the model itself, empty for the same.

    `longest` are the tokens that a text is cut to, None: not said. `dimensions` are the first
    values of an embedding that the folder keeps, None: all.
    One that `crosses` texts, a CrossEncoder, pools nothing. The tokens of `scored` are those that
    its score is made of, `activation` names the function of that; with `prompts_pairs` the chat
    template writes its pairs, which is told whether to end with a `generation_prompt`.
    """

    transformer: str
    pooling: str = ""
    normalize: bool = False
    dense: tuple[Dense, ...] = ()
    longest: int | None = None
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt: str = ""
    similarity: str = ""
    dimensions: int | None = None
    crosses: bool = False
    scored: tuple[int, ...] = ()
    activation: str = ""
    prompts_pairs: bool = False
    generation_prompt: bool = False


def read_sentence_folder(path: Path) -> SentenceFolder | None:
    """None where the folder is none of sentence-transformers; UnsupportedError names a module."""
    if not (path / MODULES).is_file():
        return None
    modules = _modules(path)
    kinds = [kind for kind, _ in modules]
    dense = [folder for kind, folder in modules if kind == "Dense"]
    normalize = kinds[-1] == "Normalize"
    expected = ["Transformer", "Pooling", *["Dense"] * len(dense), *["Normalize"] * normalize]
    if kinds in (["Transformer", "SpladePooling"], ["MLMTransformer", "SpladePooling"]):
        return _sparse_encoder(path, *(folder for _, folder in modules))
    if kinds in (["Transformer"], ["Transformer", "LogitScore"]):
        return _cross_encoder(path, *(folder for _, folder in modules))
    unknown = set(kinds) - set(expected)
    if unknown:
        raise UnsupportedError(f"{path / MODULES}: modules {', '.join(sorted(unknown))}")
    if kinds != expected:
        raise UnsupportedError(
            f"{path / MODULES}: modules {', '.join(kinds)} in this order; Transformer, Pooling, "
            "then Dense and Normalize are supported"
        )
    (_, transformer), (_, pooling) = modules[:2]
    settings = read_json(path / SETTINGS) if (path / SETTINGS).is_file() else {}
    prompts, default = _prompts(path / SETTINGS, settings)
    return SentenceFolder(
        transformer=transformer,
        pooling=_pooling(path / pooling / "config.json", prompts),
        normalize=normalize,
        dense=tuple(_dense(path, folder) for folder in dense),
        longest=_longest(path / transformer),
        prompts=prompts,
        default_prompt=default,
        similarity=_similarity(path / SETTINGS, settings),
        dimensions=_count(path / SETTINGS, settings, "truncate_dim"),
    )


def _cross_encoder(path: Path, transformer: str, score: str = "") -> SentenceFolder:
    """A folder whose model scores pairs: a classifier, or a language model with words for it."""
    settings = read_json(path / SETTINGS) if (path / SETTINGS).is_file() else {}
    prompts, default = _prompts(path / SETTINGS, settings)
    files = sorted((path / transformer).glob(LENGTH_FILES))
    model = read_json(files[0]) if files else {}
    template = (model.get("processing_kwargs") or {}).get("chat_template") or {}
    unknown = {*(model.get("processing_kwargs") or {}), *template}
    unknown -= {"chat_template", "add_generation_prompt"}
    if unknown:
        raise UnsupportedError(f"{files[0]}: processing_kwargs {', '.join(sorted(unknown))}")
    pairs = "message" in (model.get("modality_config") or {})
    if any(prompts.values()) and not pairs:
        raise UnsupportedError(f"{path / SETTINGS}: prompts before pairs, only in a chat template")
    return SentenceFolder(
        transformer=transformer,
        longest=_longest(path / transformer),
        prompts=prompts,
        default_prompt=default,
        crosses=True,
        scored=_scored(path / score / "config.json") if score else (),
        activation=str(settings.get("activation_fn") or ""),
        prompts_pairs=pairs,
        generation_prompt=bool(template.get("add_generation_prompt", False)),
    )


def _sparse_encoder(path: Path, transformer: str, pooling: str) -> SentenceFolder:
    """A folder whose model weighs the tokens of its vocabulary."""
    file = path / pooling / "config.json"
    values = read_json(file)
    for key, value in {"pooling_strategy": "max", "activation_function": "relu"}.items():
        if values.get(key, value) != value:
            raise UnsupportedError(f"{file}: {key} {values[key]!r} is not supported, only {value}")
    settings = read_json(path / SETTINGS) if (path / SETTINGS).is_file() else {}
    prompts, default = _prompts(path / SETTINGS, settings)
    return SentenceFolder(
        transformer=transformer,
        pooling="sparse",
        longest=_longest(path / transformer),
        prompts=prompts,
        default_prompt=default,
        similarity=_similarity(path / SETTINGS, settings),
        dimensions=_count(path / SETTINGS, settings, "max_active_dims"),
    )


def _scored(file: Path) -> tuple[int, ...]:
    """The token that means yes, and the one that means no, if there is one."""
    settings = read_json(file)
    tokens = [settings.get(f"{word}_token_id") for word in ("true", "false")]
    if tokens[1] is None:
        tokens.pop()
    numbers = tuple(token for token in tokens if isinstance(token, int) and token is not True)
    if len(numbers) != len(tokens):
        raise CheckpointError(f"{file}: true_token_id {tokens[0]!r}, false_token_id {tokens[-1]!r}")
    return numbers


def module_folders(path: Path) -> list[str]:
    """The folders of the modules that have one of their own."""
    return [folder for _, folder in _modules(path) if folder]


def _modules(path: Path) -> list[tuple[str, str]]:
    """The class and the folder of every module, in their order."""
    file = path / MODULES
    try:
        listed = json.loads(read_regular(file, LARGEST, CheckpointError))
        modules = [(str(m["type"]).rsplit(".", 1)[-1], str(m["path"])) for m in listed]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    for kind, folder in modules:
        if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts:
            raise CheckpointError(f"{file}: the path {folder!r} of {kind} leaves the folder")
    if not modules:
        raise CheckpointError(f"{file}: lists no modules")
    return modules


def _pooling(file: Path, prompts: Mapping[str, str]) -> str:
    """One way of pooling: flags of the old files, or the name in the new ones."""
    settings = read_json(file)
    named = settings.get("pooling_mode")
    if named is None:
        flags = (key for key, value in settings.items() if value)
        modes = [key[len(FLAG) :] for key in flags if key.startswith(FLAG)]
    else:
        modes = [named] if isinstance(named, str) else list(named)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UnsupportedError(f"{file}: pooling {', '.join(map(str, sorted(modes))) or 'none'}")
    if settings.get("include_prompt") is False and any(prompts.values()):
        raise UnsupportedError(f"{file}: include_prompt false, prompts would have to be left out")
    return POOLINGS[modes[0]]


def _dense(path: Path, folder: str) -> Dense:
    """The sizes of a product. Its weights are read with the model's own."""
    file = path / folder / "config.json"
    settings = read_json(file)
    name = str(settings.get("activation_function") or "Identity").rsplit(".", 1)[-1]
    if name not in ACTIVATIONS:
        raise UnsupportedError(f"{file}: activation_function {name}")
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedError(f"{file}: {key} {settings[key]!r}")
    width = _count(file, settings, "out_features")
    if width is None:
        raise CheckpointError(f"{file}: out_features is missing")
    bias = settings.get("bias", True) is not False
    return Dense(folder=folder, width=width, activation=ACTIVATIONS[name], bias=bias)


def _longest(folder: Path) -> int | None:
    """The tokens that a text is cut to, special ones included."""
    for file in sorted(folder.glob(LENGTH_FILES)):
        settings = read_json(file)
        if settings.get("do_lower_case"):
            raise UnsupportedError(f"{file}: do_lower_case beside the tokenizer's own rules")
        return _count(file, settings, "max_seq_length")
    return None


def _prompts(file: Path, settings: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """What is put before a text, by the name that asks for it, and the name that nobody gives."""
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name") or ""
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise CheckpointError(f"{file}: prompts {prompts!r:.60} are no texts by name")
    if default and default not in prompts:
        raise CheckpointError(f"{file}: default_prompt_name {default!r} is none of its prompts")
    return dict(prompts), str(default)


def _similarity(file: Path, settings: Mapping[str, Any]) -> str:
    name = settings.get("similarity_fn_name") or ""
    if name and name not in SIMILARITIES:
        raise UnsupportedError(f"{file}: similarity_fn_name {name!r}")
    return str(name)


def _count(file: Path, settings: Mapping[str, Any], key: str) -> int | None:
    value = settings.get(key)
    if value is not None and (not isinstance(value, int) or value is True or value < 1):
        raise CheckpointError(f"{file}: {key} is {value!r}, needs a positive integer")
    return value
