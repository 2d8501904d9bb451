"""The list of tokens that a bundle can generate, as a file."""

from __future__ import annotations

import dataclasses

import pytest

from seq2edge.bundle import Bundle
from seq2edge.bundle.shortlist import LARGEST, read_ids, read_shortlist, write_ids
from seq2edge.errors import BundleError, InputError


def test_ids_are_read_back(tmp_path):
    """One a line; blank lines, spaces and foreign line ends do not matter."""
    write_ids(tmp_path / "ids", [3, 0, 58100])
    assert read_ids(tmp_path / "ids") == [3, 0, 58100]
    (tmp_path / "ids").write_bytes(b"\n 7 \r\n\r\n8")
    assert read_ids(tmp_path / "ids") == [7, 8]


@pytest.mark.parametrize("line", [b"-1", b"1.5", b"w5", b"1 2", b"9" * 19, b"\xff", b"\xb2"])
def test_a_line_that_is_no_id_is_named(tmp_path, line):
    """With its number."""
    (tmp_path / "ids").write_bytes(b"4\n" + line)
    with pytest.raises(InputError, match="line 2 is no token id"):
        read_ids(tmp_path / "ids")


def test_what_cannot_be_a_list_is_not_read(tmp_path):
    """A missing file, and one of any size."""
    with pytest.raises(BundleError, match="ids"):
        read_ids(tmp_path / "ids")
    (tmp_path / "ids").write_bytes(b"\n" * (LARGEST + 1))
    with pytest.raises(InputError, match="this is no list of ids"):
        read_ids(tmp_path / "ids")


@pytest.mark.parametrize(
    "text", ["1\n2\n", "1\n3\n2\n", "1\n2\n2\n", "1\n2\n100\n", "1\n2\nw3\n", ""]
)
def test_a_list_is_what_the_manifest_says(tmp_path, make_manifest, text):
    """As many ids, in order, of the vocabulary; None where there is no list."""
    manifest = make_manifest()
    listed = dataclasses.replace(manifest.shortlist, size=3)
    bundle = Bundle(
        path=tmp_path,
        manifest=make_manifest(shortlist=listed, files={listed.file: object()}),
    )
    (tmp_path / listed.file).write_text("1\n2\n99\n")
    assert read_shortlist(bundle) == {1, 2, 99}
    (tmp_path / listed.file).write_text(text)
    with pytest.raises(BundleError, match=r"shortlist\.txt"):
        read_shortlist(bundle)
    assert read_shortlist(Bundle(path=tmp_path, manifest=make_manifest(shortlist=None))) is None
