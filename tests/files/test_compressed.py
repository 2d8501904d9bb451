"""Compressed files by their names."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from seq2edge.files.compressed import READ_ERRORS, content_suffix, open_bytes

COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize(("suffix", "compress"), COMPRESS.items())
def test_the_name_says_how_a_file_is_read(tmp_path, suffix, compress):
    """What is inside comes out, and what kind it is."""
    path = tmp_path / f"a.tsv{suffix}"
    path.write_bytes(compress(b"one\ntwo\n"))
    with open_bytes(path) as file:
        assert list(file) == [b"one\n", b"two\n"]
    assert content_suffix(path) == ".tsv"


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:12] + data[20:]])
def test_damaged_files_raise_what_is_told(tmp_path, damage):
    """Cut short, or broken inside."""
    path = Path(tmp_path / "a.gz")
    path.write_bytes(damage(gzip.compress(bytes(range(256)) * 9)))
    with pytest.raises(READ_ERRORS), open_bytes(path) as file:
        file.read()
