"""What a server needs of the system before it listens."""

from __future__ import annotations

import resource

import pytest

from seq2edge.serve.server import BACKLOG, FILES, allow_files


@pytest.fixture
def _limit():
    """A low limit, which is what it was in the end."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_limit")
@pytest.mark.parametrize(("connections", "limit"), [(100, 1024), (500, 1000 + BACKLOG + FILES)])
def test_files_are_allowed_as_connections_need(connections, limit):
    """A limit that is enough stays."""
    allow_files(connections)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limit
