"""How large the inputs of products get on a user's examples.

First the largest absolute value of every channel is found, which smoothing needs and which is the
`min-max` range. The other methods read the examples once more: onnxruntime's histograms give the
99.99th percentile, or the clipping that changes the distribution least (its entropy method).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.manifest import GraphFlavour, Role
from seq2edge.files.progress import PartProgress
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.passes.sites import Site
from seq2edge.quantize.recipes import Options, RangeMethod, Recipe

Place: TypeAlias = tuple[Role, str]  # a graph, the name of a product's input
Channels: TypeAlias = dict[Place, NDArray[np.float32]]  # (K,) of each input
Sites: TypeAlias = Mapping[Role, Sequence[Site]]
Value = TypeVar("Value")

PERCENTILE = 99.99
BINS = {"percentile": 2048, "entropy": 512}
QUANTIZED_BINS = 128  # of the entropy method: as many as there are sizes of an 8-bit code
NORMS = ("LayerNormalization", "RMSNormalization")
LEAST_CHANNEL = 1e-5  # smaller ones are all but unused; no factor is made of them


def product_inputs(sites: Sequence[Site]) -> dict[str, list[Site]]:
    """The inputs of products that are no LM heads, with the weights that each meets."""
    inputs: dict[str, list[Site]] = defaultdict(list)
    for site in sites:
        value = site.node.inputs[0]
        if site.kind != "table" and value is not None:
            inputs[str(value.name)].append(site)
    return inputs


def find_channels(
    seen: Calibration, sites: Sites, target: GraphFlavour, progress: PartProgress = lambda _: None
) -> Channels:
    """The largest absolute value of every channel of every product's input."""
    found: Channels = {}

    def see(role: Role, name: str, values: NDArray[Any]) -> None:
        most = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
        known = found.get((role, name))
        found[role, name] = most if known is None else np.maximum(known, most)

    wanted = {role: list(product_inputs(some)) for role, some in sites.items()}
    seen.observe(wanted, see, progress, target=target)
    return found


def find_factors(channels: Channels, sites: Sites, alpha: float) -> Channels:
    """What each channel of an input is divided by, and its weights' rows are multiplied by.

    Inputs that a norm gives, where outliers stay in the same channels; others are left as they are.
    Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
    Models", 2022, equation 4.
    """
    factors: Channels = {}
    for role, some in sites.items():
        for name, readers in product_inputs(some).items():
            producer = readers[0].node.inputs[0].producer()  # type: ignore[union-attr]
            if producer is None or producer.op_type not in NORMS:
                continue
            inputs = np.maximum(channels[role, name], LEAST_CHANNEL)
            rows = [np.abs(site.weight()).max(axis=1) for site in readers]
            weights = np.maximum(np.max(rows, axis=0), LEAST_CHANNEL)
            factor = inputs**alpha / weights ** (1 - alpha)
            factors[role, name] = np.maximum(factor, LEAST_CHANNEL).astype(np.float32)
    return factors


def find_ranges(
    seen: Calibration,
    channels: Channels,
    factors: Channels,
    method: RangeMethod,
    target: GraphFlavour,
    progress: PartProgress = lambda _: None,
) -> dict[Place, float]:
    """The largest absolute value to be told apart, of each input divided by its factors."""

    def divided(place: Place, values: NDArray[Any]) -> NDArray[Any]:
        return values / factors[place] if place in factors else values

    most = {place: float(divided(place, values).max()) for place, values in channels.items()}
    if method == "min-max":
        return most
    collector = _collector(method)
    add = collector.collect_value if method == "entropy" else collector.collect_absolute_value
    for place, size in most.items():  # bins reach as far as they must, from the start
        add({place: np.array([0.0, size], dtype=np.float32)})

    def see(role: Role, name: str, values: NDArray[Any]) -> None:
        add({(role, name): divided((role, name), values)})

    seen.observe(_by_role(most), see, progress, target=target)
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
        thresholds = collector.compute_collection_result()
    return {place: float(max(abs(found[0]), abs(found[1]))) for place, found in thresholds.items()}


def _by_role(places: Iterable[Place]) -> dict[Role, list[str]]:
    names: dict[Role, list[str]] = defaultdict(list)
    for role, name in places:
        names[role].append(name)
    return names


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
class InputStudy:
    """What examples tell of the products' inputs: smoothing factors, and ranges after it."""

    factors: Channels
    ranges: dict[Place, float]


def study_inputs(
    seen: Calibration | None,
    sites: Sites,
    recipe: Recipe,
    options: Options,
    target: GraphFlavour,
    progress: PartProgress = lambda _: None,
) -> InputStudy:
    """Find what the recipe and the options need; nothing where they need nothing."""
    static = recipe.inputs == "static"
    if seen is None or not (static or options.smoothing):
        return InputStudy(factors={}, ranges={})
    channels = find_channels(seen, sites, target, lambda part: progress(0.5 * part))
    factors = find_factors(channels, sites, options.smoothing) if options.smoothing else {}
    ranges: dict[Place, float] = {}
    if static:

        def show(part: float) -> None:
            progress(0.5 + 0.5 * part)

        ranges = find_ranges(seen, channels, factors, options.ranges, target, show)
    return InputStudy(factors=factors, ranges=ranges)


def of_role(found: Mapping[Place, Value], role: Role) -> dict[str, Value]:
    """One graph's part, by the inputs' names."""
    return {name: value for (owner, name), value in found.items() if owner == role}
