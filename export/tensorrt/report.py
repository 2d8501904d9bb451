"""What TensorRT built, read from the report that its builder logs.

With `ProfilingVerbosity.DETAILED` the builder writes every layer of the engine, with its kernel,
its tensors and the graph's nodes that it computes, and every input and output. So it can be seen
without a GPU whether attention was fused, caches are written in place, and low-bit weights are
read by the products themselves.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator

from seq2edge.errors import EngineError

LAYERS, BINDINGS, END = "Layers:\n", "I/O Tensors:", "Engine Metadata"
_LAYER = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), ")
_TENSOR = re.compile(
    r"Name: (?P<name>[^,{}]*?)(?: \[profile \d+\])?(?:_myl\d+)?, "
    r"Dimensions: \[(?P<axes>[^\]]*)\].*?Datatype: (?P<dtype>\w+)"
)
_BINDING = re.compile(
    r" Name: (?P<name>.*?), IOMode: (?P<mode>\w+), DataType: (?P<dtype>\w+), "
    r"Dimensions: \[(?P<axes>[^\]]*)\]"
)
_RANGE = re.compile(r"MinShape: \[([^\]]*)\], OptShape: \[([^\]]*)\], MaxShape: \[([^\]]*)\]")
_REGION, _PROFILE = re.compile(r"_myl(\d+)"), re.compile(r"\[profile (\d+)\]")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_FUSED_ATTENTION = re.compile(r"_mha|fmha")
_LOW_BIT = ("Int8", "Int4")

Shape = tuple[int, ...]  # -1 where the size is only known at run time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor that a layer reads or writes; `dtype` in TensorRT's words (Float, Half, Int4)."""

    name: str
    dtype: str
    shape: Shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One kernel of the engine. `nodes` are the names of the graph's nodes that it computes."""

    name: str
    kind: str
    profile: int
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]

    @property
    def product(self) -> str | None:
        """The types of a product of activations with a weight, "Half x Int4"; None for others."""
        if self.kind != "gemm" and not (self.kind == "runtime_fusion" and "Fc" in self.name):
            return None
        weights = [t for t in self.constants if _is_matrix(t)]
        if not weights or not self.inputs:
            return None
        low_bit = [t for t in weights if t.dtype in _LOW_BIT]  # the others are scales of blocks
        return f"{self.inputs[0].dtype} x {(low_bit or weights)[0].dtype}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Binding:
    """An input or output of the engine; `profiles` holds (least, best, most) shapes of inputs."""

    name: str
    dtype: str
    shape: Shape
    profiles: tuple[tuple[Shape, Shape, Shape], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineReport:
    """The engine's layers and what goes in and out."""

    layers: tuple[Layer, ...]
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]

    def profile(self, index: int) -> EngineReport:
        """The same with the layers of one profile alone."""
        layers = tuple(layer for layer in self.layers if layer.profile == index)
        return dataclasses.replace(self, layers=layers)

    @property
    def fused_attentions(self) -> int:
        """Kernels that compute a whole attention."""
        return sum(_FUSED_ATTENTION.search(layer.name) is not None for layer in self.layers)

    @property
    def cache_updates(self) -> int:
        """Outputs that a kernel reads and writes: caches updated in place."""
        outputs = {binding.name for binding in self.outputs}
        kept = {
            (layer.profile, tensor.name)
            for layer in self.layers
            for tensor in layer.inputs
            if tensor.name in outputs and tensor.name in {t.name for t in layer.outputs}
        }
        return len(kept)

    @property
    def cache_copies(self) -> int:
        """Outputs that one kernel fills and another then updates: caches copied at every call."""
        outputs = {binding.name for binding in self.outputs}
        written: dict[bool, set[tuple[int, str]]] = {True: set(), False: set()}
        for layer in self.layers:
            read = {tensor.name for tensor in layer.inputs}
            for tensor in layer.outputs:
                if tensor.name in outputs:
                    written[tensor.name in read].add((layer.profile, tensor.name))
        return len(written[True] & written[False])

    @property
    def products(self) -> Counter[str]:
        """How many products with a weight there are of which types, {"Half x Int4": 12}."""
        return Counter(layer.product for layer in self.layers if layer.product is not None)

    @property
    def dequantized_weights(self) -> int:
        """Low-bit weights that a kernel of their own writes out as floats at every call."""
        return sum(_writes_weight(layer) for layer in self.layers)


def _is_matrix(tensor: Tensor) -> bool:
    return sum(size > 1 for size in tensor.shape) > 1


def _writes_weight(layer: Layer) -> bool:
    low_bit = any(t.dtype in _LOW_BIT and _is_matrix(t) for t in layer.constants)
    return low_bit and not layer.inputs


def read_report(lines: list[str]) -> EngineReport:
    """Read the builder's log; raises EngineError where it holds no report."""
    text = "\n".join(lines)
    start = text.rfind(LAYERS)
    middle = text.find(BINDINGS, start)
    if start < 0 or middle < 0:
        raise EngineError("tensorrt: its log holds no report of the engine, is it a new version?")
    layers = [line for line in text[start:middle].splitlines() if _LAYER.match(line)]
    profiles = _profiles(layers)
    bindings = list(_bindings(text[middle:]))
    return EngineReport(
        layers=tuple(_layer(line, profiles) for line in layers),
        inputs=tuple(binding for mode, binding in bindings if mode == "Input"),
        outputs=tuple(binding for mode, binding in bindings if mode == "Output"),
    )


def _profiles(layers: list[str]) -> dict[str, int]:
    """The profile of every region: only some of its layers say it, and none of the first's."""
    profiles: dict[str, int] = {}
    for line in layers:
        for region, profile in zip(_REGION.findall(line)[:1], _PROFILE.findall(line), strict=False):
            profiles[region] = int(profile)
    return profiles


def _layer(line: str, profiles: dict[str, int]) -> Layer:
    """One line of the report as a layer."""
    head = _LAYER.match(line)
    assert head is not None
    region = _REGION.search(head["name"])
    parts = re.split(r"(?:, |^)(?=(?:Inputs|Constants|Outputs|TacticName|Metadata): )", line)
    fields = {key: rest for key, _, rest in (part.partition(": ") for part in parts)}
    return Layer(
        name=head["name"],
        kind=head["kind"],
        profile=profiles.get(region[1], 0) if region else 0,
        inputs=_tensors(fields.get("Inputs", "")),
        constants=_tensors(fields.get("Constants", "")),
        outputs=_tensors(fields.get("Outputs", "")),
        nodes=tuple(_NODE.findall(line)),
    )


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name=match["name"], dtype=match["dtype"], shape=_shape(match["axes"]))
        for match in _TENSOR.finditer(text)
    )


def _bindings(text: str) -> Iterator[tuple[str, Binding]]:
    """Inputs and outputs, each with its mode, "Input" or "Output"."""
    for line in text.partition(END)[0].splitlines():
        match = _BINDING.match(line)
        if match is not None:
            profiles = tuple(
                (_shape(least), _shape(best), _shape(most))
                for least, best, most in _RANGE.findall(line)
            )
            shape = _shape(match["axes"])
            yield (
                match["mode"],
                Binding(name=match["name"], dtype=match["dtype"], shape=shape, profiles=profiles),
            )


def _shape(text: str) -> Shape:
    return tuple(int(axis) for axis in text.split(",") if axis.strip())
