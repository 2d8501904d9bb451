"""`shortlist.txt`: the ids of the tokens that a bundle's decoder can generate, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seq2edge.errors import BundleError, InputError
from seq2edge.files.storage import file_errors

if TYPE_CHECKING:
    from seq2edge.bundle.folder import Bundle

SHORTLIST = "shortlist.txt"
LARGEST = 2**24  # bytes of a list
LONGEST = 18  # digits of an id


def read_ids(path: Path) -> list[int]:
    """The ids of a file, one a line; blank lines are left out.

    Raises InputError naming the line that is no id, BundleError for a file that cannot be read.
    """
    with file_errors(path), path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise InputError(f"{path}: more than {LARGEST} bytes, this is no list of ids")
    ids = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        word = line.strip()
        if word and (not word.isdigit() or len(word) > LONGEST):
            raise InputError(f"{path}: line {number} is no token id: {word[:40]!r}")
        if word:
            ids.append(int(word))
    return ids


def write_ids(path: Path, ids: Sequence[int]) -> None:
    """Write ids as `read_ids` reads them."""
    with file_errors(path):
        path.write_text("".join(f"{number}\n" for number in ids), encoding="ascii")


def read_shortlist(bundle: Bundle) -> frozenset[int] | None:
    """The tokens that a bundle can generate; None where that is its whole vocabulary.

    Raises BundleError for a list that is not what the manifest says.
    """
    record = bundle.manifest.shortlist
    if record is None:
        return None
    path = bundle.file(record.file)
    try:
        ids = read_ids(path)
    except InputError as error:
        raise BundleError(str(error)) from error
    if len(ids) != record.size or ids != sorted(set(ids)) or ids[-1] >= bundle.manifest.dims.vocab:
        raise BundleError(f"{path}: not the {record.size} ids of the manifest in their order")
    return frozenset(ids)
