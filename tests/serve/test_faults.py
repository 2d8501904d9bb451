"""What fails under a server costs the call that meets it, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import threading
import time
from pathlib import Path

import gated
import httpx
import numpy as np
import pytest
import serving

from seq2edge.errors import InputError
from seq2edge.runtime.model import Model
from seq2edge.serve.calls.settings import Settings

TEXTS = [f"w{i % 90 + 3}" for i in range(300)]  # five parts
EMBED = {"model": "embedder", "input": TEXTS}
COMPLETE = {"model": "writer", "prompt": " ".join(TEXTS[:20]), "max_tokens": 30}
SPARE = {**COMPLETE, "model": "spare"}


class Faulty:
    """A server whose writer steps as a test lets it, and whose embedder takes its time."""

    def __init__(self, folders, settings=None, **pool):
        self.folders = folders
        self.backend = gated.GatedBackend()
        self.parts = 0  # that were embedded
        self._context = serving.serve(folders, settings, self.load, **pool)

    def __enter__(self):
        self.served = self._context.__enter__()
        return self

    def __exit__(self, *error):
        self.backend.open()
        self._context.__exit__(*error)

    def load(self, folder):
        """See Pool."""
        model = serving.load(folder)
        if folder == self.folders.get("writer"):
            return Model(model.bundle, self.backend)
        embed = model.embed

        def slow(*texts, **options):
            self.parts += 1
            time.sleep(0.1)
            return embed(*texts, **options)

        model.embed = slow
        return model

    def send(self, path, body):
        """A connection that asked."""
        body = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client = self.served.connect()
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return client

    def figure(self, name):
        """A gauge of the writer."""
        lines = httpx.get(self.served.url + "/metrics").text.splitlines()
        (line,) = [line for line in lines if line.startswith(f'{name}{{model="writer"}}')]
        return float(line.split()[-1])

    def idle(self):
        """Whether nothing is held for anybody."""
        serving_ = self.served.serving
        return serving_.calls == 0 and not any(
            entry.users or entry.turns.active or (entry.loaded and entry.loaded.service.requests)
            for entry in serving_.pool.entries.values()
        )


def hang_up_in_a_stream(faulty):
    """The rows are free again."""
    with faulty.send("/v1/completions", {**COMPLETE, "stream": True}) as client:
        faulty.backend.open(3)
        serving.soon(lambda: faulty.figure("seq2edge_rows") == 1, "it does not decode")
        client.recv(100)
    serving.soon(lambda: faulty.served.serving.calls == 0, "the call goes on")
    faulty.backend.open(3)
    serving.soon(faulty.idle, "something is held")
    assert faulty.figure("seq2edge_rows") == faulty.figure("seq2edge_decoding") == 0


def hang_up_while_texts_are_embedded(faulty):
    """The work ends behind the part that is read."""
    faulty.parts = 0
    with faulty.send("/v1/embeddings", EMBED):
        serving.soon(lambda: faulty.parts, "it does not begin")
    serving.soon(faulty.idle, "the call goes on")
    assert faulty.parts < 4


def remove_a_folder(faulty):
    """What is loaded goes on; what is not is refused until the folder is back."""
    folder = faulty.folders["spare"]
    away = folder.with_name("away")
    folder.rename(away)
    for _ in range(2):
        answer = faulty.served.post("/v1/completions", SPARE)
        assert answer.status_code == 503
        message = answer.json()["error"]["message"]
        assert message == "model: it does not work here, the server's log says why"
    assert httpx.get(faulty.served.url + "/v1/models").status_code == 200
    away.rename(folder)
    assert faulty.served.post("/v1/completions", SPARE).status_code == 200
    folder.rename(away)
    assert faulty.served.post("/v1/completions", SPARE).status_code == 200
    away.rename(folder)


def fill_the_disk(faulty):
    """The answer comes, and what it left is not kept."""
    written = []

    def fills(file, **_):
        written.append(file)
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "savez", fills)
        body = {**SPARE, "prompt": f"w90 {SPARE['prompt']}"}
        assert faulty.served.post("/v1/completions", body).status_code == 200
        serving.soon(lambda: written and written[0].closed, "it is not written")


def end_a_stream(faulty):
    """SIGTERM: the stream goes on to its end, and with it the server."""
    with httpx.stream(
        "POST",
        faulty.served.url + "/v1/completions",
        json={**COMPLETE, "stream": True},
        timeout=serving.SECONDS,
    ) as answer:
        faulty.backend.open(2)
        lines = answer.iter_lines()
        next(lines)
        faulty.served.server.handle_exit(signal.SIGTERM, None)
        faulty.backend.open()
        assert [line for line in lines if line][-1] == "data: [DONE]"
    serving.soon(lambda: faulty.served.server.should_exit, "it does not end")


def resources():
    """File descriptors and threads of this process, but for the one that reads templates."""
    threads = [thread for thread in threading.enumerate() if thread.name != "seq2edge-timed"]
    return len(list(Path("/proc/self/fd").iterdir())), len(threads)


def test_faults_leave_nothing_behind(folders, tmp_path):
    """Neither turns nor rows while it goes on, nor descriptors, threads or files in the end."""
    spare = shutil.copytree(folders["writer"], tmp_path / "spare")
    before = resources()
    kept = tmp_path / "kept"
    with Faulty({**folders, "spare": spare}, Settings(cache_dir=kept)) as faulty:
        for fault in (
            hang_up_in_a_stream,
            hang_up_while_texts_are_embedded,
            remove_a_folder,
            fill_the_disk,
            end_a_stream,
        ):
            fault(faulty)
            serving.soon(faulty.idle, f"{fault.__name__}: something is held")
    serving.soon(
        lambda: all(now <= then for now, then in zip(resources(), before, strict=True)),
        "descriptors or threads stay",
    )
    assert [path.suffix for path in kept.rglob("*") if path.is_file()] == [".npz"]


def test_a_deadline_ends_what_is_embedded(folders):
    """Between its parts, as it does when the client hangs up."""
    with Faulty(folders, Settings(deadline=0.25)) as faulty:
        faulty.served.post("/v1/embeddings", {**EMBED, "input": "w5"})  # now it is loaded
        faulty.parts = 0
        assert faulty.served.post("/v1/embeddings", EMBED).status_code == 504
        serving.soon(faulty.idle, "the call goes on")
        assert faulty.parts < 5


def test_parts_are_embedded_as_the_library_embeds_them(served, models):
    """In their order."""
    with served.openai() as client:
        answer = client.embeddings.create(model="embedder", input=TEXTS)
    vectors = np.array([each.embedding for each in answer.data], dtype=np.float32)
    np.testing.assert_allclose(vectors, models["embedder"].embed(TEXTS), atol=1e-6)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_is_not_told_where_a_model_lies(folders, stream):
    """Its name stands there, also in the last event of a stream."""
    with Faulty(folders) as faulty:
        refusal = InputError(f"{folders['writer']}: cannot do this")
        faulty.backend.step = lambda *_: (_ for _ in ()).throw(refusal)
        answer = faulty.served.post("/v1/completions", {**COMPLETE, "stream": stream})
        assert answer.status_code == (200 if stream else 400)
        assert '"message":"writer: cannot do this"' in answer.text
