"""Lexical shortlists: what they allow, and files that are none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seq2edge.bundle.lexicon import LEXICON, Lexicon, read_lexicon, write_lexicon
from seq2edge.bundle.reference import read_reference, write_reference
from seq2edge.errors import BundleError

SMALL = Lexicon(
    frequent=2,
    offsets=np.array([0, 2, 2, 3]),
    ids=np.array([5, 7, 9]),
    copies=False,
    vocab=100,
)


class FakeBundle:
    """A folder with a manifest that names a lexicon."""

    def __init__(self, folder, manifest, name=LEXICON):
        self.folder = folder
        self.manifest = dataclasses.replace(manifest, lexicon=name)

    def file(self, name):
        """Where a file lies."""
        return self.folder / name


def test_allows_frequent_tokens_and_translations():
    """And the source's own where it copies; tokens that it does not know add nothing."""
    assert np.flatnonzero(SMALL.allowed([0, 1])).tolist() == [0, 1, 5, 7]
    assert np.flatnonzero(SMALL.allowed([2, 2, 50])).tolist() == [0, 1, 9]
    copying = dataclasses.replace(SMALL, copies=True)
    assert np.flatnonzero(copying.allowed([2, 50])).tolist() == [0, 1, 2, 9, 50]
    assert not dataclasses.replace(SMALL, frequent=0).allowed([]).any()


def test_reads_what_was_written(tmp_path, make_manifest):
    """Every field; None where a bundle has none."""
    write_lexicon(tmp_path / LEXICON, SMALL)
    back = read_lexicon(FakeBundle(tmp_path, make_manifest()))
    assert back.allowed([0, 2]).tolist() == SMALL.allowed([0, 2]).tolist()
    assert (back.frequent, back.copies, back.vocab) == (2, False, 100)
    assert read_lexicon(FakeBundle(tmp_path, make_manifest(), None)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": np.array([2, 0, 101])},
        {"sizes": np.array([101, 0, 100])},
        {"sizes": np.array([2, 0])},
        {"sizes": np.array([2, 5, 100])},
        {"lengths": np.array([2, 0, 2], dtype=np.uint16)},
        {"lengths": np.ones(101, dtype=np.uint16), "ids": np.zeros(101, dtype=np.uint32)},
        {"ids": np.array([5, 7, 100], dtype=np.uint32)},
        {"ids": np.array([[5, 7, 9]], dtype=np.uint32)},
        {"ids": None},
    ],
    ids=["vocab", "frequent", "short", "copies", "lengths", "words", "id", "axes", "missing"],
)
def test_refuses_files_that_do_not_fit_the_model(tmp_path, make_manifest, changes):
    """By the file's name."""
    write_lexicon(tmp_path / LEXICON, SMALL)
    arrays = {**read_reference(tmp_path / LEXICON), **changes}
    write_reference(tmp_path / LEXICON, {k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(BundleError, match=r"lexicon\.npz: not a lexical shortlist"):
        read_lexicon(FakeBundle(tmp_path, make_manifest()))
