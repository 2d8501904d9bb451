"""One server of all kinds of text models, for every test that changes nothing in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serving

TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}w7"
FOLDERS = {"translator": "bart", "writer": "llama", "embedder": "bert-embedding"}


@pytest.fixture(scope="session")
def folders(speaking: Callable[..., Path]) -> dict[str, Path]:
    """Bundles by the names under which they are served."""
    chats = {"template": TEMPLATE}
    return {
        name: speaking(model, **(chats if name == "writer" else {}))
        for name, model in FOLDERS.items()
    }


@pytest.fixture(scope="session")
def served(folders: dict[str, Path]) -> Iterator[serving.Served]:
    """A server with everything as it is by default."""
    with serving.serve(folders, aliases={"gpt": "writer"}) as server:
        yield server


@pytest.fixture(scope="session")
def models(folders: dict[str, Path]) -> dict[str, object]:
    """The same models, to compare with."""
    return {name: serving.load(folder) for name, folder in folders.items()}
