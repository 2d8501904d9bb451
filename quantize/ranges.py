"""How large the inputs of products get on a user's examples.

First the largest absolute value of every channel is found, which smoothing needs and which is the
`min-max` range. The other methods read the examples once more: onnxruntime's histograms give the
99.99th percentile, or the clipping that changes the distribution least (its entropy method).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.manifest import GraphFlavour, Role
from seq2edge.files.progress import PartProgress
from seq2edge.quantize.calibration import Calibration, TensorKey, names_by_role
from seq2edge.quantize.passes.weight_uses import WeightUse, product_inputs
from seq2edge.quantize.recipes import Options, RangeMethod, Recipe

Channels: TypeAlias = dict[TensorKey, NDArray[np.float32]]  # (K,) of each product's input
WeightUses: TypeAlias = Mapping[Role, Sequence[WeightUse]]
Value = TypeVar("Value")

PERCENTILE = 99.99
BINS = {"percentile": 2048, "entropy": 512}
QUANTIZED_BINS = 128  # of the entropy method: as many as there are sizes of an 8-bit code
NORMS = ("LayerNormalization", "RMSNormalization")
MIN_CHANNEL = 1e-5  # smaller ones are all but unused; no factor is made of them


def find_channels(
    calibration: Calibration,
    uses: WeightUses,
    target: GraphFlavour,
    progress: PartProgress = lambda _: None,
) -> Channels:
    """The largest absolute value of every channel of every product's input."""
    channels: Channels = {}

    def on_tensor(role: Role, name: str, values: NDArray[Any]) -> None:
        largest = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
        before = channels.get((role, name))
        channels[role, name] = largest if before is None else np.maximum(before, largest)

    names = {role: list(product_inputs(of_graph)) for role, of_graph in uses.items()}
    calibration.observe(names, on_tensor, progress, target=target)
    return channels


def find_factors(channels: Channels, uses: WeightUses, alpha: float) -> Channels:
    """What each channel of an input is divided by, and its weights' rows are multiplied by.

    Inputs that a norm gives, where outliers stay in the same channels; others are left as they are.
    Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
    Models", 2022, equation 4: s_k = max|x_k|^alpha / max|W_k|^(1 - alpha), for x (positions, K) and
    all weights (K, N) that read it. With alpha 0 the rows of weights would all become equally
    large, with alpha 1 the channels of the input; at 0.5 both have the same size in each channel.
    """
    factors: Channels = {}
    for role, of_graph in uses.items():
        for name, readers in product_inputs(of_graph).items():
            producer = readers[0].node.inputs[0].producer()  # type: ignore[union-attr]
            if producer is None or producer.op_type not in NORMS:
                continue
            inputs = np.maximum(channels[role, name], MIN_CHANNEL)
            rows = [np.abs(use.weight()).max(axis=1) for use in readers]
            weights = np.maximum(np.max(rows, axis=0), MIN_CHANNEL)
            factor = inputs**alpha / weights ** (1 - alpha)
            factors[role, name] = np.maximum(factor, MIN_CHANNEL).astype(np.float32)
    return factors


def find_ranges(
    calibration: Calibration,
    channels: Channels,
    factors: Channels,
    method: RangeMethod,
    target: GraphFlavour,
    progress: PartProgress = lambda _: None,
) -> dict[TensorKey, float]:
    """The largest absolute value to be told apart, of each input divided by its factors."""

    def divided(key: TensorKey, values: NDArray[Any]) -> NDArray[Any]:
        return values / factors[key] if key in factors else values

    largest = {key: float(divided(key, values).max()) for key, values in channels.items()}
    if method == "min-max":
        return largest
    collector = _collector(method)
    add = collector.collect_value if method == "entropy" else collector.collect_absolute_value
    for key, size in largest.items():  # bins reach as far as they must, from the start
        add({key: np.array([0.0, size], dtype=np.float32)})

    def on_tensor(role: Role, name: str, values: NDArray[Any]) -> None:
        add({(role, name): divided((role, name), values)})

    calibration.observe(names_by_role(largest), on_tensor, progress, target=target)
    with contextlib.redirect_stdout(io.StringIO()):  # the collector prints what it does
        thresholds = collector.compute_collection_result()
    return {key: float(max(abs(low), abs(high))) for key, (low, high, *_) in thresholds.items()}


def _collector(method: RangeMethod) -> Any:
    from onnxruntime.quantization.calibrate import HistogramCollector

    return HistogramCollector(
        method=method,
        symmetric=True,
        num_bins=BINS[method],
        num_quantized_bins=QUANTIZED_BINS,
        percentile=PERCENTILE,
        scenario="same",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputStats:
    """What examples tell of the products' inputs: smoothing factors, and ranges after it."""

    factors: Channels = dataclasses.field(default_factory=dict)
    ranges: dict[TensorKey, float] = dataclasses.field(default_factory=dict)


def needs_input_stats(recipe: Recipe, options: Options) -> bool:
    """Whether anything of the products' inputs has to be known."""
    return recipe.inputs == "static" or options.smoothing > 0


def collect_input_stats(
    calibration: Calibration | None,
    uses: WeightUses,
    recipe: Recipe,
    options: Options,
    target: GraphFlavour,
    progress: PartProgress = lambda _: None,
) -> InputStats:
    """Measure what the recipe and the options need; nothing where they need nothing."""
    if calibration is None or not needs_input_stats(recipe, options):
        return InputStats()
    channels = find_channels(calibration, uses, target, lambda part: progress(0.5 * part))
    factors = find_factors(channels, uses, options.smoothing) if options.smoothing else {}
    ranges: dict[TensorKey, float] = {}
    if recipe.inputs == "static":

        def show(part: float) -> None:
            progress(0.5 + 0.5 * part)

        ranges = find_ranges(calibration, channels, factors, options.ranges, target, show)
    return InputStats(factors=factors, ranges=ranges)


def of_role(by_tensor: Mapping[TensorKey, Value], role: Role) -> dict[str, Value]:
    """One graph's part, by the inputs' names."""
    return {name: value for (owner, name), value in by_tensor.items() if owner == role}
