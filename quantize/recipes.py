"""What can be asked of `seq2edge quantize`: frozen recipes in one registry."""

from __future__ import annotations

import dataclasses

from seq2edge.errors import OptionError


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
    The kernels turn activations into int8 block by block. `calibrates`: examples make it better.
    """

    name: str
    layers: Form
    attention: Form
    table: Form = Form(bits=8, block=128)
    calibrates: bool = False
    summary: str


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="int8-weight",
            layers=Form(bits=8, block=128),
            attention=Form(bits=8, block=128),
            summary="8-bit weights in blocks of 128, round to nearest",
        ),
        Recipe(
            name="int4-weight",
            layers=Form(bits=4, block=32),
            attention=Form(bits=8, block=128),
            calibrates=True,
            summary="4-bit weights in blocks of 32; embedding, LM head, queries, keys and values "
            "8-bit",
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises OptionError naming the known ones."""
    if name not in RECIPES:
        raise OptionError(f"recipe: {name!r} is unknown, known: {', '.join(RECIPES)}")
    return RECIPES[name]
