"""Tiny bundles that read and write text: words of the form w5, one token each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from seq2edge.evaluation.examples import Example
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.quantize.recipes import Options

SPECIAL = ["<s>", "<pad>", "</s>"]
MASK = "<mask>"  # in the place of w95, where it is asked for


def write_tokenizer(folder: Path, template: str | None = None, *, mask: bool = False) -> None:
    """A tokenizer.json of w3 to w95 and three special tokens, with an end after every text."""
    names = SPECIAL + [f"w{i}" for i in range(len(SPECIAL), tiny_models.VOCAB)]
    if mask:
        names[-1] = MASK
    words = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    tokenizer.add_special_tokens([*SPECIAL, *([MASK] if mask else [])])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "TokenizersBackend", "eos_token": "</s>", "pad_token": "<pad>"}
    if mask:
        settings["mask_token"] = MASK
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_image_processor(folder: Path, encoder: dict[str, Any]) -> None:
    """A preprocessor_config.json as TrOCR has it, for images of the encoder's size."""
    height, width = encoder["image_size"]
    half = [0.5, 0.5, 0.5]
    settings = {
        "feature_extractor_type": "ViTFeatureExtractor",
        "size": {"height": height, "width": width},
        "image_mean": half,
        "image_std": half,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def speaking_bundle(
    folder: Path,
    name: str,
    *,
    template: str | None = None,
    edit: Callable[[Any], None] = lambda _: None,
    alignments: bool = False,
    **changes: Any,
) -> Path:
    """Export the tiny model of that name with this tokenizer; the bundle's folder.

    `edit` may change the model's weights.
    """
    model = tiny_models.make(name, **changes)
    with torch.no_grad():
        edit(model)
    model.save_pretrained(folder / "checkpoint")
    write_tokenizer(folder / "checkpoint", template, mask="masked" in name)
    encoder = tiny_models.EVERY[name].settings.get("encoder", {})
    if "image_size" in encoder:
        write_image_processor(folder / "checkpoint", encoder)
    export_checkpoint(
        folder / "checkpoint",
        folder / "bundle",
        alignments=alignments,
        task=tiny_models.task_of(name),
        original=False,
    )
    return folder / "bundle"


def sentences(count: int = 20, words: int = 9) -> list[Example]:
    """Random texts that the tokenizer of `speaking_bundle` reads, always the same."""
    rows = np.random.default_rng(7).integers(len(SPECIAL), tiny_models.VOCAB, (count, words))
    return [Example(input=" ".join(f"w{i}" for i in row)) for row in rows]


def brief(model: Any) -> None:
    """Let a BART end its answers by itself, which a random one hardly does."""
    model.final_logits_bias[0, 2] = 8.0
    model.generation_config.min_new_tokens = 4


def loud_t5(model: Any) -> None:
    """Let the last feed-forwards of a T5 go beyond float16: its last norm forgives any size.

    With softer attention than a random model's, so that rounding alone changes no token.
    """
    for stack in (model.encoder, model.decoder):
        wide = stack.block[-1].layer[-1].DenseReluDense
        wide.wi.weight *= 5000
        wide.wo.weight *= 20
        for layer in (layer for block in stack.block for layer in block.layer):
            for name in ("SelfAttention", "EncDecAttention"):
                if hasattr(layer, name):
                    getattr(layer, name).q.weight *= 0.2


def eight_bit_caches(folder: Path, source: Path, *, memory: bool) -> Any:
    """What quantizing that bundle with 8-bit caches, and encoder memories, reports."""
    options = Options(int8_cache=True, int8_memory=memory)
    examples = sentences(30)
    return quantize_bundle(
        source, folder / "bundle", "int8-weight", options=options, calibration=examples
    )
