"""Which parts of a model lose most by a recipe: each is quantized alone, and its answers compared.

A part is a layer's attention, cross-attention or feed-forward, the embedding or the LM head. What
is compared is the distribution of the next token after examples that the float model decoded
itself, cut at different places; of an encoder alone, the vector that it answers.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.bundle.manifest import Role
from seq2edge.errors import OptionError
from seq2edge.files.progress import PartProgress
from seq2edge.quantize.calibration import Calibration, Feed, Trace, Watcher
from seq2edge.quantize.onnxruntime_graphs import read_graphs
from seq2edge.quantize.passes.sites import find_sites
from seq2edge.quantize.pipeline import Quantizer
from seq2edge.quantize.recipes import Options, Recipe
from seq2edge.runtime.likelihood import log_sum_exp

LIMIT = 16  # examples that are compared

Answers: TypeAlias = NDArray[np.float32]  # (examples, vocab) logits, or (examples, width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerError:
    """What quantizing one part alone does to the answers.

    `error` is the mean divergence (nats) of the next token's distribution from the float model's,
    or of an encoder alone the squared error relative to the answer's size. `values` counts the
    part's weights.
    """

    layer: str
    weights: tuple[str, ...]
    values: int
    error: float


class Listener:
    """Answers of a float bundle and of changed graphs on the same few examples."""

    def __init__(self, seen: Calibration) -> None:
        self._seen = seen
        self._traces = [_cut(trace, number) for number, trace in enumerate(seen.traces[:LIMIT])]
        self._float = read_graphs(seen.bundle, "onnxruntime")
        self._memories = self._encode(self._float) if "decoder" in self._float else []
        self.wanted = self._answers(self._float, self._memories)

    def error(self, models: Mapping[Role, ir.Model], changed: Role | None = None) -> float:
        """How far their answers are from the float ones; `changed` alone differs, if given."""
        both = {**self._float, **({changed: models[changed]} if changed else models)}
        memories = self._memories
        if "decoder" in both and changed != "decoder" and "encoder" in both:
            memories = self._encode(both)
        return _divergence(
            self.wanted, self._answers(both, memories), distributions="decoder" in both
        )

    def _encode(self, models: Mapping[Role, ir.Model]) -> list[Feed]:
        if "encoder" not in models:
            return [{} for _ in self._traces]
        encoder = Watcher(self._seen, "encoder", models["encoder"], outputs=True)
        return [encoder.run(self._seen.source(trace)) for trace in self._traces]

    def _answers(self, models: Mapping[Role, ir.Model], memories: Sequence[Feed]) -> Answers:
        if "decoder" not in models:
            encoder = Watcher(self._seen, "encoder", models["encoder"], outputs=True)
            pooled = [encoder.run(self._seen.source(trace)) for trace in self._traces]
            return np.concatenate([next(iter(found.values())) for found in pooled])
        decoder = Watcher(self._seen, "decoder", models["decoder"], ["logits"])
        answers: list[Answers] = []
        for trace, memory in zip(self._traces, memories, strict=True):
            decoder.run(
                memory | self._seen.tokens(trace), lambda _, __, found: answers.append(found)
            )
        return np.concatenate(answers)


def _cut(trace: Trace, number: int) -> Trace:
    """The first quarter, half, three quarters of the tokens or all, in turn."""
    length = len(trace.tokens) * (number % 4 + 1) // 4
    return dataclasses.replace(trace, tokens=trace.tokens[: max(1, length)])


def _divergence(wanted: Answers, found: Answers, *, distributions: bool) -> float:
    if not distributions:
        return float(np.square(found - wanted).sum() / np.square(wanted).sum())
    before, after = (x - log_sum_exp(x)[:, None] for x in (wanted, found))
    return float((np.exp(before) * (before - after)).sum(axis=-1).mean())


def measure_layers(
    quantizer: Quantizer,
    recipe: Recipe,
    options: Options = Options(),  # noqa: B008 - frozen
    progress: PartProgress = lambda _: None,
) -> list[LayerError]:
    """Every part's error for ONNX Runtime, the largest first.

    Raises OptionError without examples.
    """
    seen = quantizer.seen()
    if seen is None:
        raise OptionError("calibration: the error of each layer is measured on examples, give some")
    layers: dict[str, dict[str, int]] = defaultdict(dict)
    owners: dict[str, set[Role]] = defaultdict(set)
    for role, model in read_graphs(quantizer.bundle, "onnxruntime").items():
        for site in find_sites(model.graph, quantizer.tables):
            layers[site.layer][site.name] = int(np.prod(site.tensor.shape.numpy()))
            owners[site.layer].add(role)
    every = frozenset(name for weights in layers.values() for name in weights)
    listener, found = Listener(seen), []
    for number, (layer, weights) in enumerate(layers.items(), start=1):
        alone = dataclasses.replace(options, finer=every - weights.keys())
        made = quantizer.make(recipe, "onnxruntime", alone)
        roles = owners[layer]
        changed = next(iter(roles)) if len(roles) == 1 else None
        error = listener.error(made.models, changed)
        found.append(
            LayerError(
                layer=layer, weights=tuple(weights), values=sum(weights.values()), error=error
            )
        )
        progress(number / len(layers))
    return sorted(found, key=lambda part: -part.error)
