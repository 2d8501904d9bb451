"""Checkpoints of strangers: configs, weights, pickles, tokenizers and foreign formats.

An export stops before it traces: what came so far was accepted (`runner.py`).
"""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from case import Case, Change, Outcome, json_edited, rewritten, written

WEIGHTS = "model.safetensors"
ESCAPE = "\x1b[2J\nError: all is well"
DEEP = 100_000
EXPORT = (("export", ".", "-o", "out", "--original", "no"),)
CONVERT = (("convert-weights", ".", "-o", "out"),)
SIZES = (
    "vocab_size",
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "encoder_ffn_dim",
    "max_position_embeddings",
)


def cases() -> Iterator[Case]:
    """All of this file."""
    yield from _configs()
    yield from _generation()
    yield from _safetensors()
    yield from _tokenizers()
    yield from _pickles()
    yield from _gguf()
    yield from _marian()
    yield from _ctranslate2()


def _case(name: str, change: Change, **more: Any) -> Case:
    return Case(name=name, start="checkpoint", commands=EXPORT, change=change, **more)


def _json_files(name: str) -> Iterator[Case]:
    """What may become of any file of JSON."""
    for what, raw in {
        "empty": "",
        "a list": "[]",
        "null": "null",
        "text": '"text"',
        "a number": "4",
        "deep": "[" * DEEP + "]" * DEEP,
        "deep objects": '{"a":' * DEEP + "1" + "}" * DEEP,
        "a long integer": '{"a": ' + "9" * 5000 + "}",
        "NaN": '{"a": NaN}',
        "a lone surrogate": '{"a": "\\ud800"}',
    }.items():
        outcome = (
            "either"
            if what[:6] in ("a long", "NaN", "a lone") and name != "config.json"
            else "refused"
        )
        yield _case(f"{name} is {what}", written(name, raw), outcome=outcome)
    yield _case(f"{name} in Latin-1", written(name, b'{"a": "\xe9"}'))
    yield _case(f"{name} in UTF-16", rewritten(name, lambda d: d.decode().encode("utf-16")))
    missing: Outcome = "either" if name == "generation_config.json" else "refused"
    yield _case(f"{name} is a pipe", _instead(name, os.mkfifo), outcome=missing)
    yield _case(
        f"{name} is a device without end", _instead(name, lambda path: path.symlink_to("/dev/zero"))
    )
    yield _case(
        f"{name} is a folder",
        _instead(name, Path.mkdir),
        outcome="refused" if name == "config.json" else "either",
    )


def _instead(name: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def _set(name: str, key: str, value: Any, **more: Any) -> Case:
    return _case(name, json_edited("config.json", lambda v: v.update({key: value})), **more)


def _configs() -> Iterator[Case]:
    yield from _json_files("config.json")
    yield _case("no config", _instead("config.json", lambda _: None))
    for key in SIZES:
        for value in (0, -1, 10**9, 2**70, 1.5, "32", None, [], True):
            yield _set(f"{key} is {value!r}", key, value)
    for what, (key, value) in {
        "an unknown family": ("model_type", "exec"),
        "a family of control characters": ("model_type", ESCAPE),
        "a family outside": ("model_type", "../../outside"),
        "a family that is a list": ("model_type", ["bart"]),
        "an unknown class": ("architectures", ["Exec"]),
        "classes that are text": ("architectures", "BartForConditionalGeneration"),
        "a class that is a number": ("architectures", [4]),
        "code of its own": ("auto_map", {"AutoModel": "modeling.Evil"}),
        "an unknown setting": ("scale_of_everything", 7),
        "a setting of control characters": (ESCAPE, 7),
        "an unknown activation": ("activation_function", "__import__('os')"),
        "an activation that is a list": ("activation_function", []),
        "labels that do not count": ("id2label", {"a": "b"}),
        "labels that are a list": ("id2label", ["a"]),
        "quantized weights": ("quantization_config", {"bits": 4}),
        "ids that are text": ("pad_token_id", "one"),
        "an end beyond the vocabulary": ("eos_token_id", 10**9),
        "a start beyond the vocabulary": ("decoder_start_token_id", 10**9),
        "a start below zero": ("decoder_start_token_id", -5),
    }.items():
        either = what.startswith(("labels", "code of", "ids that", "an end", "a start", "classes"))
        yield _set(f"config with {what}", key, value, outcome="either" if either else "refused")


def _generation() -> Iterator[Case]:
    name = "generation_config.json"
    yield from _json_files(name)
    for what, values in {
        "tokens beyond the vocabulary": {"suppress_tokens": [10**9]},
        "tokens below zero": {"suppress_tokens": [-9]},
        "tokens that are text": {"suppress_tokens": "all"},
        "beams without end": {"num_beams": 10**9},
        "an unknown option": {"exec": "id"},
        "an option of control characters": {ESCAPE: ESCAPE},
        "a length below zero": {"max_length": -4},
        "a temperature of 0": {"temperature": 0.0, "do_sample": True},
        "a start beyond the vocabulary": {"decoder_start_token_id": 10**9},
        "a forced token beyond the vocabulary": {"forced_bos_token_id": 10**9},
    }.items():
        edit = json_edited(name, lambda v, values=values: v.update(values))
        either = what in (
            "an unknown option",
            "an option of control characters",
            "a length below zero",
            "a temperature of 0",
        )
        yield _case(f"defaults with {what}", edit, outcome="either" if either else "refused")


def _header(change: Callable[[dict[str, Any]], object]) -> Change:
    """Edits the header of the weights."""

    def edit(data: bytes) -> bytes:
        size = struct.unpack("<Q", data[:8])[0]
        values = json.loads(data[8 : 8 + size])
        changed = change(values)
        text = json.dumps(values if changed is None else changed).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    return rewritten(WEIGHTS, edit)


def _first(values: dict[str, Any]) -> dict[str, Any]:
    """The record of one tensor."""
    return values[next(name for name in values if name != "__metadata__")]


def _safetensors() -> Iterator[Case]:
    for what, change in {
        "empty": lambda _: b"",
        "zeros": lambda data: bytes(len(data)),
        "noise": lambda data: random.Random(2).randbytes(len(data)),
        "a header of 2^63 bytes": lambda data: struct.pack("<Q", 2**63) + data[8:],
        "a header of 90 MB": lambda data: struct.pack("<Q", 90 * 2**20) + data[8:],
        "a header of nothing": lambda data: bytes(8) + data[8:],
        "cut in half": lambda data: data[: len(data) // 2],
        "cut in its header": lambda data: data[:100],
        "without its last byte": lambda data: data[:-1],
        "longer": lambda data: data + b"\0",
        "a header that is no text": lambda data: data[:8] + b"\xff" * 20 + data[28:],
        "a deep header": lambda data: struct.pack("<Q", 2 * DEEP) + b"[" * DEEP + b"]" * DEEP,
    }.items():
        yield _case(f"weights: {what}", rewritten(WEIGHTS, change))
    for what, change in {
        "overlaps": lambda v: _first(v).update(data_offsets=[0, 0]),
        "places beyond": lambda v: _first(v).update(data_offsets=[2**40, 2**40 + 4]),
        "places backwards": lambda v: _first(v).update(data_offsets=[100, 4]),
        "places below zero": lambda v: _first(v).update(data_offsets=[-4, 0]),
        "a shape of 2^62": lambda v: _first(v).update(shape=[2**31, 2**31]),
        "a shape below zero": lambda v: _first(v).update(shape=[-1]),
        "an unknown type": lambda v: _first(v).update(dtype="EXEC"),
        "integers": lambda v: _first(v).update(dtype="I32"),
        "no shape": lambda v: _first(v).pop("shape"),
        "an unknown key": lambda v: _first(v).update(command="id"),
        "metadata that are no text": lambda v: v.update(__metadata__={"a": 1}),
        "no tensors": lambda _: {},
        "a list": lambda _: [],
        "names of control characters": lambda v: {
            ESCAPE + name if name != "__metadata__" else name: value for name, value in v.items()
        },
    }.items():
        outcome = "either" if what == "an unknown key" else "refused"
        yield _case(f"weights with {what}", _header(change), outcome=outcome)
    yield _case("weights are a pipe", _instead(WEIGHTS, os.mkfifo))
    yield _case(
        "weights are a device without end",
        _instead(WEIGHTS, lambda path: path.symlink_to("/dev/zero")),
    )
    yield _case("no weights", _instead(WEIGHTS, lambda _: None))
    for what, table in {
        "outside": {"a": "../outside/weights.safetensors"},
        "absolute": {"a": "/etc/x.safetensors"},
        "missing": {"a": "other.safetensors"},
        "a pickle": {"a": "pytorch_model.bin"},
        "a number": {"a": 4},
        "a list": [],
        "none": {},
        "a file for all": {"a": WEIGHTS},
        "with a NUL": {"a": "a\0.safetensors"},
        "backwards": {"a": "..\\outside\\x.safetensors"},
    }.items():
        text = json.dumps({"weight_map": table})
        yield _case(f"an index of shards {what}", written(f"{WEIGHTS}.index.json", text))


def _tokenizers() -> Iterator[Case]:
    yield from (
        case
        for case in _json_files("tokenizer.json")
        if not case.name.endswith(("a list", "a long integer", "NaN"))
    )
    for what, values in {
        "a class of its own": {"auto_map": {"AutoTokenizer": "tokenization.Evil"}},
        "an unknown class": {"tokenizer_class": "Exec"},
        "a class of control characters": {"tokenizer_class": ESCAPE},
        "an end that is a number": {"eos_token": 4},
        "an end that is none": {"eos_token": "<nothing>"},
        "an end of lists": {"eos_token": [[[]]]},
        "a template outside": {"chat_template": "{% include '../outside/secret.txt' %}"},
        "a template that is a number": {"chat_template": 4},
        "a template that is a list": {"chat_template": [{"name": "x"}]},
        "a template of 20 MB": {"chat_template": "x" * (20 * 2**20)},
        "a length of 10^30": {"model_max_length": 10**30},
        "a length that is text": {"model_max_length": "all"},
        "tokens that are numbers": {"added_tokens_decoder": {"x": 4}},
    }.items():
        yield _case(
            f"tokenizer_config with {what}",
            json_edited("tokenizer_config.json", lambda v, values=values: v.update(values)),
            outcome="either",
        )


def _pickled(what: str, make: Callable[[Path], object], **more: Any) -> Case:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        make(folder / "pytorch_model.bin")

    return Case(
        name=f"pickles: {what}", start="checkpoint", commands=CONVERT, change=change, **more
    )


class Trap:
    """Runs when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _pickles() -> Iterator[Case]:
    command = "touch ../ran"
    for what, trap in {
        "a command": Trap(os.system, command),
        "code": Trap(eval, f"__import__('os').system({command!r})"),
        "code that is compiled": Trap(exec, f"import os; os.system({command!r})"),
        "a file": Trap(open, "../ran", "w"),
    }.items():
        yield _pickled(what, lambda path, trap=trap: path.write_bytes(pickle.dumps({"a": trap})))
        yield _pickled(f"{what} in an archive", lambda path, trap=trap: _torch_zip(path, trap))
    for what, raw in {
        "empty": b"",
        "noise": random.Random(1).randbytes(5000),
        "a stop": b".",
        "text": b"hello",
        "memory without end": b"\x80\x04]" + b"\x94" * 10**6 + b".",
        "a length of 2^63": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
        "a deep list": b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "an unknown protocol": b"\x80\xff.",
    }.items():
        yield _pickled(what, lambda path, raw=raw: path.write_bytes(raw))
    yield _pickled("a pipe", os.mkfifo)
    yield _pickled("a link to a device", lambda path: path.symlink_to("/dev/zero"))
    yield _case("weights that are pickled alone", _alone)


def _alone(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(os.system, "touch ../ran")))


def _torch_zip(path: Path, trap: Trap) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": trap}))
        archive.writestr("archive/version", "3")


def _random(start: str, file: str, names: tuple[str, ...], count: int) -> Iterator[Case]:
    """Bytes flipped at random in a foreign file's head, where its sizes stand."""
    for seed in range(count):

        def flip(data: bytes, seed: int = seed) -> bytes:
            chosen = random.Random(seed)
            changed = bytearray(data)
            for _ in range(1 + seed % 3):
                place = chosen.randrange(min(len(data), 400 if seed % 2 else 4000))
                changed[place] = chosen.choice((0, 0xFF, 0x7F, 0x80, changed[place] ^ 1))
            return bytes(changed)

        yield Case(
            name=f"{start}: bytes changed at random {seed}",
            start=start,
            commands=(names,),
            change=rewritten(file, flip),
            outcome="either",
        )


def _foreign(start: str, file: str, command: tuple[str, ...]) -> Iterator[Case]:
    """What may become of any binary file."""
    for what, change in {
        "empty": lambda _: b"",
        "zeros": lambda data: bytes(len(data)),
        "noise": lambda data: random.Random(4).randbytes(len(data)),
        "its first bytes": lambda data: data[:5],
        "cut in its head": lambda data: data[:60],
        "cut in half": lambda data: data[: len(data) // 2],
        "without its last bytes": lambda data: data[:-300],
    }.items():
        yield Case(
            name=f"{start}: {what}",
            start=start,
            commands=(command,),
            change=rewritten(file, change),
        )
    for place in (8, 16, 24, 32):
        for number in (2**63 - 1, 2**64 - 1, 10**9):

            def put(data: bytes, place: int = place, number: int = number) -> bytes:
                return data[:place] + struct.pack("<Q", number) + data[place + 8 :]

            yield Case(
                name=f"{start}: {number} at byte {place}",
                start=start,
                commands=(command,),
                change=rewritten(file, put),
                outcome="either",
            )
    yield from _random(start, file, command, 14)


def _gguf() -> Iterator[Case]:
    file = "model.gguf"
    command = ("export", file, "-o", "out", "--original", "no")
    yield from _foreign("gguf", file, command)
    for what, old, new in (
        (
            "another architecture",
            b"\x05\x00\x00\x00\x00\x00\x00\x00llama",
            b"\x05\x00\x00\x00\x00\x00\x00\x00lla\x1b\n",
        ),
        ("a name that is no text", b"llama.block_count", b"llama.block_\xff\xff\xff\xff\xff"),
        ("a setting of control characters", b"llama.block_count", b"llama.bl\x1b[2J\nunt"),
        ("another tokenizer", b"gpt2", b"exec"),
    ):
        yield Case(
            name=f"gguf: {what}",
            start="gguf",
            commands=(command,),
            change=rewritten(file, lambda d, old=old, new=new: d.replace(old, new, 1)),
        )
    for what, count in {"no layers": 0, "a layer more": 3, "10^9 layers": 10**9}.items():

        def layers(data: bytes, count: int = count) -> bytes:
            place = data.index(b"llama.block_count") + 17 + 4
            return data[:place] + struct.pack("<I", count) + data[place + 4 :]

        yield Case(
            name=f"gguf: {what}", start="gguf", commands=(command,), change=rewritten(file, layers)
        )


def _marian() -> Iterator[Case]:
    file = "model.aabb.bin"
    command = ("export", ".", "-o", "out", "--original", "no")
    yield from _foreign("marian", file, command)
    for what, raw in {
        "empty": b"",
        "noise": random.Random(6).randbytes(9000),
        "text": b"hello",
        "a long length": b"\x0a\xff\xff\xff\xff\x0f" + bytes(100),
    }.items():
        yield Case(
            name=f"marian: a vocabulary that is {what}",
            start="marian",
            commands=(command,),
            change=written("vocab.aabb.spm", raw),
        )
    for what, old, new in (
        (
            "settings that are code",
            b"version:",
            b"a: !!python/object/apply:os.system [touch ../ran]\nversion:",
        ),
        ("settings of themselves", b"version:", b"a: &a [*a]\nversion:"),
        ("settings that grow", b"version:", _laughs() + b"version:"),
    ):

        def put(data: bytes, old: bytes = old, new: bytes = new) -> bytes:
            place = data.index(old)  # later text is lost, so that no size changes
            return data[:place] + (new + data[place:])[: len(data) - place]

        yield Case(
            name=f"marian: {what}",
            start="marian",
            commands=(command,),
            change=rewritten(file, put),
            outcome="either",
        )
    for what, raw in {
        "empty": b"",
        "zeros": bytes(100),
        "noise": random.Random(7).randbytes(400),
        "lengths of 2^63": struct.pack("<6Q", 0xF11A48D5013417F5, 7, 2**63, 50, 2**63, 2**63),
        "backwards": struct.pack("<6Q", 0xF11A48D5013417F5, 7, 5, 50, 3, 2)
        + struct.pack("<3Q", 2, 1, 2)
        + bytes(8),
    }.items():
        yield Case(
            name=f"marian: a lexicon that is {what}",
            start="marian",
            commands=(command,),
            change=written("lex.50.50.aabb.s2t.bin", raw),
        )


def _laughs() -> bytes:
    """Nine aliases of nine aliases ..., a billion when they are written out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    return "\n".join([*lines, ""]).encode()


def _ctranslate2() -> Iterator[Case]:
    command = ("export", ".", "-o", "out", "--original", "no")
    yield from _foreign("ctranslate2", "model.bin", command)
    for name in ("config.json", "vocabulary.json"):
        for what, raw in {
            "empty": "",
            "deep": "[" * DEEP,
            "a list of numbers": "[1, 2]",
            "null": "null",
            "a long integer": "9" * 5000,
        }.items():
            yield Case(
                name=f"ctranslate2: {name} is {what}",
                start="ctranslate2",
                commands=(command,),
                change=written(name, raw),
            )
