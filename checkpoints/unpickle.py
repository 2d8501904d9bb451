"""A process of its own that makes safetensors of one file of pickled weights.

    python -I unpickle.py PICKLE SAFETENSORS tied|untied

Tensors alone are read (`weights_only`): whatever else the file wants to make or call is an error.
Writes one JSON object: what became of the tensors, or `error`, one line; a damaged file ends it
with a traceback. `checkpoints/pickled.py` starts it; nothing of the package is imported here.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

# Second places of an embedding; another name of the same tensor is kept before these.
HEADS = ("lm_head", "proj_out", "predictions.decoder", "vocab_projector", "generator_lm_head")


def main(source: Path, destination: Path, *, tied: bool) -> dict[str, Any]:
    """Read, check, write; what is printed."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            if any(member.compress_type for member in archive.infolist()):
                return {"error": "is compressed, which no library saves; it may unpack to anything"}
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RecursionError, MemoryError, OverflowError) as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        asks = f"asks for {name[1]}" if name else "is more than tensors by their names"
        return {"error": f"{asks}, which weights never need; nothing of it was run"}
    if not isinstance(state, Mapping) or not state:
        return {"error": f"holds {type(state).__name__}, needs tensors by their names"}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            return {"error": f"is no plain state dict: {name!r:.60} is {kind}, not a tensor"}
        if value.layout != torch.strided or value.nbytes > value.untyped_storage().nbytes():
            return {"error": f"{name!r:.60}: has more values than are stored for it"}
    kept, second = _once(state) if tied else (dict(state), {})
    whole = {name: tensor.detach().clone().contiguous() for name, tensor in kept.items()}
    try:
        save_file(whole, destination, metadata={"format": "pt", **second})
    except (ValueError, RuntimeError, KeyError) as error:  # a type that safetensors has no name for
        return {"error": f"cannot be written as safetensors: {error}"}
    size = sum(tensor.numel() * tensor.element_size() for tensor in whole.values())
    return {"names": sorted(whole), "second": second, "size": size}


def _once(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors that share their memory once, and the second names with the one that is kept."""
    places: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        where = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        places.setdefault(where if tensor.numel() else name, []).append(name)
    second: dict[str, str] = {}
    for names in places.values():
        # The shared table before the stacks' own, and the heads last; else the first in order.
        first = min(names, key=lambda n: ("shared" not in n, any(head in n for head in HEADS)))
        second |= {name: first for name in names if name != first}
    return {name: tensor for name, tensor in state.items() if name not in second}, second


if __name__ == "__main__":
    pickled, written, shared = sys.argv[1:]
    sys.stdout.write(json.dumps(main(Path(pickled), Path(written), tied=shared == "tied")))
