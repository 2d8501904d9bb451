"""What can be asked of `seq2edge quantize`: frozen recipes in one registry."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from seq2edge.errors import OptionError
from seq2edge.quantize.passes.block_weights import INT4, INT8, BlockFormat, WeightFormats

QuantizedTarget: TypeAlias = Literal["onnxruntime", "tensorrt"]
RangeMethod: TypeAlias = Literal["min-max", "percentile", "entropy"]
BOTH: tuple[QuantizedTarget, ...] = ("onnxruntime", "tensorrt")
RANGE_METHODS: tuple[RangeMethod, ...] = ("min-max", "percentile", "entropy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Weights as integers, and what products read beside them.

    `table` is for the embedding and the LM head, `attention` for the products whose results are
    compared with each other (queries and keys, and values with them); both lose more than `layers`.
    None keeps a kind of weights in the type of the activations.

    `inputs` tells how a product's other side becomes 8-bit: not at all where it is empty (ONNX
    Runtime's kernels for weights in blocks turn it into integers block by block by themselves), by
    the values' own range at every call (`dynamic`), or by a range found on examples (`static`).
    Then weights have one scale a column, and tables stay in blocks for ONNX Runtime. TensorRT's
    graphs have `activations`. `calibrates`: examples make the weights better.
    """

    name: str
    targets: tuple[QuantizedTarget, ...]
    layers: BlockFormat | None = None
    attention: BlockFormat | None = None
    table: BlockFormat | None = None
    inputs: Literal["", "dynamic", "static"] = ""
    activations: Literal["float16", "bfloat16"] = "float16"
    calibrates: bool = False
    summary: str

    @property
    def formats(self) -> WeightFormats:
        """The format of each kind of weights."""
        return {"layers": self.layers, "attention": self.attention, "table": self.table}

    def needs_examples(self, target: QuantizedTarget) -> bool:
        """Whether it cannot be made without: float16 overflows where nobody looked."""
        halves = target == "tensorrt" and self.activations == "float16"
        return halves or self.inputs == "static"

    def takes_examples(self, target: QuantizedTarget) -> bool:
        """Whether examples change anything."""
        return self.calibrates or self.needs_examples(target)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="int8-weight",
            targets=BOTH,
            layers=INT8,
            attention=INT8,
            table=INT8,
            summary="8-bit weights, rounded to the nearest",
        ),
        Recipe(
            name="int4-weight",
            targets=BOTH,
            layers=INT4,
            attention=INT8,
            table=INT8,
            calibrates=True,
            summary="4-bit weights in blocks of 32; embedding, LM head, queries, keys and values "
            "8-bit",
        ),
        Recipe(
            name="int8-dynamic",
            targets=("onnxruntime",),
            layers=INT8,
            attention=INT8,
            table=INT8,
            inputs="dynamic",
            summary="8-bit weights and inputs of products, whose range is found at every call",
        ),
        Recipe(
            name="int8-static",
            targets=BOTH,
            layers=INT8,
            attention=INT8,
            table=INT8,
            inputs="static",
            summary="8-bit weights and inputs of products, whose range was found on examples",
        ),
        Recipe(
            name="fp16",
            targets=("tensorrt",),
            summary="float16, and float32 where the examples come near its limits",
        ),
        Recipe(name="bf16", targets=("tensorrt",), activations="bfloat16", summary="bfloat16"),
    )
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is chosen beside a recipe.

    Construction raises OptionError for values that mean nothing.
    """

    # How the range of a product's inputs is found on examples.
    ranges: RangeMethod = "min-max"
    # The share of the inputs' outliers that goes over to the weights (SmoothQuant's alpha).
    smoothing: float = 0.0
    # Keep the decoder's own keys and values in 8 bits.
    int8_cache: bool = False
    # Keep those in 8 bits that the decoder reads of the encoder.
    int8_memory: bool = False
    # Names of weights with more bits than the recipe gives them: 8 instead of 4, floats for 8.
    higher_precision: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.ranges not in RANGE_METHODS:
            raise OptionError(
                f"ranges: {self.ranges!r} is unknown, known: {', '.join(RANGE_METHODS)}"
            )
        if not 0.0 <= self.smoothing < 1.0:
            raise OptionError(f"smoothing: {self.smoothing}, give 0 (none) or more, below 1")

    def check(self, recipe: Recipe, target: QuantizedTarget) -> None:
        """Raise OptionError for what the recipe for that target would not heed."""
        if self.ranges != "min-max" and recipe.inputs != "static":
            raise OptionError(f"ranges: {recipe.name} has no ranges, int8-static has")
        if self.smoothing and not recipe.inputs:
            raise OptionError(
                f"smoothing: {recipe.name} has no 8-bit inputs, int8-dynamic and int8-static have"
            )
        for name, chosen in (("cache", self.int8_cache), ("memory", self.int8_memory)):
            if chosen and target != "onnxruntime":
                raise OptionError(f"int8 {name}: {target} keeps it in floats, onnxruntime can")

    def needs_examples(self) -> bool:
        """Whether these options can only be had with examples."""
        return self.int8_cache or self.int8_memory or self.smoothing > 0


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises OptionError naming the known ones."""
    if name not in RECIPES:
        raise OptionError(f"recipe: {name!r} is unknown, known: {', '.join(RECIPES)}")
    return RECIPES[name]


def find_target(recipe: Recipe, name: str | None) -> QuantizedTarget:
    """The target of that name, or the recipe's first. Raises OptionError naming the possible."""
    if name is None:
        return recipe.targets[0]
    for target in recipe.targets:
        if target == name:
            return target
    raise OptionError(
        f"target: {recipe.name} is not made for {name!r}, only for {' and '.join(recipe.targets)}"
    )
