"""A folder of Firefox's translation models (the Bergamot project), read as a checkpoint.

It holds a student that Marian trained (`model.enpt.intgemm.alphas.bin`), one SentencePiece model or
one a side (`vocab.enpt.spm`; `srcvocab.*.spm` and `trgvocab.*.spm`), and mostly a lexical shortlist
(`lex.50.50.enpt.s2t.bin`). Sources: Marian's `models/transformer.h` and `rnn/cells.h`; Kim et al.
2019 on such students.

Marian starts a translation from a vector of zeros. Here that is the embedding of one more token,
with a logit so low that it has no part in any probability. The unknown token is never chosen, as in
Marian by default.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seq2edge.bundle.lexicon import Lexicon
from seq2edge.checkpoints.importers.huggingface import Source
from seq2edge.checkpoints.importers.marian_file import MarianFile, read_marian
from seq2edge.checkpoints.importers.marian_lexicon import read_lexicon
from seq2edge.errors import CheckpointError, UnsupportedError

END, UNKNOWN = 0, 1  # ids, in every vocabulary
BIAS = "final_logits_bias"
NEVER = -32768.0  # a logit; exact in every float type
POSITIONS = 1024  # sinusoids have no end, a table has one
# What a setting must say; 1 and True are equal here.
NEEDED: dict[str, tuple[Any, ...]] = {
    "type": ("transformer",),
    "transformer-decoder-autoreg": ("rnn", "self-attention"),
    "transformer-ffn-depth": (2,),
    "transformer-decoder-ffn-depth": (0, 2),
    "transformer-preprocess": ("",),
    "transformer-postprocess": ("dan",),
    "transformer-postprocess-top": ("",),
    "transformer-postprocess-emb": ("", "d"),
    "transformer-train-position-embeddings": (False,),
    "transformer-tied-layers": ([],),
    "transformer-no-projection": (False,),
    "transformer-no-bias": (False,),
    "transformer-no-affine": (False,),
    "transformer-rnn-projection": (False,),
    "transformer-depth-scaling": (False, True),  # of weights before training
    "transformer-pool": (False,),
    "transformer-flat-preprocess": (False,),
    "transformer-decoder-dim-ffn": (0,),
    "lemma-dim-emb": (0,),
    "lemma-dependency": ("",),
    "factors-combine": ("sum",),
    "input-types": ([],),
    "output-omit-bias": (False,),
    "output-approx-knn": ([],),
    "right-left": (False,),
    "ulr": (False,),
    "layer-normalization": (False, True),  # of recurrent layers outside the Transformer
}
# What a Transformer with an SSRU does not look at, or what this importer reads itself.
OTHERS = re.compile(
    r"bert-.*|enc-cell.*|enc-type|dec-cell.*|dim-rnn|skip|ulr-.*|transformer-aan-.*|"
    r"transformer-dim-aan|transformer-guided-alignment-layer|version|"
    r"dim-emb|dim-vocabs|enc-depth|dec-depth|tied-embeddings.*|transformer-heads|"
    r"transformer-dim-ffn|transformer-ffn-activation|char-.*|original-type"
)
ACTIVATIONS = ("relu", "gelu", "swish")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A stored matrix, and whether it is turned: Marian multiplies by (in, out)."""

    name: str
    turned: bool = False


def open_bergamot(path: Path) -> Source:
    """Open the folder. Raises CheckpointError or UnsupportedError naming file and setting."""
    models = sorted(path.glob("model.*.bin"))
    if len(models) > 1:
        names = ", ".join(file.name for file in models)
        raise CheckpointError(f"{path}: holds {names}; keep one of them")
    stored = read_marian(models[0])
    _check_settings(stored)
    parts = dict(_parts(stored))
    known = {part.name for part in parts.values()} | _no_weights(stored)
    left = sorted(set(stored.tensors) - known)
    if left:
        raise CheckpointError(f"{stored.path}: tensors that have no place: {', '.join(left[:5])}")
    source, target = (stored.extents(name)[0] for name in _tables(stored))
    pieces = _vocabularies(path)
    return Source(
        path=path,
        source_format="bergamot",
        config=_config(stored),
        generation={
            "decoder_start_token_id": target,
            "eos_token_id": END,
            "pad_token_id": target,
            "suppress_tokens": [UNKNOWN],
            "max_length": POSITIONS,
        },
        names=frozenset(parts),
        read=lambda name: _read(stored, parts[name], name),
        pieces=pieces,
        lexicon=_lexicon(path, source, target, shared=len(pieces) == 1),
    )


def _vocabularies(path: Path) -> dict[str, Path]:
    """The SentencePiece models of the sides, of `source` alone where they share one."""
    present = sorted(path.glob("*vocab*.spm"))
    sides = {"source": path.glob("srcvocab*.spm"), "target": path.glob("trgvocab*.spm")}
    named = {side: file for side, files in sides.items() for file in files}
    if len(present) == 1:
        return {"source": present[0]}
    if len(present) != 2 or len(named) != 2:
        listed = ", ".join(file.name for file in present)
        raise CheckpointError(f"{path}: holds {listed}; needs one vocabulary, or one of each side")
    return named


def _lexicon(path: Path, source: int, target: int, *, shared: bool) -> Lexicon | None:
    """The folder's lexical shortlist, if it has one."""
    present = sorted(path.glob("lex*.bin"))
    if len(present) > 1:
        names = ", ".join(file.name for file in present)
        raise CheckpointError(f"{path}: holds {names}; keep one of them")
    if not present:
        return None
    lexicon = read_lexicon(present[0], source=source, target=target, shared=shared)
    return dataclasses.replace(lexicon, vocab=target + 1)


def _check_settings(stored: MarianFile) -> None:
    """Refuse settings that change what is computed, and those that nobody here knows."""
    where = f"{stored.path}: model.yml"
    for key, value in stored.settings.items():
        if key in NEEDED and value not in NEEDED[key]:
            allowed = " or ".join(map(repr, NEEDED[key]))
            raise UnsupportedError(f"{where}: {key} {value!r} is not supported, only {allowed}")
        if key not in NEEDED and not OTHERS.fullmatch(key) and value not in (None, False, "", []):
            raise UnsupportedError(f"{where}: {key} {value!r} is not supported")
    cell, recurrent = stored.settings.get("dec-cell"), _recurrent(stored)
    if recurrent and (cell != "ssru" or stored.settings.get("dec-cell-base-depth", 2) != 2):
        raise UnsupportedError(f"{where}: dec-cell {cell!r} is not supported, only 'ssru'")
    if not stored.settings.get("tied-embeddings-all") and not (
        stored.settings.get("tied-embeddings") and "decoder_Wemb" in stored.tensors
    ):
        raise UnsupportedError(f"{where}: embeddings that are not tied are not supported")
    if stored.settings.get("transformer-ffn-activation") not in ACTIVATIONS:
        activation = stored.settings.get("transformer-ffn-activation")
        raise UnsupportedError(
            f"{where}: transformer-ffn-activation {activation!r} is not supported, known: "
            f"{', '.join(ACTIVATIONS)}"
        )


def _recurrent(stored: MarianFile) -> bool:
    return bool(stored.settings.get("transformer-decoder-autoreg") == "rnn")


def _tables(stored: MarianFile) -> tuple[str, str]:
    """The encoder's and the decoder's embeddings."""
    return ("Wemb", "Wemb") if "Wemb" in stored.tensors else ("encoder_Wemb", "decoder_Wemb")


def _number(stored: MarianFile, key: str) -> int:
    value = stored.settings.get(key)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{stored.path}: model.yml: {key} is {value!r}")
    return value


def _config(stored: MarianFile) -> dict[str, Any]:
    """What a config.json would say, in the keys of transformers' Marian."""
    source, target = (stored.extents(name)[0] for name in _tables(stored))
    shared = "Wemb" in stored.tensors
    heads, hidden = _number(stored, "transformer-heads"), _number(stored, "transformer-dim-ffn")
    return {
        "model_type": "bergamot",
        "vocab_size": target + 1 if shared else source,
        "decoder_vocab_size": target + 1,
        "share_encoder_decoder_embeddings": shared,
        "d_model": stored.extents(_tables(stored)[1])[1],
        "max_position_embeddings": POSITIONS,
        "activation_function": stored.settings["transformer-ffn-activation"],
        "scale_embedding": True,
        "recurrent": _recurrent(stored),
        **{
            f"{side}_{key}": value
            for side, depth in (("encoder", "enc-depth"), ("decoder", "dec-depth"))
            for key, value in (
                ("layers", _number(stored, depth)),
                ("attention_heads", heads),
                ("ffn_dim", hidden),
            )
        },
    }


def _parts(stored: MarianFile) -> Iterator[tuple[str, Part]]:
    """A name of transformers' kind for every tensor, and where it is stored."""
    source, target = _tables(stored)
    if source != target:
        yield "model.encoder.embed_tokens.weight", Part(name=source)
        yield "model.decoder.embed_tokens.weight", Part(name=target)
    else:
        yield "model.shared.weight", Part(name=source)
    yield BIAS, Part(name="decoder_ff_logit_out_b")
    for i in range(_number(stored, "enc-depth")):
        theirs, ours = f"encoder_l{i + 1}", f"model.encoder.layers.{i}"
        yield from _attention(f"{theirs}_self", f"{ours}.self_attn")
        yield from _norm(f"{theirs}_self_Wo", f"{ours}.self_attn_layer_norm")
        yield from _feedforward(f"{theirs}_ffn", ours)
    for i in range(_number(stored, "dec-depth")):
        theirs, ours = f"decoder_l{i + 1}", f"model.decoder.layers.{i}"
        if _recurrent(stored):
            for letters, gate in (("f", "keep"), ("", "put")):
                yield (
                    f"{ours}.recurrence.{gate}.weight",
                    Part(name=f"{theirs}_rnn_W{letters}", turned=True),
                )
            yield f"{ours}.recurrence.keep.bias", Part(name=f"{theirs}_rnn_bf")
            yield from _norm(f"{theirs}_rnn_ffn", f"{ours}.self_attn_layer_norm")
        else:
            yield from _attention(f"{theirs}_self", f"{ours}.self_attn")
            yield from _norm(f"{theirs}_self_Wo", f"{ours}.self_attn_layer_norm")
        yield from _attention(f"{theirs}_context", f"{ours}.encoder_attn")
        yield from _norm(f"{theirs}_context_Wo", f"{ours}.encoder_attn_layer_norm")
        yield from _feedforward(f"{theirs}_ffn", ours)


def _linear(theirs: str, letter: str, ours: str) -> Iterator[tuple[str, Part]]:
    yield f"{ours}.weight", Part(name=f"{theirs}_W{letter}", turned=True)
    yield f"{ours}.bias", Part(name=f"{theirs}_b{letter}")


def _attention(theirs: str, ours: str) -> Iterator[tuple[str, Part]]:
    for letter, name in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "out_proj")):
        yield from _linear(theirs, letter, f"{ours}.{name}")


def _feedforward(theirs: str, ours: str) -> Iterator[tuple[str, Part]]:
    yield from _linear(theirs, "1", f"{ours}.fc1")
    yield from _linear(theirs, "2", f"{ours}.fc2")
    yield from _norm(f"{theirs}_ffn", f"{ours}.final_layer_norm")


def _norm(theirs: str, ours: str) -> Iterator[tuple[str, Part]]:
    yield f"{ours}.weight", Part(name=f"{theirs}_ln_scale")
    yield f"{ours}.bias", Part(name=f"{theirs}_ln_bias")


def _no_weights(stored: MarianFile) -> set[str]:
    """What is no weight: settings, and scales of inputs that integer products would need."""
    return {n for n in stored.tensors if n.startswith("special:") or n.endswith("_QuantMultA")}


def _read(stored: MarianFile, part: Part, name: str) -> Tensor:
    """The tensor as transformers' kind of model would hold it, with a row for the start."""
    values = stored.read(part.name)
    if part.turned:
        values = values.T
    elif values.ndim == 2 and values.shape[0] == 1:
        values = values[0]
    if name == BIAS or part.name == _tables(stored)[1]:
        start = np.full_like(values[:1], NEVER if name == BIAS else 0.0)
        values = np.concatenate((values, start))
    return torch.from_numpy(np.ascontiguousarray(values))
