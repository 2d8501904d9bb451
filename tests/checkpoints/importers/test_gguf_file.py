"""Hostile GGUF files, made by hand."""

from __future__ import annotations

import struct

import gguf
import numpy as np
import pytest

from seq2edge.checkpoints.importers.gguf_file import read_gguf
from seq2edge.errors import CheckpointError, UnsupportedError


def string(text):
    """A string as the format has it."""
    return struct.pack("<Q", len(text)) + text.encode()


def header(tensors=0, values=0, version=3, magic=b"GGUF"):
    """The beginning of a file."""
    return magic + struct.pack("<IQQ", version, tensors, values)


def tensor(name="x", shape=(4,), kind=0, offset=0):
    """The description of one tensor."""
    extents = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + extents + struct.pack("<IQ", kind, offset)


FAULTS = {
    "no GGUF": (header(magic=b"GGML"), "not a GGUF file"),
    "another version": (header(version=1), "GGUF version 1, versions 2 and 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "GGUF version 50331648"),
    "a setting twice": (header(values=2) + (string("k") + struct.pack("<IB", 0, 1)) * 2, "twice"),
    "an unknown type": (header(values=1) + string("k") + struct.pack("<I", 99), "unknown type 99"),
    "arrays in arrays": (
        header(values=1) + string("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9,
        "unknown type 9",
    ),
    "an endless array": (
        header(values=1) + string("k") + struct.pack("<IIQ", 9, 0, 2**62) + b"\0" * 64,
        "truncated or damaged",
    ),
    "a huge string": (header(values=1) + struct.pack("<Q", 2**63), "truncated or damaged"),
    "no text": (header(values=1) + struct.pack("<Q", 2) + b"\xff\xfe", "not UTF-8"),
    "a bad alignment": (
        header(values=1) + string("general.alignment") + struct.pack("<II", 4, 0),
        "alignment is 0",
    ),
    "too many axes": (header(tensors=1) + tensor(shape=(1,) * 5), "5 axes"),
    "no axes": (header(tensors=1) + tensor(shape=()), "not made of blocks"),
    "a part of a block": (header(tensors=1) + tensor(shape=(33,), kind=8), "blocks of 32"),
    "an unknown tensor type": (header(tensors=1) + tensor(kind=77), "unknown type 77"),
    "data beyond the end": (header(tensors=1) + tensor(offset=4096) + b"\0" * 64, "beyond"),
    "an endless tensor": (header(tensors=1) + tensor(shape=(2**60, 4)) + b"\0" * 64, "beyond"),
    "a tensor twice": (header(tensors=2) + tensor() * 2 + b"\0" * 128, "x is stored twice"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_file_is_told_by_its_fault(tmp_path, name):
    """Each fault has its own words, and no length is believed."""
    data, message = FAULTS[name]
    file = tmp_path / "model.gguf"
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_gguf(file)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    """From the first byte to the last."""
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_array("list", ["a", "b"])
    writer.add_tensor("x", np.ones((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = file.read_bytes()
    whole = read_gguf(file)
    assert whole.settings["list"] == ["a", "b"]
    assert whole.tensors["x"].shape == (2, 32)
    for end in range(len(data)):
        file.write_bytes(data[:end])
        with pytest.raises(CheckpointError):
            read_gguf(file)


def test_version_and_type_have_the_narrower_error(tmp_path):
    """What a newer release may support is not called damage."""
    file = tmp_path / "model.gguf"
    file.write_bytes(header(version=4))
    with pytest.raises(UnsupportedError, match="GGUF version 4"):
        read_gguf(file)
