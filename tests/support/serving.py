"""A server of tiny models on a free port of this machine, for as long as a test wants it."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

import seq2edge
from seq2edge.serve.app import make_app
from seq2edge.serve.calls.call import Serving
from seq2edge.serve.calls.pool import Pool
from seq2edge.serve.calls.settings import Settings
from seq2edge.serve.server import Server, make_server

if TYPE_CHECKING:
    import openai

SECONDS = 20  # after which a test that hangs fails


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """Where it is, and what its calls share."""

    url: str
    port: int
    serving: Serving
    server: Server

    def openai(self, **options: Any) -> openai.OpenAI:
        """OpenAI's own client, which asks once."""
        import openai

        values = {"api_key": "none", "max_retries": 0, "timeout": SECONDS, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **values)

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        """The answer to a body in JSON."""
        return httpx.post(self.url + path, json=body, timeout=SECONDS, **more)

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)


def load(folder: Path) -> seq2edge.Model:
    """A model on one thread, as the machine that tests has few."""
    return seq2edge.load(folder, device="cpu", threads=1)


def soon(condition: Any, what: str) -> None:
    """Wait until it holds."""
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.005)


@contextmanager
def serve(
    folders: Mapping[str, Path], settings: Settings | None = None, load: Any = load, **pool: Any
) -> Iterator[Served]:
    """Serve bundles by these names until the context ends."""
    app = make_app(Pool(folders, load, **pool), settings or Settings())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = make_server(app)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            soon(lambda: server.started, "the server did not start")
            yield Served(
                url=f"http://127.0.0.1:{port}",
                port=port,
                serving=app.state.serving,
                server=server,
            )
        finally:
            server.should_exit = True
            thread.join(SECONDS)
    assert not thread.is_alive()
