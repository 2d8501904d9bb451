"""Opening and writing bundles: every damage named, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_folders import edit

from seq2edge.bundle import Bundle, describe
from seq2edge.bundle.manifest import LARGEST_MANIFEST
from seq2edge.errors import BundleError

FILES = [
    "decoder.onnxruntime.onnx",
    "encoder.onnx",
    "engines/sm87.json",
    "engines/sm87.plan",
    "lexicon.npz",
    "shortlist.txt",
    "target/tokenizer.json",
    "tokenizer.json",
]


def test_a_written_bundle_opens_with_what_was_written(folder: Path) -> None:
    """Opening gives the manifest with every file's size and hash."""
    bundle = Bundle.open(str(folder), hashes=True)
    assert list(bundle.manifest.files) == FILES
    assert bundle.size == sum(len(f"contents of {name}") for name in FILES)
    assert bundle.file("encoder.onnx").read_bytes() == b"contents of encoder.onnx"
    assert bundle.graph("decoder", "onnxruntime").file == "decoder.onnxruntime.onnx"
    assert bundle.graph("encoder").file == "encoder.onnx"


def test_asking_for_what_is_not_there_names_what_is(folder: Path) -> None:
    """Unknown files and graphs are errors that list the known ones."""
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"no file '\.\./model/x' in this bundle"):
        bundle.file("../model/x")
    with pytest.raises(
        BundleError,
        match="no decoder graph for 'canonical', there are: encoder for canonical, decoder for onn",
    ):
        bundle.graph("decoder")


def test_a_bundle_may_be_reached_through_a_link(folder: Path, tmp_path: Path) -> None:
    """The folder itself may be a link; only links inside are refused."""
    (tmp_path / "link").symlink_to(folder)
    assert Bundle.open(tmp_path / "link", hashes=True).manifest.family == "whisper"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A path that is not there is an error."""
    with pytest.raises(BundleError, match="nowhere: no such folder"):
        Bundle.open(tmp_path / "nowhere")


def test_a_packed_file_is_pointed_to_unpack(tmp_path: Path) -> None:
    """Opening a file says how to make a folder of it."""
    (tmp_path / "model.s2e").write_bytes(b"")
    with pytest.raises(BundleError, match=r"a file, not a bundle folder.*seq2edge unpack"):
        Bundle.open(tmp_path / "model.s2e")


def test_a_folder_without_manifest_is_no_bundle(folder: Path) -> None:
    """The manifest must be there."""
    (folder / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"manifest\.json: missing or not a regular file"):
        Bundle.open(folder)


def test_a_manifest_of_enormous_size_is_not_read(folder: Path) -> None:
    """A sparse gigabyte named manifest.json is refused before it fills the memory."""
    os.truncate(folder / "manifest.json", LARGEST_MANIFEST + 1)
    with pytest.raises(BundleError, match=r"manifest\.json: more than 16777216 bytes"):
        Bundle.open(folder)


def test_a_manifest_error_names_the_file(folder: Path) -> None:
    """Errors inside the manifest begin with its path."""
    edit(folder, lambda values: values.update(format=5))
    with pytest.raises(BundleError, match=r"model/manifest\.json: format 5, this version reads 4"):
        Bundle.open(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    """A listed file that is gone is an error."""
    (folder / "encoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"encoder\.onnx: missing, but listed"):
        Bundle.open(folder)


def test_a_truncated_file_is_named_with_both_sizes(folder: Path) -> None:
    """A size other than the recorded one is an error."""
    os.truncate(folder / "encoder.onnx", 3)
    with pytest.raises(BundleError, match=r"encoder\.onnx: 3 bytes, but manifest\.json says 24"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["extra.bin", "engines/extra.bin", ".hidden", "é\n"])
def test_an_unlisted_file_is_named(folder: Path, name: str) -> None:
    """Files that the manifest does not know are refused."""
    (folder / name).write_bytes(b"")
    with pytest.raises(BundleError, match=r"file '.*' is not listed in manifest\.json"):
        Bundle.open(folder)


def test_links_inside_are_refused(folder: Path, tmp_path: Path) -> None:
    """A link is refused even when it leads to the very contents that were recorded."""
    (folder / "encoder.onnx").rename(tmp_path / "outside")
    (folder / "encoder.onnx").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match=r"'encoder\.onnx' is a link or a device"):
        Bundle.open(folder)


def test_linked_folders_inside_are_refused(folder: Path, tmp_path: Path) -> None:
    """A folder inside the bundle may not be a link either."""
    (folder / "target").rename(tmp_path / "outside")
    (folder / "target").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="'target' is a link or a device"):
        Bundle.open(folder)


def test_a_linked_manifest_is_refused(folder: Path, tmp_path: Path) -> None:
    """The manifest itself may not be a link."""
    (folder / "manifest.json").rename(tmp_path / "outside")
    (folder / "manifest.json").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match=r"manifest\.json: missing or not a regular file"):
        Bundle.open(folder)


def test_devices_inside_are_refused(folder: Path) -> None:
    """A named pipe would block whoever reads it."""
    (folder / "encoder.onnx").unlink()
    os.mkfifo(folder / "encoder.onnx")
    with pytest.raises(BundleError, match=r"'encoder\.onnx' is a link or a device"):
        Bundle.open(folder)


def test_a_reference_to_an_unlisted_file_is_named(folder: Path) -> None:
    """Graphs and tokenizers must name listed files."""
    edit(folder, lambda values: values["tokenizer"].update(chat_template="chat.jinja"))
    with pytest.raises(
        BundleError, match=r"manifest\.json: tokenizer\.chat_template: 'chat\.jinja' is not listed"
    ):
        Bundle.open(folder)


def test_hashes_are_checked_on_request(folder: Path) -> None:
    """Changed contents of the same size are found when hashes are asked for."""
    (folder / "encoder.onnx").write_bytes(b"x" * 24)
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"encoder\.onnx: SHA-256 .* of 24 bytes, but"):
        bundle.verify_hashes()
    with pytest.raises(BundleError, match=r"encoder\.onnx: SHA-256 .* of 24 bytes, but"):
        Bundle.open(folder, hashes=True)


def test_describe_is_plain_json(folder: Path) -> None:
    """The summary holds only JSON values, with sizes beside the graphs."""
    summary = json.loads(json.dumps(describe(Bundle.open(folder))))
    assert summary["size"] == Bundle.open(folder).size
    assert summary["family"] == "whisper"
    assert summary["graphs"][0]["size"] == 24
    assert summary["path"] == str(folder)


def test_reading_bundles_loads_nothing_heavy() -> None:
    """Neither numpy nor torch is loaded to read a manifest."""
    code = "import sys, seq2edge.bundle.archive, seq2edge.bundle.reference; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"numpy", "torch", "onnx", "onnxruntime", "transformers"} & set(loaded)
