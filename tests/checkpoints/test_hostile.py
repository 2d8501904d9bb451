"""Checkpoints of strangers: whatever their files say, the error is one line of ours, and soon."""
# ruff: noqa: E501 - a file a line

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from limited import limited

from seq2edge.checkpoints.generation import read_generation
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.checkpoints.tokenizer import convert_tokenizer
from seq2edge.errors import CheckpointError, Seq2EdgeError
from seq2edge.runtime.options import DecodeOptions

DEEP = "[" * 100_000 + "]" * 100_000
VALUES = ("null", '"\\u001b[31m\\n"', "-1", "1e999", "[]", "{}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small decoder, as it should be."""
    folder = tmp_path_factory.mktemp("hostile") / "llama"
    tiny_models.save("llama", folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refused(read: Callable[[], object], *, harmless: bool = False) -> str:
    """The line that reading ends with, in time; empty where it may end well and does."""
    with limited(memory=2**31):
        try:
            read()
        except Seq2EdgeError as error:
            line = str(error)
            assert line.isprintable()
            return line
    assert harmless
    return ""


def replaced(config: dict[str, Any], key: str, value: str) -> str:
    """The config with another value, which JSON text says."""
    return json.dumps({**config, key: "@"}).replace('"@"', value)


def test_settings_of_any_kind_and_size(folder: Path) -> None:
    """Every setting with every kind of value: read, or refused with a line that names the folder."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    lines = []
    for key in config:
        for value in VALUES:
            path.write_text(replaced(config, key, value))
            lines.append(refused(lambda: load_checkpoint(folder), harmless=True))
    assert sum(map(bool, lines)) > len(lines) // 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", "1000000000"),
        ("num_hidden_layers", f"1{'0' * 30}"),
        ("vocab_size", "1000000000000"),
        ("vocab_size", f"1{'0' * 30}"),
        ("hidden_size", "1000000000"),
        ("max_position_embeddings", f"1{'0' * 5000}"),
        ("intermediate_size", "1e999"),
        ("rope_scaling", DEEP),
        ("model_type", '"\\ud800"'),
        ("id2label", '{"x": 1}'),
        ("architectures", '[{"a": 1}]'),
    ],
)
def test_sizes_beyond_the_tensors(folder: Path, key: str, value: str) -> None:
    """Nothing is made of them before they are refused."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(replaced(config, key, value))
    line = refused(
        lambda: load_checkpoint(folder), harmless=key in ("id2label", "max_position_embeddings")
    )
    told = (str(folder), "config.json", "a model has", "model_type")
    assert not line or key == "model_type" or any(part in line for part in told)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        DEEP.encode(),
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"model_type": "\x1b[31m"}',
        b'{"model_type": "llama", "x": 1e999}',
    ],
)
@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "model.safetensors.index.json", "modules.json"],
)
def test_json_of_any_kind(folder: Path, name: str, data: bytes) -> None:
    """Deep, long, not finite, not text."""
    (folder / name).write_bytes(data)
    refused(lambda: load_checkpoint(folder), harmless=name == "generation_config.json")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "modules.json",
        "tokenizer.json",
    ],
)
def test_pipes_and_devices_are_no_files(folder: Path, name: str) -> None:
    """A file that is none is refused or not looked at, never waited for."""
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    refused(
        lambda: load_checkpoint(folder), harmless=name not in ("config.json", "model.safetensors")
    )
    refused(lambda: convert_tokenizer(folder, config={}, vocab=99), harmless=True)


def test_a_shard_that_is_a_pipe(folder: Path) -> None:
    """The index names it."""
    index = {"weight_map": {"a": "one.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    os.mkfifo(folder / "one.safetensors")
    assert "not a regular file" in refused(lambda: load_checkpoint(folder))


@pytest.mark.parametrize("name", ["model.gguf", "model.bin", "model.x.bin"])
def test_a_pipe_among_other_formats(tmp_path: Path, name: str) -> None:
    """GGUF, CTranslate2 and Marian are mapped, which would wait too."""
    os.mkfifo(tmp_path / name)
    (tmp_path / "vocab.spm").touch()
    refused(lambda: load_checkpoint(tmp_path))
    refused(lambda: load_checkpoint(tmp_path / name))


def safetensors(header: str, data: bytes = b"") -> bytes:
    """A file with this header."""
    text = header.encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        safetensors("{}"),
        safetensors(DEEP),
        safetensors(
            '{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}}', b"abcd"
        ),
        safetensors('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
        safetensors('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', b"abcd"),
        safetensors(
            '{"a\\n\\u001b[31m":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"abcd"
        ),
        safetensors('{"a":{"dtype":"I4","shape":[1],"data_offsets":[0,4]}}', b"abcd"),
        safetensors('{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}', b"abcd"),
    ],
)
def test_safetensors_of_any_kind(folder: Path, data: bytes) -> None:
    """Also headers that the library panics about."""
    (folder / "model.safetensors").write_bytes(data)
    refused(lambda: load_checkpoint(folder))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63),
        b"GGUF"
        + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 9, 2**62)
        + struct.pack("<IQ", 9, 2) * 4000,
        b"GGUF"
        + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"a", 4)
        + struct.pack("<QQQQIQ", *[2**62] * 4, 0, 0),
        b"GGUF" + struct.pack("<IQQQ7sIQ3s", 3, 0, 1, 7, b"\x1b[31m\n\0", 8, 3, b"\xff\0\n"),
    ],
)
def test_gguf_of_any_kind(tmp_path: Path, data: bytes) -> None:
    """Counts, ranks and lengths that no file holds."""
    (tmp_path / "model.gguf").write_bytes(data)
    assert refused(lambda: load_checkpoint(tmp_path / "model.gguf"))


def tokenizer_files() -> Iterator[tuple[str, bytes]]:
    """Damaged files of tokenizers of many kinds."""
    yield "tokenizer.json", b"{"
    yield "tokenizer.json", DEEP.encode()
    yield "tokenizer.json", b'{"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}'
    yield "tokenizer_config.json", DEEP.encode()
    yield "vocab.json", DEEP.encode()
    yield "vocab.json", b'{"a": 1' + b"0" * 5000 + b"}"
    yield "vocab.json", b'{"a": -1}'
    yield "vocab.txt", b"\xff"
    yield "spiece.model", b"\n\xff\xff\xff\xff\x0f"
    yield "spiece.model", bytes(99)
    yield "source.spm", b"\x0a\x05\x0a\x03\xff\xff\xff"


@pytest.mark.parametrize(("name", "data"), list(tokenizer_files()))
def test_tokenizers_of_any_kind(tmp_path: Path, name: str, data: bytes) -> None:
    """What transformers and its libraries raise has the folder's name, not that of a copy."""
    (tmp_path / name).write_bytes(data)
    line = refused(lambda: convert_tokenizer(tmp_path, config={"model_type": "t5"}, vocab=99))
    assert str(tmp_path) in line


@pytest.mark.parametrize(
    "settings",
    [
        {"max_length": float("inf")},
        {"max_length": 10**30},
        {"temperature": "\x1b[31m", "do_sample": True},
        {"suppress_tokens": 7},
        {"suppress_tokens": [None]},
        {"eos_token_id": {"a": 1}},
        {"num_beams": [1]},
    ],
)
def test_generation_settings_of_any_kind(settings: dict[str, Any]) -> None:
    """They are options, and refused as those are."""
    refused(lambda: DecodeOptions.from_dict(read_generation(settings, {}).options))


def test_invariants_of_ours_stay_what_they_are(folder: Path, monkeypatch: Any) -> None:
    """A fault of the code is no fault of the file."""
    from seq2edge.checkpoints import load

    def broken(*_: Any) -> Any:
        raise AssertionError("ours")

    monkeypatch.setattr(load, "find_family", broken)
    with pytest.raises(AssertionError, match="ours"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(path=folder / "none")
