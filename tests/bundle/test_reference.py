"""Recorded arrays: round trip and hostile files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seq2edge.bundle.reference import read_reference, write_reference
from seq2edge.errors import BundleError

ARRAYS: dict[str, NDArray[Any]] = {
    "file": np.arange(6).reshape(2, 3),
    "allow_pickle": np.array([[0.5, -1.0]], dtype=np.float32, order="F"),
    "empty": np.zeros((0, 4), dtype=np.int8),
    "scalar": np.array(7),
}


def with_member(path: Path, data: bytes) -> Path:
    """A zip archive with one array's file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", data)
    return path


def header(text: str, extra: int = 0) -> bytes:
    """The beginning of a `.npy` file with this header, its length wrong by `extra`."""
    return b"\x93NUMPY\x01\x00" + (len(text) + extra).to_bytes(2, "little") + text.encode()


def test_arrays_are_read_back(tmp_path: Path) -> None:
    """Names, shapes, types and values survive, and numpy reads the file too."""
    write_reference(tmp_path / "r.npz", ARRAYS)
    read = read_reference(tmp_path / "r.npz")
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    with np.load(tmp_path / "r.npz") as loaded:
        np.testing.assert_array_equal(loaded["allow_pickle"], ARRAYS["allow_pickle"])


def test_equal_arrays_give_equal_files(tmp_path: Path) -> None:
    """Nothing of the time of writing is in the file."""
    for name in ("a", "b"):
        write_reference(tmp_path / name, ARRAYS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    """Pickles stay out on both ways."""
    objects = np.array([{}, []], dtype=object)
    with pytest.raises(BundleError, match="array 'x' of object, only numbers are kept"):
        write_reference(tmp_path / "r.npz", {"x": objects})
    buffer = io.BytesIO()
    np.save(buffer, objects)
    with pytest.raises(BundleError, match="a member is not an array of numbers"):
        read_reference(with_member(tmp_path / "p.npz", buffer.getvalue()))


def test_headers_that_promise_more_than_there_is_are_refused(tmp_path: Path) -> None:
    """A header of terabytes allocates nothing."""
    promise = header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n")
    with pytest.raises(BundleError, match=r"an array of shape \(1000000000000,\)"):
        read_reference(with_member(tmp_path / "r.npz", promise + b"1234"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an array",
        b"\x93NUMPY\x09\x00",
        header("{'descr': '<f3', 'fortran_order': False, 'shape': (1,), }\n") + b"123",
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n", 3) + b"1234",
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1), }\n") + b"1234",
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n") + b"",
        header("((((") + b"1234",
        header("{'descr': [('a', 'O')], 'fortran_order': False, 'shape': (1,), }\n") + b"12345678",
    ],
)
def test_members_that_are_no_arrays_are_refused(tmp_path: Path, data: bytes) -> None:
    """Damaged array files are errors that name the file."""
    with pytest.raises(BundleError, match=r"r\.npz: not readable as recorded arrays"):
        read_reference(with_member(tmp_path / "r.npz", data))


def test_bombs_are_refused_by_their_declared_size(tmp_path: Path) -> None:
    """A small file that unpacks to much is not unpacked."""
    write_reference(tmp_path / "r.npz", {"a": np.zeros(10**6, np.int8)})
    assert (tmp_path / "r.npz").stat().st_size < 10_000
    with pytest.raises(BundleError, match="1000128 bytes of arrays, limit 100000"):
        read_reference(tmp_path / "r.npz", limit_bytes=100_000)


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    """Only what numpy itself writes is unpacked."""
    with zipfile.ZipFile(tmp_path / "r.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", b"x")
    with pytest.raises(BundleError, match="compressed in a way that arrays never are"):
        read_reference(tmp_path / "r.npz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The system's reason follows the path."""
    with pytest.raises(BundleError, match=r"none\.npz: No such file"):
        read_reference(tmp_path / "none.npz")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(min_value=0), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_is_refused_or_harmless(tmp_path: Path, place: int, bit: int, *, cut: bool) -> None:
    """Truncated files and flipped bits raise BundleError or do not change the values."""
    path = tmp_path / "r.npz"
    write_reference(path, ARRAYS)
    data = bytearray(path.read_bytes())
    place %= len(data)
    if cut:
        del data[place:]
    else:
        data[place] ^= 1 << bit
    path.write_bytes(data)
    try:
        read = read_reference(path)
    except BundleError:
        return
    for name in set(read) & set(ARRAYS):
        np.testing.assert_array_equal(read[name], ARRAYS[name])
