"""GPTQ: rounding one input after the other, the rest making up for each error.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
2022. onnxruntime has the method too; its scales for symmetric blocks cut off the largest positive
value, and with its search of scales a 135 M-parameter model answered nonsense, so that it is
written here, with scales that lose least on the examples' inputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.manifest import Role
from seq2edge.files.progress import PartProgress
from seq2edge.quantize.calibration import Calibration, TensorKey, names_by_role
from seq2edge.quantize.passes.block_weights import Codes, QuantizedWeights
from seq2edge.quantize.passes.weight_uses import PRODUCTS, WeightUse

DAMPING = 0.1  # added to the moments' diagonal, as a share of its mean
SHRINK = np.linspace(0.7, 1.1, 17)  # tried scales, as shares of the one that fits the largest value
COLUMNS = 128  # inputs whose errors are handed on together
MOMENT_BYTES = 2**30  # of moments in memory at a time; the examples are read again for the rest

Wide = NDArray[np.float64]


def calibrate_weights(
    calibration: Calibration,
    uses: Mapping[Role, Sequence[WeightUse]],
    weights: QuantizedWeights,
    progress: PartProgress = lambda _: None,
) -> dict[Hashable, Codes]:
    """GPTQ's codes for every product that gets fewer than 8 bits, by `WeightUse.storage_key`."""
    inputs = _inputs_of_few_bits(uses, weights)
    codes: dict[Hashable, Codes] = {}
    groups = list(_groups(inputs))
    for number, group in enumerate(groups):

        def show(part: float, before: int = number) -> None:
            progress((before + part) / len(groups))

        moments = _moments(calibration, group, show)
        for done, (key, moment) in enumerate(moments.items(), start=1):
            for use in inputs[key]:
                block_format = weights.block_format(use)
                assert block_format is not None
                values, scales = quantize_columns(
                    use.weight(), moment, bits=block_format.bits, block=block_format.block
                )
                codes[use.storage_key] = Codes(values=values, scales=scales)
            show(0.7 + 0.3 * done / len(moments))
    return codes


def _inputs_of_few_bits(
    uses: Mapping[Role, Sequence[WeightUse]], weights: QuantizedWeights
) -> dict[TensorKey, list[WeightUse]]:
    """The inputs of products with weights of fewer than 8 bits, and those weights."""
    inputs: dict[TensorKey, list[WeightUse]] = defaultdict(list)
    for role, of_graph in uses.items():
        for use in of_graph:
            block_format = weights.block_format(use)
            # A table is looked up as well: what its product reads says little of most rows.
            if block_format is None or use.node.op_type not in PRODUCTS:
                continue
            if block_format.bits < 8:
                name = str(use.node.inputs[0].name)  # type: ignore[union-attr]
                inputs[role, name].append(use)
    return inputs


def _groups(inputs: Mapping[TensorKey, list[WeightUse]]) -> Iterator[list[TensorKey]]:
    """The inputs in groups whose moments fit the memory allowed."""
    group: list[TensorKey] = []
    used = 0
    for key, uses in inputs.items():
        size = 4 * uses[0].inner ** 2
        if group and used + size > MOMENT_BYTES:
            yield group
            group, used = [], 0
        group.append(key)
        used += size
    if group:
        yield group


def _moments(
    calibration: Calibration, keys: Sequence[TensorKey], progress: PartProgress
) -> dict[TensorKey, NDArray[np.float32]]:
    """The sum of x^T x (K, K) over all rows x (positions, K) of each input."""
    moments: dict[TensorKey, NDArray[np.float32]] = {}

    def on_tensor(role: Role, name: str, values: NDArray[Any]) -> None:
        rows = values.reshape(-1, values.shape[-1])
        moment = rows.T @ rows
        if (role, name) in moments:
            moments[role, name] += moment
        else:
            moments[role, name] = moment

    calibration.observe(names_by_role(keys), on_tensor, lambda part: progress(0.7 * part))
    return moments


def quantize_columns(
    weight: NDArray[np.float32], moment: NDArray[np.float32], *, bits: int, block: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes (K, N) and signed scales (K / block, N) of a weight (K, N): weight ~ codes * scales.

    `moment` (K, K) is the sum of x^T x over the product's inputs x on the examples. The codes lie
    in [-2^(bits - 1), 2^(bits - 1) - 1]; `block` divides K.
    """
    rest = weight.astype(np.float64)
    inner, outer = rest.shape
    damped = _damped(moment)
    importance = np.diagonal(damped)
    # Rounding row i of the weight (input i of all N columns) adds an error to x W. What later rows
    # do best against it is the paper's equation 2: with H the moments, row j > i changes by
    # -error_i * H^-1[i, j] / H^-1[i, i], H of the rows not yet rounded. The rows of the upper
    # Cholesky factor of H^-1 hold these shares for every i at once (the paper's step 3).
    shares: Wide = np.linalg.cholesky(np.linalg.inv(damped)).T  # (K, K), upper triangle
    codes = np.empty((inner, outer), dtype=np.int8)
    scales = np.empty((inner // block, outer), dtype=np.float32)
    columns = max(COLUMNS, block)
    for start in range(0, inner, columns):
        end = min(start + columns, inner)
        errors = np.zeros((end - start, outer))
        for i in range(start, end):
            if i % block == 0:  # of the rows as they are by now, earlier errors made up for
                scales[i // block] = _scales(rest[i : i + block], importance[i : i + block], bits)
            scale = scales[i // block].astype(np.float64)
            codes[i] = _codes(rest[i], scale, bits)
            errors[i - start] = (rest[i] - codes[i] * scale) / shares[i, i]
            rest[i:end] -= np.outer(shares[i, i:end], errors[i - start])
        # Rows behind this group get its errors in one product: the same sums, much faster.
        rest[end:] -= shares[start:end, end:].T @ errors
    return codes, scales


def _damped(moment: NDArray[np.float32]) -> Wide:
    """The moments in float64, with a diagonal that makes them invertible."""
    damped = moment.astype(np.float64)
    diagonal = np.diagonal(damped)
    damping = DAMPING * float(diagonal.mean()) or 1.0  # a product that only ever saw zeros
    damped[np.diag_indices_from(damped)] += damping
    return damped


def _codes(values: Wide, scale: Wide, bits: int) -> Wide:
    """The integers nearest to values / scale, (rows, N) or (N,)."""
    half = 2 ** (bits - 1)
    codes: Wide = np.clip(np.round(values / scale), -half, half - 1)
    return codes


def _scales(values: Wide, importance: Wide, bits: int) -> Wide:
    """The scale of each column of a block (block, N) with the least weighted squared error.

    The codes reach one further below zero than above: the sign of a scale says which side that is.
    """
    fitting = np.abs(values).max(axis=0) / 2 ** (bits - 1)
    fitting[fitting == 0] = 1.0
    least = np.full(fitting.shape, np.inf)
    best: Wide = fitting.copy()
    for factor in (*SHRINK, *-SHRINK):
        scale = fitting * factor
        error: Wide = importance @ np.square(_codes(values, scale, bits) * scale - values)
        better = error < least
        least[better], best[better] = error[better], scale[better]
    return best
