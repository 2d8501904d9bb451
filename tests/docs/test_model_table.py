"""The families as docs/models.md prints them: what is read of a published config of each.

`PYTHONPATH=tests/support python tests/docs/test_model_table.py` writes the tables anew.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import tiny_models
import transformers
from published_configs import CONFIGS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from seq2edge.checkpoints.families import FAMILIES, find_family
from seq2edge.checkpoints.families.family import Config
from seq2edge.checkpoints.families.missing import MISSING
from seq2edge.errors import UnsupportedError
from seq2edge.model.dims import Dims, StackDims

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
PRINTED = {
    "families": re.compile(r"^\| family \| read from .*\n(?:\|.*\n)+", re.MULTILINE),
    "missing": re.compile(r"^\| it needs \|.*\n(?:\|.*\n)+", re.MULTILINE),
}
TASKS = (None, "embed", "fill", "weigh")  # a masked-language model is asked which
# Fields of `StackDims` that are sizes, or numbers that go with what is named.
SIZES = """
    layers heads head_dim hidden activation norm_epsilon max_positions position_offset
    relative_distance embedding_scale attention_scale final_norm qkv_bias attention_bias
    feedforward_bias
""".split()


class AnyNames(frozenset):
    """The names of a checkpoint that has every tensor, but for types of tokens."""

    def __contains__(self, name: object) -> bool:
        return "token_type" not in str(name)


def _mixers(stack: StackDims) -> str:
    """What stands in the place of attention."""
    kinds = {"recurrence": "recurrences (SSRU)", "convolution": f"convolutions of {stack.taps}"}
    counts = {mixer: stack.layer_mixers.count(mixer) for mixer in kinds}
    said = [f"{kinds[mixer]} in {count} layers" for mixer, count in counts.items() if count]
    return ", ".join(said)


def layers(stack: StackDims) -> str:
    """What is special about a stack's layers, in words; a field without words by its name."""
    words = {
        "norm": "RMSNorm",
        "norm_bias": "norms without biases",
        "pre_norm": "norms behind" if not stack.output_norm else "",
        "output_norm": "norms around" if stack.pre_norm else "norms of what is added",
        "first_norm": "no first norm",
        "parallel": "attention beside the feed-forward",
        "embedding_norm": "norm of embeddings",
        "norm_before_positions": "before positions",
        "positions": {
            "relative": "no absolute positions",
            "sinusoidal": "sinusoidal positions",
            "rotary": f"rotary positions of base {stack.rotary_theta:,.0f}",
        }.get(stack.positions, stack.positions),
        "rotary_theta": "",
        "rotary_dim": f"in {stack.rotary_dim} of {stack.head_dim} values",
        "rotary_divisors": "scaled for longer texts",
        "rotary_magnitude": "",
        "window_theta": f"of base {stack.window_theta:,.0f} in windows",
        "unrotated_layers": f"{len(stack.unrotated_layers)} layers without",
        "residual_scale": "scaled sums",
        "attention_cap": "bounded scores",
        "kv_heads": f"{stack.heads // stack.kv_heads} queries to a key",
        "gated": f"gated {stack.activation}",
        "qk_norm": "norms of queries and keys",
        "qk_norm_whole": "of all heads together",
        "relative_buckets": "relative biases",
        "relative_layers": "in every layer",
        "relative_span": "tables of relative positions",
        "shared_layers": "one set of weights for all",
        "window": f"window of {stack.window}",
        "windows": f"windows of {max(stack.layer_windows)} in {sum(map(bool, stack.layer_windows))}"
        " layers",
        "mixers": _mixers(stack),
        "taps": "",
    }
    heads = stack.heads
    plain = StackDims(
        layers=0, heads=heads, kv_heads=heads, head_dim=0, hidden=0, activation="relu"
    )
    said = [
        words.get(field.name, f"`{field.name}`")
        for field in dataclasses.fields(stack)
        if field.name not in SIZES and getattr(stack, field.name) != getattr(plain, field.name)
    ]
    if stack.positions == "learned":
        said.insert(0, "learned positions")
    return ", ".join(word for word in said if word)


def features(dims: Dims) -> str:
    """The layers of both stacks, and what stands around them."""
    stacks = {
        side: f"{stack.layers} x {stack.heads} heads, {layers(stack)}"
        for side, stack in (("encoder", dims.encoder), ("decoder", dims.decoder))
        if stack is not None
    }
    named = [f"{side}: {text}" for side, text in stacks.items()]
    if len(set(stacks.values())) == 1 and len(stacks) == 2:
        named = [f"both: {stacks['encoder']}"]
    if dims.mels:
        named.insert(0, f"{dims.mels} mel bands")
    if dims.samples:
        named.insert(0, f"samples, in {len(dims.samples.convolutions)} convolutions")
    if dims.image:
        size = f"{dims.image.height} x {dims.image.width}"
        patch = f"{dims.image.patch_height} x {dims.image.patch_width}"
        named.insert(0, f"images of {size} pixels in patches of {patch}")
    if dims.table_width:
        named.insert(0, f"embeddings of {dims.table_width} for a width of {dims.width}")
    return "; ".join(named)


def read(values: dict[str, object], task: str | None = None) -> Dims:
    """The dims of a config, whatever its tensors are called."""
    config = Config(values, task=task, default_task="embed" if task is None else None)
    return find_family(str(values["model_type"])).dims(config, AnyNames())


def task_of(values: dict[str, object], task: str | None) -> str:
    """What a checkpoint becomes; empty where its class is not made for the task."""
    try:
        return read(values, task).task
    except UnsupportedError:
        return ""


def tasks(values: dict[str, object]) -> str:
    """What checkpoints of this family can be exported for, over the classes that it knows."""
    classes = find_family(str(values["model_type"])).architectures or ("",)
    found = {
        task_of({**values, "architectures": [each], "id2label": None}, task)
        for each in classes
        for task in TASKS
    }
    return ", ".join(sorted(found - {""}))


def compared(model_type: str) -> str:
    """By which tests."""
    ways = {
        "tokens": tiny_models.GENERATORS,
        "answers": tiny_models.ENCODERS,
        "before export": tiny_models.ALIKE,
    }
    for way, entries in ways.items():
        types = {getattr(transformers, entry.config).model_type for entry in entries.values()}
        if model_type in types:
            return way
    return "tokens of Marian's formulas" if model_type in tiny_models.FOREIGN else "-"


def family_table() -> str:
    """A line for every `model_type`, two where it has encoders and decoders; its first config."""
    lines = [
        "| family | read from | layers | tasks | compared with transformers |",
        "|---|---|---|---|---|",
    ]
    for model_type in FAMILIES:
        if model_type == "seq2edge":
            continue
        kinds: dict[str, str] = {}
        for name, each in CONFIGS.items():
            if each["model_type"] == model_type:
                kinds.setdefault(read(each).kind, name)
        for name in kinds.values():
            values = CONFIGS[name]
            cells = (f"`{model_type}`", name, features(read(values)), tasks(values))
            lines.append(f"| {' | '.join(cells)} | {compared(model_type)} |")
    return "\n".join(lines) + "\n"


def missing_table() -> str:
    """A line for every need."""
    lines = ["| it needs | model types |", "|---|---|"]
    for need in dict.fromkeys(MISSING.values()):
        types = ", ".join(f"`{name}`" for name, why in MISSING.items() if why == need)
        lines.append(f"| {need} | {types} |")
    return "\n".join(lines) + "\n"


def test_the_page_has_the_tables():
    """Every family and every need, as the code has them today."""
    text = PAGE.read_text(encoding="utf-8")
    assert PRINTED["families"].findall(text) == [family_table()]
    assert PRINTED["missing"].findall(text) == [missing_table()]


def test_every_family_is_compared_with_something():
    """None is listed that no tiny model of its class, or in its own format, stands for."""
    assert [name for name in FAMILIES if compared(name) == "-"] == ["seq2edge"]


def test_what_is_missing_is_of_transformers_and_not_here():
    """Names as configs have them; a family that comes must leave the list."""
    assert not set(MISSING) & set(FAMILIES)
    assert set(MISSING) <= set(CONFIG_MAPPING_NAMES)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    for which, table in (("families", family_table()), ("missing", missing_table())):
        page = PRINTED[which].sub(lambda _, table=table: table, page)
    PAGE.write_text(page, encoding="utf-8")
