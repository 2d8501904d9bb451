"""From a checkpoint of any supported kind to the canonical Transformer."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seq2edge.checkpoints.families import find_family, model_type_of
from seq2edge.checkpoints.families.family import (
    Config,
    Family,
    WeightMapping,
    linear,
)
from seq2edge.checkpoints.families.rotary import NO_CHOICE
from seq2edge.checkpoints.generation import with_decoder_defaults
from seq2edge.checkpoints.importers.huggingface import Source, open_folder
from seq2edge.checkpoints.importers.sentence_transformers import MODULES, SentenceFolder
from seq2edge.checkpoints.reading import reads_checkpoint
from seq2edge.checkpoints.reranker import TASK, Reranker, read_reranker
from seq2edge.errors import CapacityError, CheckpointError, UnsupportedError
from seq2edge.files.storage import settle
from seq2edge.model.dims import DenseDims, Dims
from seq2edge.model.positions import RelativeBias, RelativePlaces, Rotary
from seq2edge.model.transformer import Transformer
from seq2edge.runtime.memory import check_bytes

SHARED_LAYERS = 256  # that may have the same tensors
RELEVANCE = {"Sigmoid": "sigmoid", "Identity": "plain"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model and what its folder says about using it."""

    source: Source
    family: str
    dims: Dims
    model: Transformer
    labels: tuple[str, ...]
    problem: str
    relevance: str | None
    reranker: Reranker | None
    unused_tensors: tuple[str, ...]


@reads_checkpoint
def load_checkpoint(
    path: str | Path,
    *,
    task: str | None = None,
    default_task: str | None = None,
    words: Sequence[str] = (),
    template: str = "",
    long_context: bool = False,
) -> Checkpoint:
    """Load a Hugging Face folder, a CTranslate2 Whisper folder or a GGUF Llama file, as float32.

    `task` is what it is to do; `default_task` is taken where that is None and the checkpoint's
    class leaves a choice. With `long_context` its positions are those of its longest texts, which
    LongRoPE tells apart. For `rerank`, `words` and `template` say how a language model is asked
    (`reranker.py`). Raises CheckpointError or UnsupportedError naming the file, setting or tensor.
    """
    source = open_source(Path(path))
    reranker = read_reranker(source, task, words=words, template=template)
    if reranker is not None:
        source = reranker.source
    reranks, task = task == TASK, "classify" if task == TASK else task
    config = Config(source.config, task=task, default_task=default_task, long_context=long_context)
    family = find_family(str(config.get("model_type", "")))
    _check_architecture(family, config)
    dims = family.dims(config, source.names)
    stack = dims.decoder or dims.encoder
    if long_context and (stack is None or stack.positions != "rotary"):
        raise UnsupportedError(NO_CHOICE)
    if task not in (None, dims.task):
        raise UnsupportedError(f"task {task!r}: a {family.name} checkpoint is made to {dims.task}")
    if source.sentence is not None and not source.sentence.crosses:
        dims = _with_sentence(dims, source, source.sentence)
    config.ignore("quantization_config")
    config.require("quantization_config")
    if dims.kind == "decoder":
        config.ignore("is_decoder")  # it is one
    if reranks and dims.labels != 1:
        raise UnsupportedError(
            f"task 'rerank': it tells {dims.labels} labels apart, a reranker gives one score"
        )
    relevance = _relevance(config) if dims.head == "classifier" else None
    config.check_all_read()
    named = dims.head in ("classifier", "tokens")
    labels = _labels(source.config, dims.labels) if named else ()
    model, unused = build(family, dims, source)
    return Checkpoint(
        source=source,
        family=family.name,
        dims=dims,
        model=model,
        labels=labels,
        problem=_problem(source.config, labels) if dims.head == "classifier" else "",
        relevance=relevance if dims.labels == 1 else None,
        reranker=reranker,
        unused_tensors=unused,
    )


@reads_checkpoint
def open_source(path: Path) -> Source:
    """Tell what kind of checkpoint this is and open it."""
    from seq2edge.checkpoints.importers import open_foreign

    settle(path, CheckpointError)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    foreign = open_foreign(path)
    if foreign is not None:
        return foreign
    source = open_folder(path)
    config = with_decoder_defaults(source.config)
    if not config.get("model_type"):
        config["model_type"] = model_type_of(config.get("architectures") or ())
    return dataclasses.replace(source, config=config)


def build(family: Family, dims: Dims, source: Source) -> tuple[Transformer, tuple[str, ...]]:
    """The model with every parameter filled, and the tensors its task does not use."""
    _check_layers(dims, source)
    with torch.device("meta"):
        model = Transformer(dims)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    try:
        check_bytes(size, "weights")
        model = model.to_empty(device="cpu").requires_grad_(requires_grad=False).eval()
    except (RuntimeError, CapacityError) as error:  # the first is of torch's allocator
        raise CheckpointError(
            f"{source.path}: its weights need {size / 1e9:.1f} GB as float32, which this machine "
            "does not have; export on a larger one"
        ) from error
    _restore_tables(model, dims)
    parameters = dict(model.named_parameters())
    consumed: set[str] = set()
    for weight in (*family.weights(dims, source.names), *_dense_weights(source)):
        if weight.target not in parameters:
            raise AssertionError(f"{family.name}: {weight.target} is not a parameter")
        consumed.update(_fill(parameters.pop(weight.target), weight, source))
    if parameters:
        raise AssertionError(f"{family.name}: nothing fills {', '.join(parameters)}")
    if dims.kind != "encoder":  # whose heads are not those that are tied
        consumed.update(_check_aliases(family, source, consumed))
    left = {n for n in source.names - consumed if not _matches(n, family.ignored)}
    unused = {name for name in left if _matches(name, family.unused)}
    if left - unused:
        names = ", ".join(sorted(left - unused))
        raise CheckpointError(
            f"{source.path}: tensors that {family.name} has no place for: {names}"
        )
    return model, tuple(sorted(unused))


def _check_layers(dims: Dims, source: Source) -> None:
    """Refuse more layers than the tensors can be of, before each is made."""
    for stack in (dims.encoder, dims.decoder):
        if stack is not None and stack.layers > len(source.names) + SHARED_LAYERS:
            raise CheckpointError(
                f"{source.path}: the config asks for {stack.layers:,} layers, it has "
                f"{len(source.names):,} tensors"
            )


def _with_sentence(dims: Dims, source: Source, sentence: SentenceFolder) -> Dims:
    """The dims with what stands behind the pooling of a sentence-transformers folder."""
    if dims.head == "sparse" and sentence.pooling == "sparse":
        return dims
    if dims.head != "embedding" or sentence.pooling == "sparse":
        raise UnsupportedError(
            f"{source.path / MODULES}: embeddings of a model made to {dims.task} are not supported"
        )
    dense = (
        DenseDims(width=each.width, activation=each.activation, bias=each.bias)
        for each in sentence.dense
    )
    return dataclasses.replace(dims, dense=tuple(dense))


def _dense_weights(source: Source) -> Iterator[WeightMapping]:
    """The products behind the pooling, whatever the family."""
    for i, dense in enumerate(source.sentence.dense if source.sentence else ()):
        yield from linear(f"dense.{i}", f"{dense.folder}.linear", bias=dense.bias)


def _restore_tables(model: Transformer, dims: Dims) -> None:
    """Buffers that follow from the dims were lost on the meta device; make them again."""
    for side, stack in (("encoder", dims.encoder), ("decoder", dims.decoder)):
        if stack is not None:
            for module in getattr(model, side).modules():
                if isinstance(module, (Rotary, RelativeBias, RelativePlaces)):
                    module.restore(stack)


def _fill(parameter: Tensor, weight: WeightMapping, source: Source) -> Iterator[str]:
    """Copy the foreign tensors into the parameter, one at a time; yields the names read."""
    missing = [name for name in weight.sources if name is not None and name not in source.names]
    if missing:
        if weight.default is None:
            raise CheckpointError(f"{source.path}: tensor {missing[0]} is missing")
        parameter.copy_(weight.default())
        return
    if weight.combine is not None:
        names = [name for name in weight.sources if name is not None]
        tensors = [source.read(name) for name in names]
        try:
            parameter.copy_(weight.combine(*tensors))
        except RuntimeError as error:
            shapes = ", ".join(f"{n} {list(t.shape)}" for n, t in zip(names, tensors, strict=True))
            raise CheckpointError(
                f"{source.path}: tensors do not make {weight.target} {list(parameter.shape)}, "
                f"for which the config asks: {shapes}"
            ) from error
        yield from names
        return
    offset = 0
    zeros = parameter.shape[0] // len(weight.sources)
    for name in weight.sources:
        if name is None:
            parameter[offset : offset + zeros] = 0
            offset += zeros
            continue
        tensor = _shaped(source.read(name), parameter, weight)
        part = parameter[offset : offset + tensor.shape[0]]
        if part.shape != tensor.shape:
            raise CheckpointError(
                f"{source.path}: tensor {name} has shape {list(tensor.shape)}, "
                f"the config asks for {list(part.shape)}"
            )
        part.copy_(tensor)
        offset += tensor.shape[0]
        yield name
    if offset != parameter.shape[0]:
        raise CheckpointError(
            f"{source.path}: {', '.join(map(str, weight.sources))} hold {offset} rows together, "
            f"the config asks for {parameter.shape[0]}"
        )
    if weight.transform is not None:
        parameter.copy_(weight.transform(parameter.clone()))


def _shaped(tensor: Tensor, parameter: Tensor, weight: WeightMapping) -> Tensor:
    if weight.transpose:
        return tensor.T
    if tensor.ndim == parameter.ndim + 1 and tensor.shape[0] == 1:
        return tensor[0]
    return tensor[weight.skip_rows :]


def _check_aliases(family: Family, source: Source, consumed: set[str]) -> Iterator[str]:
    """Second names of a tied tensor: present or not, but never different."""
    for name, others in family.aliases.items():
        for other in others:
            if name not in consumed or other in consumed or other not in source.names:
                continue
            if not torch.equal(source.read(name), source.read(other)):
                raise CheckpointError(
                    f"{source.path}: {other} differs from {name}, which the config ties it to"
                )
            yield other


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _check_architecture(family: Family, config: Config) -> None:
    for architecture in config.get("architectures") or ():
        if architecture not in family.architectures:
            raise UnsupportedError(
                f"config.json: architecture {architecture} is not supported, "
                f"{family.name} knows {', '.join(family.architectures)}"
            )


def _labels(config: dict[str, Any], count: int) -> tuple[str, ...]:
    """The classes' names; numbers where the config names none, or another number of them."""
    table = {int(key): str(value) for key, value in (config.get("id2label") or {}).items()}
    if sorted(table) != list(range(len(table))):
        raise CheckpointError(f"config.json: id2label {table} does not count from 0")
    named = len(table) == count
    return tuple(table[i] if named else f"LABEL_{i}" for i in range(count))


def _relevance(config: Config) -> str:
    """What a CrossEncoder of sentence-transformers makes of the one logit."""
    saved = config.get("sentence_transformers") or {}
    unknown = ", ".join(set(saved) - {"activation_fn", "version"})
    if unknown:
        raise UnsupportedError(f"config.json: sentence_transformers has {unknown}")
    older = config.get("sbert_ce_default_activation_function")
    named = str(saved.get("activation_fn") or older or "Sigmoid").rsplit(".", 1)[-1]
    if named not in RELEVANCE:
        known = ", ".join(RELEVANCE)
        raise UnsupportedError(
            f"config.json: activation_fn {named} is not supported, known: {known}"
        )
    return RELEVANCE[named]


def _problem(config: dict[str, Any], labels: tuple[str, ...]) -> str:
    """What the scores mean; transformers' own rule where the config does not say."""
    if not labels:
        return ""
    known = {
        "single_label_classification": "single_label",
        "multi_label_classification": "multi_label",
        "regression": "regression",
    }
    named = config.get("problem_type")
    if named is not None and named not in known:
        raise UnsupportedError(f"config.json: problem_type {named!r} is not supported")
    return known[named] if named else "regression" if len(labels) == 1 else "single_label"
