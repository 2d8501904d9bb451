"""A CTranslate2 Whisper folder, read as the Hugging Face folder it was converted from.

CTranslate2 stores the projections that share an input as one (rows of query, key and value), and
int8 or int16 weights with the scale they were multiplied by. Its tokenizer.json lacks the
timestamp tokens, which stand in its vocabulary file alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seq2edge.checkpoints.importers.ctranslate2_file import Variable, VariableFile, read_variables
from seq2edge.checkpoints.importers.huggingface import Source
from seq2edge.checkpoints.importers.json_file import LARGEST, read_json
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.files.storage import read_regular

FILE = "model.bin"
SPEC, REVISION = "WhisperSpec", 3
GELU = 3  # in CTranslate2's list of activations
MULTILINGUAL_VOCAB = 51865  # smaller ones are the English-only models
SETTINGS = {
    "decoder/activation": GELU,
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
# Alignment heads stand in config.json too; the others say how ALiBi is done, which is off.
WITHOUT_EFFECT = (
    "decoder/alignment_heads",
    "decoder/alignment_layer",
    "decoder/alibi_use_positive_positions",
    "decoder/scale_alibi",
)
END, START = "<|endoftext|>", "<|startoftranscript|>"

Variables = Mapping[str, Variable]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Part `index` of `count` equal parts, along the rows, of a stored variable."""

    variable: str
    index: int = 0
    count: int = 1

    @property
    def scale(self) -> str:
        """Name of the scale that comes with a quantized variable."""
        return f"{self.variable}_scale"


def open_whisper(path: Path) -> Source:
    """Open the folder. Raises CheckpointError or UnsupportedError naming file and variable."""
    stored = read_variables(path / FILE)
    if (stored.spec, stored.revision) != (SPEC, REVISION):
        raise UnsupportedError(
            f"{path / FILE}: {stored.spec} revision {stored.revision} is not supported, only "
            f"{SPEC} revision {REVISION}"
        )
    variables = stored.variables
    layers = {side: _layers(variables, side) for side in ("encoder", "decoder")}
    parts = dict(_parts(layers))
    _check_complete(stored, parts, path / FILE)
    _check_values(variables, layers, path / FILE)
    config = _config(variables, layers)
    settings = read_json(path / "config.json")
    tokenizer = path / "tokenizer.json"
    return Source(
        path=path,
        source_format="ctranslate2",
        config=config,
        generation=_generation(config, settings, _vocabulary(path, config["vocab_size"])),
        names=frozenset(parts),
        read=lambda name: _read(variables, parts[name], path / FILE),
        tokenizer_files=_tokenizer_files(tokenizer) if tokenizer.is_file() else {},
    )


def _layers(variables: Variables, side: str) -> int:
    """How many layers a stack has, by the names of its variables."""
    pattern = re.compile(rf"{side}/layer_(\d+)/")
    return len({match[1] for name in variables if (match := pattern.match(name))})


def _parts(layers: Mapping[str, int]) -> Iterator[tuple[str, Part]]:
    """Hugging Face's name of every tensor, and where it is stored."""
    yield "model.decoder.embed_tokens.weight", Part(variable="decoder/embeddings/weight")
    yield "proj_out.weight", Part(variable="decoder/projection/weight")
    for convolution in ("conv1", "conv2"):
        yield from _linear(f"model.encoder.{convolution}", f"encoder/{convolution}")
    for side, count in layers.items():
        positions = f"{side}/position_encodings/encodings"
        yield f"model.{side}.embed_positions.weight", Part(variable=positions)
        yield from _norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for i in range(count):
            yield from _layer(f"model.{side}.layers.{i}", f"{side}/layer_{i}", side == "decoder")


def _layer(theirs: str, stored: str, cross: bool) -> Iterator[tuple[str, Part]]:  # noqa: FBT001
    """One layer's tensors under the names that transformers gives them."""
    own, other = f"{stored}/self_attention", f"{stored}/attention"
    yield from _norm(f"{theirs}.self_attn_layer_norm", f"{own}/layer_norm")
    yield from _linear(f"{theirs}.self_attn", f"{own}/linear_0", "q_proj", "k_proj", "v_proj")
    yield from _linear(f"{theirs}.self_attn.out_proj", f"{own}/linear_1")
    if cross:
        yield from _norm(f"{theirs}.encoder_attn_layer_norm", f"{other}/layer_norm")
        yield from _linear(f"{theirs}.encoder_attn", f"{other}/linear_0", "q_proj")
        yield from _linear(f"{theirs}.encoder_attn", f"{other}/linear_1", "k_proj", "v_proj")
        yield from _linear(f"{theirs}.encoder_attn.out_proj", f"{other}/linear_2")
    yield from _norm(f"{theirs}.final_layer_norm", f"{stored}/ffn/layer_norm")
    yield from _linear(f"{theirs}.fc1", f"{stored}/ffn/linear_0")
    yield from _linear(f"{theirs}.fc2", f"{stored}/ffn/linear_1")


def _linear(theirs: str, stored: str, *names: str) -> Iterator[tuple[str, Part]]:
    """A layer's weight and bias, or those of the several layers joined in it."""
    for index, name in enumerate(names or ("",)):
        full = f"{theirs}.{name}" if name else theirs
        for kind in ("weight", "bias"):
            if (name, kind) != ("k_proj", "bias"):  # Whisper has none, zeros are stored
                part = Part(variable=f"{stored}/{kind}", index=index, count=len(names) or 1)
                yield f"{full}.{kind}", part


def _norm(theirs: str, stored: str) -> Iterator[tuple[str, Part]]:
    yield f"{theirs}.weight", Part(variable=f"{stored}/gamma")
    yield f"{theirs}.bias", Part(variable=f"{stored}/beta")


def _check_complete(stored: VariableFile, parts: Mapping[str, Part], file: Path) -> None:
    """Every variable has its place, and none is missing."""
    needed = {part.variable for part in parts.values()} | {*SETTINGS}
    needed |= {"encoder/num_heads", "decoder/num_heads"}
    missing = sorted(needed - set(stored.variables))
    if missing:
        raise CheckpointError(f"{file}: variables are missing: {', '.join(missing)}")
    scales = {part.scale for part in parts.values()}
    unknown = sorted(set(stored.variables) - needed - scales - {*WITHOUT_EFFECT})
    if unknown:
        raise CheckpointError(
            f"{file}: variables that {SPEC} has no place for: {', '.join(unknown)}"
        )


def _check_values(variables: Variables, layers: Mapping[str, int], file: Path) -> None:
    """Refuse settings of the converter that change what is computed."""
    for name, value in SETTINGS.items():
        if variables[name].values.tolist() != value:
            stored = variables[name].values.tolist()
            raise UnsupportedError(f"{file}: {name} {stored} is not supported, only {value}")
    for name in ("encoder/num_heads", "decoder/num_heads"):
        if variables[name].values.shape or variables[name].values < 1:
            raise CheckpointError(f"{file}: {name} is not a positive number")
    joined = [f"{s}/layer_{i}/self_attention/linear_0" for s in layers for i in range(layers[s])]
    crossing = [f"decoder/layer_{i}/attention/linear_1" for i in range(layers["decoder"])]
    for name, index, count in [(n, 1, 3) for n in joined] + [(n, 0, 2) for n in crossing]:
        part = Part(variable=f"{name}/bias", index=index, count=count)
        if _read(variables, part, file).any():
            raise UnsupportedError(f"{file}: {name}/bias has a bias of the keys, Whisper has none")


def _read(variables: Variables, part: Part, file: Path) -> Tensor:
    """The tensor as float32; a quantized one is divided by its scale."""
    variable = variables[part.variable]
    values = variable.values
    if not values.shape or values.shape[0] % part.count:
        raise CheckpointError(
            f"{file}: {part.variable} of shape {list(values.shape)} is not {part.count} parts"
        )
    rows = values.shape[0] // part.count
    chosen = slice(part.index * rows, (part.index + 1) * rows)
    tensor = torch.from_numpy(dataclasses.replace(variable, values=values[chosen]).to_float32())
    if values.dtype.kind != "i":
        return tensor
    if part.scale not in variables:
        raise CheckpointError(f"{file}: {part.variable} is {values.dtype} without its scale")
    scale = torch.from_numpy(variables[part.scale].to_float32())
    if scale.ndim:
        if scale.shape != values.shape[:1]:
            raise CheckpointError(f"{file}: {part.scale} has not one number for every row")
        scale = scale[chosen].reshape(-1, *(1 for _ in values.shape[1:]))
    return tensor / scale


def _config(variables: Variables, layers: Mapping[str, int]) -> dict[str, Any]:
    """What Hugging Face's config.json would say."""

    def extent(name: str, axis: int) -> int:
        shape = variables[name].values.shape
        return shape[axis] if axis < len(shape) else 0

    config: dict[str, Any] = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "vocab_size": extent("decoder/embeddings/weight", 0),
        "d_model": extent("decoder/embeddings/weight", 1),
        "num_mel_bins": extent("encoder/conv1/weight", 1),
        "max_source_positions": extent("encoder/position_encodings/encodings", 0),
        "max_target_positions": extent("decoder/position_encodings/encodings", 0),
        "activation_function": "gelu",
        "scale_embedding": False,
    }
    for side, count in layers.items():
        config[f"{side}_layers"] = count
        config[f"{side}_attention_heads"] = int(variables[f"{side}/num_heads"].values)
        inner = f"{side}/layer_0/ffn/linear_0/weight"
        config[f"{side}_ffn_dim"] = extent(inner, 0) if inner in variables else 0
    return config


def _vocabulary(path: Path, size: int) -> dict[str, int]:
    """Ids of all tokens; older folders list them in a text file."""
    listed = path / "vocabulary.json"
    try:
        if listed.is_file():
            tokens = json.loads(read_regular(listed, LARGEST, CheckpointError))
        else:
            listed = path / "vocabulary.txt"
            text = read_regular(listed, LARGEST, CheckpointError).decode("utf-8")
            tokens = text.rstrip("\n").split("\n")
        ids = {str(token): i for i, token in enumerate(tokens)}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{listed}: cannot be read: {error}") from error
    if len(tokens) != size:
        raise CheckpointError(f"{listed}: {len(tokens)} tokens for {size} embeddings")
    missing = [token for token in (END, START, "<|notimestamps|>") if token not in ids]
    if missing:
        raise CheckpointError(f"{listed}: no {', '.join(missing)}, is this Whisper's vocabulary?")
    return ids


def _generation(
    config: Mapping[str, Any], settings: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, Any]:
    """What Hugging Face's generation_config.json would say."""
    multilingual = config["vocab_size"] >= MULTILINGUAL_VOCAB
    generation: dict[str, Any] = {
        "bos_token_id": ids[END],
        "eos_token_id": ids[END],
        "pad_token_id": ids[END],
        "decoder_start_token_id": ids[START],
        "max_length": config["max_target_positions"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "is_multilingual": multilingual,
        "suppress_tokens": settings.get("suppress_ids") or [],
        "begin_suppress_tokens": settings.get("suppress_ids_begin") or [],
        "alignment_heads": settings.get("alignment_heads") or [],
    }
    if "<|startofprev|>" in ids:
        generation["prev_sot_token_id"] = ids["<|startofprev|>"]
    if multilingual:
        tokens = {i: token for token, i in ids.items()}
        languages = settings.get("lang_ids") or []
        generation["lang_to_id"] = {tokens[i]: i for i in languages if i in tokens}
        tasks = {task: f"<|{task}|>" for task in ("transcribe", "translate")}
        generation["task_to_id"] = {task: ids[t] for task, t in tasks.items() if t in ids}
    return generation


def _tokenizer_files(file: Path) -> dict[str, bytes]:
    tokens = {f"{role}_token": END for role in ("bos", "eos", "pad", "unk")}
    settings = {"tokenizer_class": "WhisperTokenizer", **tokens}
    try:
        return {
            file.name: read_regular(file, LARGEST, CheckpointError),
            "tokenizer_config.json": json.dumps(settings).encode(),
        }
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
