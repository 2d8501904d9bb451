"""Weights quantized by what their inputs were on a user's examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.manifest import Role
from seq2edge.files.progress import PartProgress
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.gptq import quantize_columns
from seq2edge.quantize.passes.block_weights import Codes, QuantizedWeights
from seq2edge.quantize.passes.sites import PRODUCTS, Site

MOMENT_BYTES = 2**30  # of moments in memory at a time; the examples are read again for the rest

Place: TypeAlias = tuple[Role, str]  # a graph, the name of a product's input


def calibrate_weights(
    calibration: Calibration,
    sites: Mapping[Role, Sequence[Site]],
    weights: QuantizedWeights,
    progress: PartProgress = lambda _: None,
) -> dict[Hashable, Codes]:
    """GPTQ's codes for every product that gets fewer than 8 bits, by `Site.place`."""
    inputs: dict[Place, list[Site]] = defaultdict(list)
    for role, found in sites.items():
        for site in found:
            form = weights.form(site)
            # Tables are rows that are looked up as well: what a product sees says little of them.
            if form is not None and form.bits < 8 and site.node.op_type in PRODUCTS:
                inputs[role, str(site.node.inputs[0].name)].append(site)  # type: ignore[union-attr]
    codes: dict[Hashable, Codes] = {}
    groups = list(_groups(inputs))
    for number, group in enumerate(groups):

        def show(part: float, before: int = number) -> None:
            progress((before + part) / len(groups))

        moments = _moments(calibration, group, show)
        for done, (place, moment) in enumerate(moments.items(), start=1):
            for site in inputs[place]:
                form = weights.form(site)
                assert form is not None
                values, scales = quantize_columns(
                    site.weight(), moment, bits=form.bits, block=form.block
                )
                codes[site.place] = Codes(values=values, scales=scales)
            show(0.7 + 0.3 * done / len(moments))
    return codes


def _groups(inputs: Mapping[Place, list[Site]]) -> Iterator[list[Place]]:
    """The inputs in groups whose moments fit the memory allowed."""
    group: list[Place] = []
    used = 0
    for place, sites in inputs.items():
        size = 4 * sites[0].inner ** 2
        if group and used + size > MOMENT_BYTES:
            yield group
            group, used = [], 0
        group.append(place)
        used += size
    if group:
        yield group


def _moments(
    calibration: Calibration, places: Sequence[Place], progress: PartProgress
) -> dict[Place, NDArray[np.float32]]:
    """The sum of x^T x (K, K) over all rows x (positions, K) of each input."""
    moments: dict[Place, NDArray[np.float32]] = {}

    def see(role: Role, name: str, values: NDArray[Any]) -> None:
        rows = values.reshape(-1, values.shape[-1])
        moment = rows.T @ rows
        if (role, name) in moments:
            moments[role, name] += moment
        else:
            moments[role, name] = moment

    wanted: dict[Role, list[str]] = defaultdict(list)
    for role, name in places:
        wanted[role].append(name)
    calibration.observe(wanted, see, lambda part: progress(0.7 * part))
    return moments
