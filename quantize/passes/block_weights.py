"""Put blocked integer weights in the place of float ones, in ONNX Runtime's form.

1. `MatMul(x, W)` with a constant W (K, N) becomes `MatMulNBits`.
2. `Gemm(x, W, c)` with a constant W (N, K) read transposed becomes `MatMulNBits`, and `Add` for c.
3. `Gather(W, ids)` of an embedding table (vocab, K) becomes `GatherBlockQuantized`, over the bytes
   that rule 2 uses, so that a tied table is stored once.

Everything else, position tables and convolutions among it, stays float. So does a weight whose
inner axis no block of at least 16 values divides. `MatMulNBits` computes with integers
(accuracy_level 4): it is what ONNX Runtime's CPU kernels run fastest, from release 1.23 on.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
from collections.abc import Hashable, Mapping
from types import ModuleType
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.export.passes.editing import CONTRIB, constant, drop_unused_weights
from seq2edge.model.dims import Dims
from seq2edge.quantize.passes.weight_uses import Kind, WeightUse, find_weight_uses

MIN_BLOCK = 16
INTEGERS = 4  # MatMulNBits' accuracy_level for integer arithmetic


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockFormat:
    """Integers of `bits` in blocks of at most `block` values along a product's inner axis."""

    bits: int
    block: int


INT8 = BlockFormat(bits=8, block=128)
INT4 = BlockFormat(bits=4, block=32)

WeightFormats: TypeAlias = Mapping[Kind, BlockFormat | None]  # None: floats


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockedWeight:
    """packed (N, K / block, bytes of a block), scales (N, K / block); zero is in the middle."""

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    bits: int
    block: int

    @property
    def inner(self) -> int:
        """K."""
        return int(self.packed.shape[1]) * self.block


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codes:
    """Signed integers (K, N) and scales (K / block, N) that a calibrated method gave."""

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


class QuantizedWeights:
    """Each weight of a bundle in its blocked form, made once however many graphs read it.

    `calibrated` holds the codes of a method that reads examples, by `WeightUse.storage_key`;
    `higher_precision` names weights that get more bits than `formats` say: 8 instead of 4, floats
    instead of 8.
    """

    def __init__(
        self,
        dims: Dims,
        formats: WeightFormats,
        calibrated: Mapping[Hashable, Codes] | None = None,
        higher_precision: frozenset[str] = frozenset(),
    ) -> None:
        self.formats = formats
        self.higher_precision = higher_precision
        self.tables = table_sizes(dims)
        self._calibrated = calibrated or {}
        self._blocked: dict[Hashable, BlockedWeight] = {}

    def with_higher_precision(self, names: frozenset[str]) -> QuantizedWeights:
        """The same with these weights in higher precision; what was quantized stays so."""
        other = copy.copy(self)
        other.higher_precision = names
        return other

    def blocked(self, use: WeightUse) -> BlockedWeight | None:
        """A weight in blocks; None to keep floats."""
        block_format = self.block_format(use)
        if block_format is None:
            return None
        key = (use.storage_key, use.transposed, block_format)
        if key not in self._blocked:
            self._blocked[key] = self._quantize(use, block_format)
        return self._blocked[key]

    def requested_format(self, use: WeightUse) -> BlockFormat | None:
        """What the recipe says of a weight, whatever its sizes allow."""
        requested = self.formats[use.kind]
        if requested is None or use.name not in self.higher_precision:
            return requested
        return INT8 if requested.bits < INT8.bits else None

    def block_format(self, use: WeightUse) -> BlockFormat | None:
        """Bits and block of a weight; None where it stays float."""
        requested = self.requested_format(use)
        if requested is None:
            return None
        block = requested.block
        while use.inner % block:
            block //= 2
        return BlockFormat(bits=requested.bits, block=block) if block >= MIN_BLOCK else None

    def _quantize(self, use: WeightUse, block_format: BlockFormat) -> BlockedWeight:
        codes = self._calibrated.get(use.storage_key)
        if codes is not None and use.name not in self.higher_precision:
            return pack(codes, block_format)
        nbits = _quantizers()
        config = nbits.DefaultWeightOnlyQuantConfig(
            block_size=block_format.block, is_symmetric=True, bits=block_format.bits
        )
        quantizer = nbits.DefaultWeightOnlyQuantizer(config)
        packed, scales, _ = quantizer.qbits_block_quant(np.ascontiguousarray(use.weight()))
        return BlockedWeight(
            packed=packed, scales=scales, bits=block_format.bits, block=block_format.block
        )


def table_sizes(dims: Dims) -> set[int]:
    """The sizes of the vocabularies: a weight with as many rows is an embedding or an LM head."""
    return {dims.vocab, dims.source_vocab} - {0}


def pack(codes: Codes, block_format: BlockFormat) -> BlockedWeight:
    """The operator's layout: zero becomes 2^(bits - 1), low half of a byte first."""
    bits, block = block_format.bits, block_format.block
    shifted = (codes.values.T.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)  # (N, K)
    blocks = np.ascontiguousarray(shifted).reshape(len(shifted), -1, block)  # (N, K / block, block)
    if bits == 4:
        blocks = blocks[..., ::2] | (blocks[..., 1::2] << 4)
    scales = np.ascontiguousarray(codes.scales.T)
    return BlockedWeight(packed=blocks, scales=scales, bits=bits, block=block)


@functools.cache
def _quantizers() -> ModuleType:
    """onnxruntime's module, whose import would set up the caller's root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        from onnxruntime.quantization import matmul_nbits_quantizer
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return matmul_nbits_quantizer  # type: ignore[no-any-return]


class BlockWeights(ir.passes.InPlacePass):
    """See the module's rules. `changed` tells what became of every weight, by its name."""

    def __init__(self, weights: QuantizedWeights) -> None:
        super().__init__()
        self.weights = weights
        self.changed: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply all rules everywhere."""
        for use in find_weight_uses(model.graph, self.weights.tables):
            blocked = self.weights.blocked(use) if is_plain(use.node) else None
            if blocked is None:
                self.changed[use.name] = "float32"
                continue
            # A weight that stays float anywhere is told as such.
            self.changed.setdefault(use.name, f"int{blocked.bits}, blocks of {blocked.block}")
            new = _blocked_node(model.graph, use.node, use.name, blocked)
            replace_product(model.graph, use.node, new)
        drop_unused_weights(model.graph)
        model.graph.opset_imports.setdefault(CONTRIB, 1)
        return ir.passes.PassResult(model, modified=bool(self.changed))


def is_plain(node: ir.Node) -> bool:
    """Whether a `Gemm` is what rule 2 asks for: no factors, the weight alone transposed."""
    attributes = node.attributes
    if node.op_type != "Gemm":
        return True
    turned = [name in attributes and attributes[name].as_int() for name in ("transA", "transB")]
    factors = (attributes[name].as_float() for name in ("alpha", "beta") if name in attributes)
    return turned == [0, 1] and all(factor == 1.0 for factor in factors)


def replace_product(graph: ir.Graph, node: ir.Node, new: ir.Node) -> None:
    """`new` computes the product; what a `Gemm` adds is added behind it."""
    addend = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if addend is not None:
        graph.insert_before(node, new)
        new.outputs[0].type = node.outputs[0].type
        new = ir.node("Add", [new.outputs[0], addend])
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)


def _blocked_node(graph: ir.Graph, node: ir.Node, name: str, blocked: BlockedWeight) -> ir.Node:
    rows = len(blocked.packed)
    if node.op_type == "Gather":
        # The same bytes as below, seen as a table.
        table = constant(graph, f"{name}.rows", ir.Tensor(blocked.packed.reshape(rows, -1)))
        scales = constant(graph, f"{name}.row_scales", ir.Tensor(blocked.scales))
        attributes = {"gather_axis": 0, "quantize_axis": 1}
        attributes |= {"bits": blocked.bits, "block_size": blocked.block}
        inputs = [table, node.inputs[1], scales]
        return ir.node("GatherBlockQuantized", inputs, attributes, domain=CONTRIB, name=node.name)
    packed = constant(graph, f"{name}.blocks", ir.Tensor(blocked.packed))
    scales = constant(graph, f"{name}.scales", ir.Tensor(blocked.scales.reshape(-1)))
    attributes = {"K": blocked.inner, "N": rows, "accuracy_level": INTEGERS}
    attributes |= {"bits": blocked.bits, "block_size": blocked.block}
    inputs = [node.inputs[0], packed, scales]
    return ir.node("MatMulNBits", inputs, attributes, domain=CONTRIB, name=node.name)
