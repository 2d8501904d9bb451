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

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.export.passes.editing import CONTRIB, constant, drop_unused_weights
from seq2edge.model.dims import Dims
from seq2edge.quantize.passes.sites import Site, find_sites
from seq2edge.quantize.recipes import BYTES, Form, Recipe

LEAST_BLOCK = 16
INTEGERS = 4  # MatMulNBits' accuracy_level for integer arithmetic


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
    """Signed integers (K, N) and scales (K / block, N) that a calibrated method found."""

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


class QuantizedWeights:
    """Each weight of a bundle in its blocked form, made once however many graphs read it.

    `calibrated` holds what a method that saw examples found, by `Site.place`; `finer` names weights
    that get more bits than the recipe says: 8 instead of 4, floats instead of 8.
    """

    def __init__(
        self,
        dims: Dims,
        recipe: Recipe,
        calibrated: Mapping[Hashable, Codes] | None = None,
        finer: frozenset[str] = frozenset(),
    ) -> None:
        self.recipe = recipe
        self.finer = finer
        self.tables = table_sizes(dims)
        self._calibrated = calibrated or {}
        self._made: dict[Hashable, BlockedWeight] = {}

    def but(self, finer: frozenset[str]) -> QuantizedWeights:
        """The same with these finer weights; what was made stays made."""
        other = copy.copy(self)
        other.finer = finer
        return other

    def of(self, site: Site) -> BlockedWeight | None:
        """The form of a weight; None to keep floats."""
        form = self.form(site)
        if form is None:
            return None
        key = (site.place, site.transposed, form)
        if key not in self._made:
            self._made[key] = self._quantize(site, form)
        return self._made[key]

    def asked(self, site: Site) -> Form | None:
        """What the recipe says of a weight, whatever its sizes allow."""
        asked: Form | None = getattr(self.recipe, site.kind)
        if asked is None or site.name not in self.finer:
            return asked
        return BYTES if asked.bits < BYTES.bits else None

    def form(self, site: Site) -> Form | None:
        """Bits and block of a weight; None where it stays float."""
        asked = self.asked(site)
        if asked is None:
            return None
        block = asked.block
        while site.inner % block:
            block //= 2
        return Form(bits=asked.bits, block=block) if block >= LEAST_BLOCK else None

    def _quantize(self, site: Site, form: Form) -> BlockedWeight:
        found = self._calibrated.get(site.place)
        if found is not None and site.name not in self.finer:
            return pack(found, form)
        nbits = _quantizers()
        config = nbits.DefaultWeightOnlyQuantConfig(
            block_size=form.block, is_symmetric=True, bits=form.bits
        )
        quantizer = nbits.DefaultWeightOnlyQuantizer(config)
        packed, scales, _ = quantizer.qbits_block_quant(np.ascontiguousarray(site.weight()))
        return BlockedWeight(packed=packed, scales=scales, bits=form.bits, block=form.block)


def table_sizes(dims: Dims) -> set[int]:
    """The sizes of the vocabularies: a weight with as many rows is an embedding or an LM head."""
    return {dims.vocab, dims.source_vocab} - {0}


def pack(codes: Codes, form: Form) -> BlockedWeight:
    """The operator's layout: zero becomes 2^(bits - 1), low half of a byte first."""
    shifted = (codes.values.T.astype(np.int16) + 2 ** (form.bits - 1)).astype(np.uint8)
    blocks = np.ascontiguousarray(shifted).reshape(len(shifted), -1, form.block)
    if form.bits == 4:
        blocks = blocks[..., ::2] | (blocks[..., 1::2] << 4)
    scales = np.ascontiguousarray(codes.scales.T)
    return BlockedWeight(packed=blocks, scales=scales, bits=form.bits, block=form.block)


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
        for site in find_sites(model.graph, self.weights.tables):
            blocked = self.weights.of(site) if is_plain(site.node) else None
            if blocked is None:
                self.changed[site.name] = "float32"
                continue
            # A weight that stays float anywhere is told as such.
            self.changed.setdefault(site.name, f"int{blocked.bits}, blocks of {blocked.block}")
            new = _blocked_node(model.graph, site.node, site.name, blocked)
            replace_product(model.graph, site.node, new)
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
