"""What can be asked of `seq2edge quantize`: frozen recipes in one registry."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from seq2edge.errors import OptionError

QuantizedTarget: TypeAlias = Literal["onnxruntime", "tensorrt"]
BOTH: tuple[QuantizedTarget, ...] = ("onnxruntime", "tensorrt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """Integers of `bits` in blocks of at most `block` values along a product's inner axis."""

    bits: int
    block: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Weights in blocks, one scale a block; activations stay float32 in the graph.

    `table` is for the embedding and the LM head, `attention` for the products whose results are
    compared with each other (queries and keys, and values with them); both lose more than `layers`.
    None keeps a kind of weights in the type of the activations. ONNX Runtime's kernels turn float32
    activations into int8 block by block. TensorRT's graphs have `activations`, 8-bit weights with a
    scale a column, and with `integer_inputs` products that compute in 8 bits. `calibrates`:
    examples make the weights better.
    """

    name: str
    targets: tuple[QuantizedTarget, ...]
    layers: Form | None = None
    attention: Form | None = None
    table: Form | None = None
    activations: Literal["float16", "bfloat16"] = "float16"
    integer_inputs: bool = False
    calibrates: bool = False
    summary: str

    def needs_examples(self, target: QuantizedTarget) -> bool:
        """Whether it cannot be made without: float16 overflows where nobody looked."""
        return target == "tensorrt" and self.activations == "float16"

    def takes_examples(self, target: QuantizedTarget) -> bool:
        """Whether examples change anything."""
        return self.calibrates or self.needs_examples(target)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="int8-weight",
            targets=BOTH,
            layers=Form(bits=8, block=128),
            attention=Form(bits=8, block=128),
            table=Form(bits=8, block=128),
            summary="8-bit weights, round to nearest",
        ),
        Recipe(
            name="int4-weight",
            targets=BOTH,
            layers=Form(bits=4, block=32),
            attention=Form(bits=8, block=128),
            table=Form(bits=8, block=128),
            calibrates=True,
            summary="4-bit weights in blocks of 32; embedding, LM head, queries, keys and values "
            "8-bit",
        ),
        Recipe(
            name="int8-static",
            targets=("tensorrt",),
            layers=Form(bits=8, block=128),
            attention=Form(bits=8, block=128),
            table=Form(bits=8, block=128),
            integer_inputs=True,
            summary="8-bit weights and 8-bit inputs of products, with fixed scales",
        ),
        Recipe(
            name="fp16",
            targets=("tensorrt",),
            summary="float16, and float32 where the examples come near its limits",
        ),
        Recipe(name="bf16", targets=("tensorrt",), activations="bfloat16", summary="bfloat16"),
    )
}


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
