"""How a server behaves when clients leave, send too much, ask too much, or it has to end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import gated
import httpx
import openai
import pytest
import serving

from seq2edge.runtime.model import Model
from seq2edge.serve.calls.settings import Settings

SAID = [{"role": "user", "content": "w5 w6 w7"}]
BODY = {"model": "writer", "messages": SAID, "max_tokens": 40, "stream": True}
CHAT = "/v1/chat/completions"


class Slow:
    """A server of one model that steps as a test lets it."""

    def __init__(self, folders, settings=None, **pool):
        self.backend = gated.GatedBackend()
        self._context = serving.serve(
            {"writer": folders["writer"]},
            settings,
            lambda folder: Model(serving.load(folder).bundle, self.backend),
            **pool,
        )

    def __enter__(self):
        self.served = self._context.__enter__()
        self.entry = self.served.serving.pool.entries["writer"]
        return self

    def __exit__(self, *error):
        self.backend.open()
        self._context.__exit__(*error)

    def stream(self, **changes):
        """A request whose answer comes in pieces."""
        return httpx.stream(
            "POST", self.served.url + CHAT, json={**BODY, **changes}, timeout=serving.SECONDS
        )

    def idle(self):
        """Whether nothing is held for anybody."""
        loaded = self.entry.loaded
        return self.entry.turns.active == self.entry.users == self.served.serving.calls == 0 and (
            loaded is None or loaded.service.requests == 0
        )


def test_pieces_come_while_it_is_decoded(folders):
    """Not behind the last token."""
    with Slow(folders) as slow, slow.stream() as answer:
        lines = filter(None, answer.iter_lines())
        next(lines)  # the role
        for _ in range(12):
            slow.backend.open(1)
            time.sleep(0.02)  # who comes late gets them with the next one
        assert json.loads(next(lines)[6:])["choices"][0]["delta"]["content"]
        assert slow.backend.steps < 40


@pytest.mark.parametrize("stream", [True, False])
def test_work_stops_when_the_client_hangs_up(folders, stream):
    """In mid-stream and while it waits for the whole; turn, model and rows are free again."""
    with Slow(folders) as slow:
        body = json.dumps({**BODY, "stream": stream}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with slow.served.connect() as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            slow.backend.open(3)
            serving.soon(lambda: slow.backend.steps > 2, "it does not decode")
        serving.soon(lambda: slow.served.serving.calls == 0, "the call goes on")
        slow.backend.open(3)
        serving.soon(slow.idle, "something is held")
        assert slow.backend.steps < 10


def test_too_many_requests_are_refused_until_there_is_room(folders):
    """With 503 and when to come again; those that wait are answered."""
    with (
        Slow(folders, active=1, waiting=2) as slow,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):

        def ask(_):
            return slow.served.post(CHAT, {**BODY, "stream": False}).status_code

        waiting = [pool.submit(ask, 0) for _ in range(2)]
        serving.soon(lambda: slow.entry.turns.waiting == 1, "nobody waits")
        refused = slow.served.post(CHAT, BODY)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert "ask again later" in refused.json()["error"]["message"]
        slow.backend.open()
        assert [each.result() for each in waiting] == [200, 200]


def test_a_deadline_ends_what_takes_too_long(folders):
    """With 504, or in a stream with an event; nothing is held behind it."""
    with Slow(folders, Settings(deadline=0.3)) as slow:
        answer = slow.served.post(CHAT, {**BODY, "stream": False})
        assert answer.status_code == 504
        with slow.stream() as stream:
            last = [line for line in stream.iter_lines() if line][-1]
        assert json.loads(last[6:])["error"]["message"].startswith("deadline: ")
        slow.backend.open()
        serving.soon(slow.idle, "something is held")


def test_a_stream_shows_that_it_is_alive(folders):
    """With comments, where no piece comes for long."""
    with Slow(folders, Settings(heartbeat=0.05)) as slow, slow.stream() as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(6)][2::2] == [": goes on"] * 2
        slow.backend.open()
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_an_end_lets_answers_end_first(folders):
    """At SIGTERM a stream goes on to its last piece, and new requests are refused meanwhile."""
    with Slow(folders) as slow, slow.stream() as answer, httpx.Client() as client:
        url = slow.served.url
        lines = answer.iter_lines()
        next(lines)
        assert client.get(url + "/ready").status_code == 200
        slow.served.server.handle_exit(signal.SIGTERM, None)
        assert client.get(url + "/ready").status_code == 503
        refused = client.post(url + CHAT, json=BODY)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        time.sleep(1.5)  # longer than uvicorn by itself waits for what is answered
        slow.backend.open()
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_an_error_of_the_model_ends_its_calls_alone(folders):
    """As one of the server's own, of which a client learns nothing; the next call is answered."""
    with Slow(folders) as slow:
        step = slow.backend.step
        slow.backend.step = lambda *_: 1 / 0
        answer = slow.served.post(CHAT, {**BODY, "stream": False})
        assert answer.status_code == 500
        assert "division" not in answer.text
        slow.backend.step = step
        slow.backend.open()
        assert slow.served.post(CHAT, {**BODY, "stream": False}).status_code == 200
        serving.soon(slow.idle, "something is held")


def test_bodies_have_a_limit(folders):
    """Also one whose length nobody says."""
    with serving.serve(folders, Settings(body=1000)) as served:
        message = {**BODY, "messages": [{"role": "user", "content": "x" * 2000}]}
        assert served.post(CHAT, message).status_code == 413
        headers = {"Content-Type": "application/json"}
        chunks = httpx.post(
            served.url + CHAT, content=iter([b"x" * 600] * 2), headers=headers, timeout=9
        )
        assert chunks.status_code == 413


def test_a_body_of_another_type_is_refused(served):
    """Such as pages of other origins send without asking."""
    answer = httpx.post(served.url + CHAT, content=b"{}")
    assert answer.status_code == 415


def open_files():
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def received(client):
    """What comes until the server ends the connection."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_half_a_request_does_not_last(folders):
    """Neither nothing, nor half a head, nor half a body; a body that is cut is no error of ours."""
    settings = Settings(receive=0.2)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n".encode()
    typed = head + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with serving.serve(folders, settings) as served:
        for sent, status in ((b"", b""), (head, b""), (typed, b"HTTP/1.1 408 ")):
            with served.connect() as client:
                client.sendall(sent)
                assert received(client)[:13] == status
        with served.connect() as client:
            client.sendall(typed)
        serving.soon(lambda: served.serving.calls == 0, "the call goes on")
        assert httpx.get(served.url + "/health").status_code == 200


# A client that opens connections, as many as it may, half a head in every second one.
LEAVE = """
import resource, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
left = []
while len(left) < min(int(sys.argv[2]), most - 50):
    left.append(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
    left[-1].sendall(b"GET /health HTTP/1.1\\r\\nHost: "[:len(left) % 2 * 99])
print(len(left), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def leaving(port, count):
    """A process that holds so many connections, and how many they are."""
    command = [sys.executable, "-I", "-c", LEAVE, str(port), str(count)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        yield int(process.stdout.readline())


def test_connections_that_are_left_open_keep_nobody_out(folders):
    """The oldest make room; all are gone in time, though their client holds them.

    It takes seconds, since thousands of connections do; 10,000 were tried by hand.
    """
    with serving.serve(folders, Settings(connections=200, receive=1.0)) as served:
        connections = served.server.server_state.connections
        with served.openai() as client:
            assert client.embeddings.create(model="embedder", input="w5").data
        serving.soon(lambda: not connections, "a connection stays")
        before = open_files()
        with leaving(served.port, 2000) as count:
            assert httpx.get(served.url + "/health").status_code == 200
            assert len(connections) <= 200 < count
            with served.openai() as client:
                assert client.embeddings.create(model="embedder", input="w5").data
            serving.soon(lambda: not connections, "a connection stays")
        assert open_files() <= before


def test_a_client_that_takes_nothing_is_cut_off(folders):
    """However much there is for it; its connection is gone."""
    texts = [f"w{i % 90 + 3}" for i in range(2000)]
    body = json.dumps({"model": "embedder", "input": texts, "encoding_format": "float"}).encode()
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving.serve(folders, Settings(send=0.3)) as served, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", served.port))
        for _ in range(8):  # one behind the other, more than the system's buffers hold
            client.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        connections = served.server.server_state.connections
        serving.soon(lambda: connections, "it did not come")
        serving.soon(lambda: not connections, "it is not cut off")
        serving.soon(lambda: served.serving.calls == 0, "the call goes on")


def test_a_key_is_needed_for_all_but_probes(folders, tmp_path):
    """One of those in the file; another, a part of one and none are refused."""
    file = tmp_path / "keys"
    file.write_text(f"# of the laboratory\n{'a' * 20}\n\n{'b' * 20}\n")
    with serving.serve(folders, Settings(keys=file)) as served:
        for path in ("/health", "/ready"):
            assert httpx.get(served.url + path).status_code == 200
        for path in ("/metrics", "/v1/models", "/nothing"):
            assert httpx.get(served.url + path).status_code == 401
        for key in ("c" * 20, "a" * 19):
            with pytest.raises(openai.AuthenticationError, match="key: missing or wrong"):
                served.openai(api_key=key).models.list()
        assert len(list(served.openai(api_key="b" * 20).models.list())) == 3


def test_pages_of_other_origins_are_let_in_by_name_alone(folders, served):
    """By default none."""
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert httpx.options(served.url + CHAT, headers=asks).status_code == 405
    with serving.serve(folders, Settings(origins=("https://a.example",))) as open_server:
        answer = httpx.options(open_server.url + CHAT, headers=asks)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
        other = httpx.options(
            open_server.url + CHAT, headers={**asks, "Origin": "https://b.example"}
        )
        assert "Access-Control-Allow-Origin" not in other.headers


def named(url, host):
    """The status for a request that names this host, and the error's message."""
    answer = httpx.get(url, headers={"Host": host})
    return answer.status_code, answer.json().get("error", {}).get("message", "")


def test_on_loopback_only_its_own_names_are_answered(served):
    """A page whose name was made to lead here is refused (DNS rebinding); probes are not."""
    models = served.url + "/v1/models"
    for host in ("localhost", "LocalHost:8000", "127.0.0.1:80", "[::1]", f"[::1]:{served.port}"):
        assert named(models, host)[0] == 200, host
    for host in ("a.example", "localhost.a.example", "127.0.0.1.a.example:80", "::1", "", "x:"):
        status, message = named(models, host)
        assert (status, message.count("\n")) == (421, 0), host
        assert message.startswith(f"Host: {host!r} is not served here")
    assert named(served.url + "/health", "10.0.0.7:8000")[0] == 200


@pytest.mark.parametrize(("host", "others"), [("127.0.0.1", 421), ("0.0.0.0", 200)])
def test_other_hosts_are_let_in_by_name(folders, host, others):
    """Elsewhere than on loopback any is, until one is named."""
    for hosts, status in (((), others), (("a.example",), 200), (("b.example",), 421)):
        with serving.serve(folders, Settings(host=host, hosts=hosts)) as served:
            assert named(served.url + "/v1/models", "A.example:80")[0] == status


def test_what_it_does_is_counted(folders):
    """By route, status and model."""
    with serving.serve(folders) as served:
        served.post(CHAT, {**BODY, "stream": False})
        served.post(CHAT, {"model": "writer"})
        httpx.get(served.url + "/secret")
        text = httpx.get(served.url + "/metrics").text
    for line in (
        f'seq2edge_requests_total{{route="{CHAT}",status="200"}} 1.0',
        f'seq2edge_requests_total{{route="{CHAT}",status="400"}} 1.0',
        'seq2edge_requests_total{route="none",status="404"} 1.0',
        'seq2edge_tokens_total{kind="generated",model="writer"} 40.0',
        'seq2edge_first_token_seconds_count{model="writer"} 1.0',
        'seq2edge_loaded{model="writer"} 1.0',
        'seq2edge_loaded{model="embedder"} 0.0',
        'seq2edge_decoding{model="writer"} 0.0',
    ):
        assert line in text.splitlines()
    assert "process_resident_memory_bytes" in text
    assert "secret" not in text


def test_many_clients_at_once_get_what_the_library_gives(served, models):
    """Of all models and beside each other, whole and as streams."""
    client = served.openai()
    texts = [f"w{i} w{i + 7}" for i in range(5, 53)]
    options = {
        name: models[name].options.replace(max_new_tokens=8, max_length=None)
        for name in ("translator", "writer")
    }

    def ask(number):
        text = texts[number]
        if number % 4 == 0:
            return client.embeddings.create(model="embedder", input=text).data[0].embedding
        name = "writer" if number % 4 == 1 else "translator"
        create = client.completions.create
        if number % 4 == 2:
            return create(model=name, prompt=text, max_tokens=8).choices[0].text
        chunks = create(model=name, prompt=text, max_tokens=8, stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(len(texts))))
    for number, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        if number % 4 == 0:
            assert answer == models["embedder"].embed([text])[0].tolist()
        else:
            name = "writer" if number % 4 == 1 else "translator"
            assert answer == models[name].generate([text], options[name])[0][0].text
