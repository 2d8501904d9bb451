"""The operators that exist twice: as torch code, and as the ONNX node the export must contain.

Opset 24's `TensorScatter` and `Attention` have no torch counterpart that the exporter would map,
so each function here computes the result in eager mode and names the node under export.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OPSET = 24


def exporting() -> bool:
    """Whether torch is tracing the model for ONNX."""
    return bool(torch.onnx.is_in_onnx_export())


def write_cache(cache: Tensor, update: Tensor, index: Tensor) -> Tensor:
    """Put `update` (rows, heads, new, head_dim) into `cache` (rows, heads, capacity, head_dim).

    Row r is written from position `index[r]` on. In eager mode the cache itself is changed.
    """
    if exporting():
        return torch.onnx.ops.symbolic(
            "TensorScatter",
            (cache, update, index),
            {"axis": 2, "mode": "linear"},
            dtype=cache.dtype,
            shape=cache.shape,
            version=OPSET,
        )
    new = update.shape[2]
    rows = torch.arange(cache.shape[0], device=cache.device)[:, None]
    positions = index[:, None] + torch.arange(new, device=cache.device)
    cache[rows, :, positions] = update.transpose(1, 2)
    return cache


def read_before(cache: Tensor, index: Tensor, count: int = 1) -> Tensor:
    """The last `count` in `cache` (rows, 1, capacity, width) before position `index[r]` of row r.

    Returns (rows, count, width), zeros where nothing stands before.
    """
    place = index[:, None] + torch.arange(-count, 0, device=index.device)  # (rows, count)
    stands = place.clamp(min=0)
    if exporting():
        stored = torch.onnx.ops.symbolic(
            "GatherND",
            (cache, torch.stack((torch.zeros_like(stands), stands), dim=2)),
            {"batch_dims": 1},
            dtype=cache.dtype,
            shape=(cache.shape[0], count, cache.shape[3]),
            version=13,
        )
    else:
        stored = cache[torch.arange(cache.shape[0], device=cache.device)[:, None], 0, stands]
    return torch.where((place >= 0)[:, :, None], stored, torch.zeros_like(stored))


def accumulate(log_keep: Tensor, put: Tensor, before: Tensor | None) -> Tensor:
    """state[t] = exp(log_keep[t]) * state[t - 1] + put[t], all t at once, (rows, new, width).

    Of what token s put, token t has what all tokens behind s up to t keep: a product, or the
    exponential of a sum, which no long product of small numbers makes zero over zero.
    log_keep, put (rows, new, width); before (rows, 1, width), zeros where it is None.
    """
    new = torch.arange(put.shape[1], device=put.device)
    past = new[:, None] >= new  # (new: t, new: s)
    kept = torch.matmul(past.to(put.dtype), log_keep)
    shares = kept[:, :, None] - kept[:, None]  # (rows, new: t, new: s, width)
    shares = shares.masked_fill(~past[:, :, None], float("-inf")).exp()
    state = (shares * put[:, None]).sum(dim=2)
    return state if before is None else state + kept.exp() * before


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    cap: float = 0.0,
    mask: Tensor | None = None,
    length: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017) with grouped heads.

    With a `cap` above 0 scores are bounded by it before they are masked (Gemma team 2024).

    query (batch, heads, new, head_dim); key, value (batch, kv_heads, total, head_dim);
    mask: bool or additive, broadcastable to (batch, heads, new, total);
    length (batch,): keys from there on are padding. Returns (batch, heads, new, head_dim).
    """
    if exporting():
        inputs = (query, key, value, mask, None, None, length)
        return torch.onnx.ops.symbolic(
            "Attention",
            inputs if length is not None else inputs[:4] if mask is not None else inputs[:3],
            {"scale": scale, **({"softcap": cap} if cap else {})},
            dtype=query.dtype,
            shape=query.shape,
            version=OPSET,
        )
    if length is not None:
        valid = torch.arange(key.shape[2], device=key.device) < length[:, None]
        valid = valid[:, None, None, :]  # (batch, heads: 1, new: 1, total)
        if mask is None:
            mask = valid
        elif mask.dtype == torch.bool:
            mask = mask & valid
        else:
            mask = mask.masked_fill(~valid, float("-inf"))
    if cap:
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        scores = torch.tanh(torch.matmul(query * scale, key.transpose(2, 3)) / cap) * cap
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        return torch.matmul(scores.softmax(dim=-1), value)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


def weigh(query: Tensor, key: Tensor, *, scale: float, length: Tensor, cap: float = 0.0) -> Tensor:
    """The weights of `attend` without what they weigh, (batch, heads, new, total).

    query (batch, heads, new, head_dim); key (batch, heads, total, head_dim); length (batch,).
    """
    scores = torch.matmul(query * scale, key.transpose(2, 3))
    if cap:
        scores = torch.tanh(scores / cap) * cap
    valid = torch.arange(key.shape[2], device=key.device) < length[:, None]
    return scores.masked_fill(~valid[:, None, None, :], float("-inf")).softmax(dim=-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, length, heads * head_dim) -> (batch, heads, length, head_dim)."""
    head_dim = x.shape[2] // heads
    if exporting():
        x = _reshape(x, (0, 0, heads, head_dim), (x.shape[0], x.shape[1], heads, head_dim))
    else:
        x = x.view(x.shape[0], x.shape[1], heads, head_dim)  # (batch, length, heads, head_dim)
    return x.transpose(1, 2)  # (batch, heads, length, head_dim)


def merge_heads(x: Tensor) -> Tensor:
    """(batch, heads, length, head_dim) -> (batch, length, heads * head_dim)."""
    batch, heads, length, head_dim = x.shape
    x = x.transpose(1, 2)  # (batch, length, heads, head_dim)
    if exporting():
        return _reshape(x, (0, 0, heads * head_dim), (batch, length, heads * head_dim))
    return x.reshape(batch, length, heads * head_dim)  # (batch, length, heads * head_dim)


def fold_beams(x: Tensor, batch_of: Tensor) -> Tensor:
    """(batch * beams, new, width) -> (batch, beams * new, width); `batch_of` has `batch` entries.

    All beams of an input then attend to one copy of its cross-attention keys and values.
    """
    batch, width = batch_of.shape[0], x.shape[2]
    if exporting():
        shape = (batch, x.shape[0] * x.shape[1] // batch, width)
        return _reshape_like(x, batch_of, (-1, width), shape)
    return x.reshape(batch, -1, width)  # (batch, beams * new, width)


def unfold_beams(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `fold_beams`; `like` is (batch * beams, new, ...)."""
    rows, new = like.shape[0], like.shape[1]
    if exporting():
        tokens = torch.onnx.ops.symbolic(
            "Shape", (like,), {"start": 0, "end": 2}, dtype=torch.int64, shape=(2,), version=OPSET
        )
        return _reshape_to(x, tokens, (x.shape[2],), (rows, new, x.shape[2]))
    return x.reshape(rows, new, x.shape[2])  # (batch * beams, new, width)


def flatten_beams(x: Tensor) -> Tensor:
    """(batch, beams, width) -> (batch * beams, width)."""
    if exporting():
        shape = (x.shape[0] * x.shape[1], x.shape[2])
        return torch.onnx.ops.symbolic(
            "Flatten", (x,), {"axis": 2}, dtype=x.dtype, shape=shape, version=OPSET
        )
    return x.flatten(0, 1)


def flatten_heads(x: Tensor) -> Tensor:
    """(batch, heads, beams, width) -> (batch * beams, heads, width)."""
    batch, heads, beams, width = x.shape
    x = x.transpose(1, 2)  # (batch, beams, heads, width)
    if exporting():
        shape, flat = (batch * beams, heads, width), (batch * beams, heads * width)
        x = torch.onnx.ops.symbolic(
            "Flatten", (x,), {"axis": 2}, dtype=x.dtype, shape=flat, version=OPSET
        )
        return _reshape(x, (0, heads, -1), shape)
    return x.reshape(batch * beams, heads, width)  # (batch * beams, heads, width)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Rotary position embedding (Su et al. 2021), halves rotated together.

    x (rows, new, heads * head_dim); cos, sin (rows, new, rotated / 2), where `rotated` may be less
    than head_dim: then the rest of each head stays as it is.
    """
    rotated = 2 * cos.shape[2]
    if exporting():
        part = {"rotary_embedding_dim": rotated} if rotated < x.shape[2] // heads else {}
        return torch.onnx.ops.symbolic(
            "RotaryEmbedding",
            (x, cos, sin),
            {"num_heads": heads, "interleaved": 0, **part},
            dtype=x.dtype,
            shape=x.shape,
            version=23,
        )
    rows, new, width = x.shape
    x = x.view(rows, new, heads, width // heads)
    first, second = x[..., :rotated].chunk(2, dim=-1)  # (rows, new, heads, rotated / 2)
    cos, sin = cos[:, :, None], sin[:, :, None]  # (rows, new, heads: 1, rotated / 2)
    turned = (first * cos - second * sin, second * cos + first * sin, x[..., rotated:])
    x = torch.cat(turned, dim=-1)
    return x.view(rows, new, width)  # (rows, new, heads * head_dim)


def places(x: Tensor, axis: int) -> Tensor:
    """0, 1, ... for each place along an axis, by the shape that x has, (length,).

    For axes as long as convolutions make them: torch would compute that length anew in the graph.
    """
    length = x.shape[axis]
    if not exporting():
        return torch.arange(length, device=x.device)
    size = torch.onnx.ops.symbolic(
        "Shape",
        (x,),
        {"start": axis, "end": axis + 1},
        dtype=torch.int64,
        shape=(1,),
        version=OPSET,
    )
    limit = torch.onnx.ops.symbolic("Squeeze", (size,), dtype=torch.int64, shape=(), version=OPSET)
    return torch.onnx.ops.symbolic(
        "Range",
        (torch.tensor(0), limit, torch.tensor(1)),
        dtype=torch.int64,
        shape=(length,),
        version=11,
    )


def pick(x: Tensor, places: Tensor) -> Tensor:
    """x (batch, heads, rows, source), flat places (source, source) -> (batch, heads, *places)."""
    batch, heads, rows, source = x.shape
    if exporting():
        flat = _reshape(x, (0, 0, -1), (batch, heads, rows * source))
        return torch.onnx.ops.symbolic(
            "Gather",
            (flat, places),
            {"axis": 2},
            dtype=x.dtype,
            shape=(batch, heads, source, source),
            version=OPSET,
        )
    return x.flatten(2)[:, :, places]


def _reshape(x: Tensor, target: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Reshape by a constant in which 0 keeps an axis: no shape arithmetic in the graph."""
    return torch.onnx.ops.symbolic(
        "Reshape", (x, torch.tensor(target)), dtype=x.dtype, shape=shape, version=OPSET
    )


def _reshape_like(
    x: Tensor, first: Tensor, rest: tuple[int, ...], shape: tuple[int, ...]
) -> Tensor:
    batch = torch.onnx.ops.symbolic(
        "Shape", (first,), {"start": 0, "end": 1}, dtype=torch.int64, shape=(1,), version=OPSET
    )
    return _reshape_to(x, batch, rest, shape)


def _reshape_to(
    x: Tensor, leading: Tensor, rest: tuple[int, ...], shape: tuple[int, ...]
) -> Tensor:
    """Reshape to sizes that a graph computes, `leading`, followed by constants, `rest`."""
    target = torch.onnx.ops.symbolic(
        "Concat",
        (leading, torch.tensor(rest)),
        {"axis": 0},
        dtype=torch.int64,
        shape=(len(shape),),
        version=OPSET,
    )
    return torch.onnx.ops.symbolic(
        "Reshape", (x, target), dtype=x.dtype, shape=shape, version=OPSET
    )
