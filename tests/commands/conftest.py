"""Bundles that several commands run."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def bundles(speaking):
    """`bundles(name, **options)`: the folder of a small bundle with a tokenizer of words."""
    return lambda name, **options: str(speaking(name, **options))
