"""Which parts of a model lose most by a recipe: each is quantized alone, and its answers compared.

A part is a layer's attention, cross-attention or feed-forward, the embedding or the LM head. What
is compared is the distribution of the next token after examples that the float model decoded
itself, cut short at different places; of an encoder alone, the vector that it answers.
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
from seq2edge.quantize.calibration import Calibration, Feed, InstrumentedSession, Trace
from seq2edge.quantize.onnxruntime_graphs import read_graphs
from seq2edge.quantize.passes.weight_uses import find_weight_uses
from seq2edge.quantize.quantizer import Quantizer
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


class LayerProbe:
    """Answers of a float bundle and of changed graphs on the same few examples."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._traces = [
            _shortened(trace, number) for number, trace in enumerate(calibration.traces[:LIMIT])
        ]
        self._float = read_graphs(calibration.bundle, "onnxruntime")
        self._memories = self._encode(self._float) if "decoder" in self._float else []
        self.expected = self._answers(self._float, self._memories)

    def error(self, models: Mapping[Role, ir.Model], changed: Role | None = None) -> float:
        """How far their answers are from the float ones; `changed` alone differs, if given."""
        both = {**self._float, **({changed: models[changed]} if changed else models)}
        memories = self._memories
        if "decoder" in both and changed != "decoder" and "encoder" in both:
            memories = self._encode(both)
        answers = self._answers(both, memories)
        if "decoder" in both:
            return divergence(self.expected, answers)
        return relative_error(self.expected, answers)

    def _session(
        self, models: Mapping[Role, ir.Model], role: Role, names: Sequence[str] = ()
    ) -> InstrumentedSession:
        outputs = role == "encoder"
        return InstrumentedSession(self._calibration, role, models[role], names, outputs=outputs)

    def _encode(self, models: Mapping[Role, ir.Model]) -> list[Feed]:
        """What the encoder gives the decoder, by example; nothing where there is no encoder."""
        if "encoder" not in models:
            return [{} for _ in self._traces]
        encoder = self._session(models, "encoder")
        return [encoder.run(self._calibration.source(trace)) for trace in self._traces]

    def _answers(self, models: Mapping[Role, ir.Model], memories: Sequence[Feed]) -> Answers:
        """The last position's logits (examples, vocab), or an encoder's (examples, width)."""
        if "decoder" not in models:
            return np.concatenate([next(iter(out.values())) for out in self._encode(models)])
        decoder = self._session(models, "decoder", ["logits"])
        answers: list[Answers] = []
        for trace, memory in zip(self._traces, memories, strict=True):
            feed = memory | self._calibration.tokens(trace)
            decoder.run(feed, lambda _, __, logits: answers.append(logits))
        return np.concatenate(answers)


def _shortened(trace: Trace, number: int) -> Trace:
    """The first quarter, half, three quarters of the tokens or all, in turn."""
    length = len(trace.tokens) * (number % 4 + 1) // 4
    return dataclasses.replace(trace, tokens=trace.tokens[: max(1, length)])


def divergence(expected: Answers, answers: Answers) -> float:
    """The mean over the examples of KL(expected || answers), of logits (examples, vocab); nats.

    KL(p || q) is the sum over the vocabulary of p * (log p - log q): a constant added to all logits
    of an example changes nothing. Tokens that are not on a shortlist are minus infinity in both.
    """
    possible = ~np.isneginf(expected)
    before, after = (x - log_sum_exp(x)[:, None] for x in (expected, answers))
    change = np.subtract(before, after, out=np.zeros_like(before), where=possible)
    return float((np.exp(before) * change).sum(axis=-1).mean())


def relative_error(expected: Answers, answers: Answers) -> float:
    """The squared error of vectors (examples, width) relative to their own squared size."""
    return float(np.square(answers - expected).sum() / np.square(expected).sum())


def measure_layers(
    quantizer: Quantizer,
    recipe: Recipe,
    options: Options = Options(),  # noqa: B008 - frozen
    progress: PartProgress = lambda _: None,
) -> list[LayerError]:
    """Every part's error for ONNX Runtime, the largest first.

    Raises OptionError without examples.
    """
    calibration = quantizer.decode_examples()
    if calibration is None:
        raise OptionError("calibration: the error of each layer is measured on examples, give some")
    layers: dict[str, dict[str, int]] = defaultdict(dict)  # the sizes of each one's weights
    owners: dict[str, set[Role]] = defaultdict(set)
    for role, model in read_graphs(quantizer.bundle, "onnxruntime").items():
        for use in find_weight_uses(model.graph, quantizer.tables):
            layers[use.layer][use.name] = int(np.prod(use.tensor.shape.numpy()))
            owners[use.layer].add(role)
    every = frozenset(name for weights in layers.values() for name in weights)
    probe, errors = LayerProbe(calibration), []
    for number, (layer, weights) in enumerate(layers.items(), start=1):
        alone = dataclasses.replace(options, higher_precision=every - weights.keys())
        quantized = quantizer.quantize(recipe, "onnxruntime", alone)
        roles = owners[layer]
        changed = next(iter(roles)) if len(roles) == 1 else None
        errors.append(
            LayerError(
                layer=layer,
                weights=tuple(weights),
                values=sum(weights.values()),
                error=probe.error(quantized.models, changed),
            )
        )
        progress(number / len(layers))
    return sorted(errors, key=lambda part: -part.error)
