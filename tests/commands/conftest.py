"""Bundles that several commands run."""

from __future__ import annotations

import pytest
from speaking import speaking_bundle


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """`bundles(name)` makes (once) a small bundle with a tokenizer of words; its folder."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = speaking_bundle(name, tmp_path_factory.mktemp(name))
        return str(made[name])

    return get
