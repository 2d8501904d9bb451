"""What can be asked of `seq2edge quantize`: frozen recipes in one registry."""

from __future__ import annotations

import dataclasses

from seq2edge.errors import OptionError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Weights in blocks of `block` values along a product's inner axis, one scale a block.

    `bits` is for the layers, `table_bits` for the embedding and the LM head, which lose more.
    Activations stay float32 in the graph; the kernels turn them into int8, block by block.
    """

    name: str
    bits: int
    block: int
    table_bits: int = 8
    table_block: int = 128
    summary: str


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="int8-weight",
            bits=8,
            block=128,
            summary="8-bit weights in blocks of 128, round to nearest",
        ),
        Recipe(
            name="int4-weight",
            bits=4,
            block=32,
            summary="4-bit weights in blocks of 32, round to nearest; embedding and LM head 8-bit",
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises OptionError naming the known ones."""
    if name not in RECIPES:
        raise OptionError(f"recipe: {name!r} is unknown, known: {', '.join(RECIPES)}")
    return RECIPES[name]
