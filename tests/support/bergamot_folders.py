"""Folders of Firefox's translation models with random weights, and what Marian computes of them."""

from __future__ import annotations

import itertools
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor
from small_tokenizers import train

FLOAT32, INT8, INTGEMM8 = 0x404, 0x101, 0x4101
WIDTH, HEADS, HIDDEN, LAYERS = 96, 8, 64, (2, 2)  # heads of 12
SETTINGS: dict[str, Any] = {
    "type": "transformer",
    "dec-cell": "ssru",
    "dec-cell-base-depth": 2,
    "dim-emb": WIDTH,
    "dim-rnn": 1024,
    "enc-cell": "gru",
    "enc-depth": LAYERS[0],
    "dec-depth": LAYERS[1],
    "input-types": [],
    "lemma-dim-emb": 0,
    "tied-embeddings-all": True,
    "transformer-decoder-autoreg": "rnn",
    "transformer-dim-ffn": HIDDEN,
    "transformer-ffn-activation": "relu",
    "transformer-ffn-depth": 2,
    "transformer-guided-alignment-layer": "last",
    "transformer-heads": HEADS,
    "transformer-no-projection": False,
    "transformer-postprocess": "dan",
    "transformer-postprocess-emb": "d",
    "transformer-postprocess-top": "",
    "transformer-preprocess": "",
    "transformer-tied-layers": [],
    "transformer-train-position-embeddings": False,
    "version": "v1.9.56",
}
Tensors = dict[str, NDArray[np.float32]]


def names(*, recurrent: bool = True) -> dict[str, tuple[int, ...]]:
    """Marian's name of every tensor but the tables, and its shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for side, layers in zip(("encoder", "decoder"), LAYERS, strict=True):
        for i in range(1, layers + 1):
            at = f"{side}_l{i}"
            attentions = ["self"] if side == "encoder" or not recurrent else []
            for attention in attentions + ["context"] * (side == "decoder"):
                for letter in "qkvo":
                    shapes[f"{at}_{attention}_W{letter}"] = (WIDTH, WIDTH)
                    shapes[f"{at}_{attention}_b{letter}"] = (1, WIDTH)
                shapes[f"{at}_{attention}_Wo_ln_scale"] = (1, WIDTH)
                shapes[f"{at}_{attention}_Wo_ln_bias"] = (1, WIDTH)
            if side == "decoder" and recurrent:
                shapes |= {f"{at}_rnn_W": (WIDTH, WIDTH), f"{at}_rnn_Wf": (WIDTH, WIDTH)}
                shapes |= {
                    f"{at}_rnn_{n}": (1, WIDTH) for n in ("bf", "ffn_ln_scale", "ffn_ln_bias")
                }
            shapes |= {f"{at}_ffn_W1": (WIDTH, HIDDEN), f"{at}_ffn_b1": (1, HIDDEN)}
            shapes |= {f"{at}_ffn_W2": (HIDDEN, WIDTH), f"{at}_ffn_b2": (1, WIDTH)}
            shapes |= {f"{at}_ffn_ffn_ln_{n}": (1, WIDTH) for n in ("scale", "bias")}
    return shapes


def write_lexicon(path: Path, lists: list[list[int]], frequent: int) -> None:
    """Marian's binary shortlist of these translations of every source token."""
    ids = [token for each in lists for token in each]
    offsets = [0, *itertools.accumulate(map(len, lists))]
    head = struct.pack("<6Q", 0xF11A48D5013417F5, 7, frequent, 50, len(offsets), len(ids))
    path.write_bytes(
        head + struct.pack(f"<{len(offsets)}Q", *offsets) + struct.pack(f"<{len(ids)}I", *ids)
    )


def save(folder: Path, *, quantized: bool = True, shared: bool = True, **settings: Any) -> Tensors:
    """Write a folder; the numbers that its tensors hold, products as (in, out)."""
    folder.mkdir(parents=True)
    special = {"eos_id": 0, "unk_id": 1, "bos_id": -1}
    sides = ("vocab.aabb",) if shared else ("srcvocab.aabb", "trgvocab.aabb")
    sizes = []
    for side, scripts in zip(sides, (("latin", "cyrillic"), ("latin",)), strict=False):
        more = {} if shared else {"byte_fallback": True, "vocab_size": 400}
        train(folder / f"{side}.spm", *scripts, **special, **more)
        sizes.append(len(SentencePieceProcessor(model_file=str(folder / f"{side}.spm"))))
    if shared:
        tables = {"Wemb": (sizes[0], WIDTH)}
        own = SETTINGS
    else:
        tables = {"encoder_Wemb": (sizes[0], WIDTH), "decoder_Wemb": (sizes[1], WIDTH)}
        own = {**SETTINGS, "tied-embeddings-all": False, "tied-embeddings": True}
    merged = {**own, "dim-vocabs": [sizes[0], sizes[-1]], **settings}
    recurrent = merged["transformer-decoder-autoreg"] == "rnn"
    shapes = {**tables, **names(recurrent=recurrent), "decoder_ff_logit_out_b": (1, sizes[-1])}
    rng = np.random.default_rng(3)
    tensors: Tensors = {}
    for name, shape in shapes.items():
        if shape[0] == 1:
            base = 1.0 if name.endswith("scale") else 0.0
            tensors[name] = (base + 0.3 * rng.standard_normal(shape)).astype(np.float32)
        else:
            scale = 0.3 if name in tables else 1.6 / math.sqrt(shape[0])
            tensors[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
    write(folder / "model.aabb.bin", tensors, merged, quantized=quantized)
    return {n: rounded(t) if quantized and t.shape[0] > 1 else t for n, t in tensors.items()}


def factor(tensor: NDArray[np.float32]) -> np.float32:
    """What a matrix is multiplied by before it is rounded to integers."""
    return np.float32(127 / np.abs(tensor).max())


def rounded(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """A matrix as its integers say."""
    return np.round(tensor * factor(tensor)) / factor(tensor)


def write(path: Path, tensors: Tensors, settings: dict[str, Any], *, quantized: bool) -> None:
    """A Marian file; quantized matrices bring the scale of their inputs along."""
    stored: list[tuple[str, int, tuple[int, ...], bytes]] = []
    for name, tensor in tensors.items():
        if not quantized or tensor.shape[0] == 1:
            stored.append((name, FLOAT32, tensor.shape, tensor.astype("<f4").tobytes()))
            continue
        integers = np.round(tensor * factor(tensor)).astype(np.int8)
        laid = integers if name.endswith("Wemb") else integers.T
        data = laid.tobytes() + struct.pack("<f", factor(tensor))
        stored.append((name, INTGEMM8, tensor.shape, data + bytes(-len(data) % 256)))
        stored.append((f"{name}_QuantMultA", FLOAT32, (1, 1), struct.pack("<f", 7.0) + bytes(252)))
    text = yaml.safe_dump(settings).encode() + b"\0"
    stored.append(("special:model.yml", INT8, (len(text),), text))
    parts = [struct.pack("<QQ", 1, len(stored))]
    for name, kind, shape, data in stored:
        parts.append(struct.pack("<QQQQ", len(name) + 1, kind, len(shape), len(data)))
    parts += [name.encode() + b"\0" for name, *_ in stored]
    parts += [struct.pack(f"<{len(shape)}i", *shape) for _, _, shape, _ in stored]
    length = sum(map(len, parts)) + 8
    parts += [struct.pack("<Q", -length % 256), bytes(-length % 256)]
    path.write_bytes(b"".join([*parts, *(data for *_, data in stored)]))


class Marian:
    """What Marian computes, in float64, one sentence and one token after the other."""

    def __init__(self, tensors: Tensors, *, heads: int = HEADS, activation: str = "relu") -> None:
        self.tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        table = self.tensors.get("Wemb")
        self.source = self.tensors["encoder_Wemb"] if table is None else table
        self.target = self.tensors["decoder_Wemb"] if table is None else table
        self.width = self.target.shape[1]
        self.heads, self.activation = heads, activation

    def layers(self, side: str) -> list[str]:
        """The beginning of the names of every layer."""
        names = (f"{side}_l{i}" for i in itertools.count(1))
        return list(itertools.takewhile(lambda at: f"{at}_ffn_W1" in self.tensors, names))

    def product(self, x: Any, at: str, letter: str) -> Any:
        """x W + b."""
        return x @ self.tensors[f"{at}_W{letter}"] + self.tensors[f"{at}_b{letter}"]

    def norm(self, x: Any, at: str) -> Any:
        """LayerNorm."""
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-9)
        return scaled * self.tensors[f"{at}_ln_scale"] + self.tensors[f"{at}_ln_bias"]

    def attend(self, x: Any, memory: Any, at: str) -> Any:
        """Each head by itself."""
        query, key, value = (
            self.product(of, at, letter) for of, letter in ((x, "q"), (memory, "k"), (memory, "v"))
        )
        size, answers = self.width // self.heads, []
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[:, part] @ key[:, part].T / math.sqrt(size)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            answers.append(weights / weights.sum(-1, keepdims=True) @ value[:, part])
        return self.product(np.concatenate(answers, axis=1), at, "o")

    def feed(self, x: Any, at: str) -> Any:
        """The feed-forward and its norm."""
        inner = self.product(x, at, "1")
        inner = np.maximum(inner, 0) if self.activation == "relu" else inner / (1 + np.exp(-inner))
        return self.norm(x + self.product(inner, at, "2"), f"{at}_ffn")

    def place(self, position: int) -> Any:
        """Sines of all frequencies, then cosines."""
        half = self.width // 2
        angles = position * np.exp(np.arange(half) * -(math.log(10000) / (half - 1)))
        return np.concatenate((np.sin(angles), np.cos(angles)))

    def encode(self, ids: list[int]) -> Any:
        """(source, width)."""
        x = self.source[ids] * math.sqrt(self.width)
        x = x + np.stack([self.place(i) for i in range(len(ids))])
        for at in self.layers("encoder"):
            x = self.norm(x + self.attend(x, x, f"{at}_self"), f"{at}_self_Wo")
            x = self.feed(x, f"{at}_ffn")
        return x

    def step(self, memory: Any, token: int | None, position: int, kept: dict[str, Any]) -> Any:
        """Logits behind one more token, None before the first; `kept` is what layers remember."""
        x = 0 if token is None else self.target[token] * math.sqrt(self.width)
        x = (x + self.place(position))[None]
        for at in self.layers("decoder"):
            if f"{at}_rnn_W" in self.tensors:
                keep = 1 / (1 + np.exp(-self.product(x, f"{at}_rnn", "f")))
                put = x @ self.tensors[f"{at}_rnn_W"]
                kept[at] = keep * kept.get(at, 0.0) + (1 - keep) * put
                x = self.norm(x + np.maximum(kept[at], 0), f"{at}_rnn_ffn")
            else:
                kept.setdefault(at, []).append(x[0])
                attended = self.attend(x, np.stack(kept[at]), f"{at}_self")
                x = self.norm(x + attended, f"{at}_self_Wo")
            x = self.norm(x + self.attend(x, memory, f"{at}_context"), f"{at}_context_Wo")
            x = self.feed(x, f"{at}_ffn")
        return (x @ self.target.T + self.tensors["decoder_ff_logit_out_b"])[0]

    def logits(self, memory: Any, ids: list[int]) -> Any:
        """After each of the tokens, the first behind nothing: (1 + tokens, vocabulary)."""
        kept: dict[str, Any] = {}
        return np.stack([self.step(memory, t, i, kept) for i, t in enumerate([None, *ids])])

    def greedy(self, source: list[int], most: int, allowed: Any = None) -> list[int]:
        """The likeliest token at each step, never the unknown one, up to the end."""
        memory, kept = self.encode(source), {}
        ids: list[int] = []
        while len(ids) < most and (not ids or ids[-1] != 0):
            logits = self.step(memory, ids[-1] if ids else None, len(ids), kept)
            logits[1] = -np.inf
            if allowed is not None:
                logits[~allowed[: len(logits)]] = -np.inf
            ids.append(int(logits.argmax()))
        return ids
