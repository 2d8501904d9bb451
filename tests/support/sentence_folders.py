"""Folders of sentence-transformers, without that library: its files, random products."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

PACKAGE = "sentence_transformers.models"
Dense: TypeAlias = "tuple[torch.nn.Linear, str]"


def write(path: Path, values: Any) -> None:
    """A JSON file, with its folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))


def sentence_folder(
    folder: Path,
    *kinds: str,
    pooling: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    dense: Sequence[tuple[int, int, str, bool]] = (),
) -> list[Dense]:
    """Make the folder one of sentence-transformers; its products and their activations.

    `dense`: (in, out, activation, bias) of each.
    """
    kinds = kinds or ("Transformer", "Pooling")
    places = ["" if kind.endswith("Transformer") else f"{i}_{kind}" for i, kind in enumerate(kinds)]
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": f"{PACKAGE}.{kind}"}
        for i, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    write(folder / "modules.json", modules)
    write(folder / "1_Pooling" / "config.json", pooling or {"pooling_mode_mean_tokens": True})
    if settings:
        write(folder / "config_sentence_transformers.json", settings)
    torch.manual_seed(4)
    layers: list[Dense] = []
    for i, (wide, narrow, activation, bias) in enumerate(dense, 2):
        layer = torch.nn.Linear(wide, narrow, bias=bias)
        layers.append((layer, activation))
        values = {"in_features": wide, "out_features": narrow, "bias": bias}
        kind = f"torch.nn.modules.activation.{activation}"
        place = folder / f"{i}_Dense"
        write(place / "config.json", {**values, "activation_function": kind})
        tensors = {f"linear.{k}": v.clone() for k, v in layer.state_dict().items()}
        save_file(tensors, place / "model.safetensors")
    return layers


def by_hand(
    model: Any,
    ids: torch.Tensor,
    lengths: torch.Tensor,
    mode: str,
    dense: list[Dense],
    *,
    normalize: bool,
) -> torch.Tensor:
    """The modules as sentence-transformers runs them, over transformers' own model."""
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        if mode == "cls":
            pooled = hidden[:, 0]
        elif mode == "lasttoken":
            pooled = torch.stack([hidden[i, n - 1] for i, n in enumerate(lengths)])
        elif mode == "max":
            pooled = torch.stack([hidden[i, :n].amax(0) for i, n in enumerate(lengths)])
        else:
            pooled = torch.stack([hidden[i, :n].mean(0) for i, n in enumerate(lengths)])
        for layer, activation in dense:
            pooled = getattr(torch.nn, activation)()(layer(pooled))
        return F.normalize(pooled, dim=-1) if normalize else pooled
