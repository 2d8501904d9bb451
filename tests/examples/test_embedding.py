"""The examples of applications do what they show, with tiny models."""

from __future__ import annotations

import http.client
import importlib
import io
import subprocess
import sys
import threading
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import seq2edge

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "embedding"
SECONDS = 20


def example(name):
    """The script of that name."""
    return importlib.import_module(f"embedding.{name}")


def test_the_script_answers_lines(speaking, monkeypatch, capsys):
    """As the model does; a bundle that is none is told without a traceback."""
    texts = ["w5 w6", "w7", "w8 w9"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts)))
    example("script").main(speaking("bart"))
    model = seq2edge.load(speaking("bart"))
    options = model.options.replace(max_new_tokens=40, max_length=None)
    wanted = [answers[0].text for answers in model.generate(texts, options)]
    assert capsys.readouterr().out.splitlines() == wanted
    assert len((FOLDER / "script.py").read_text().splitlines()) < 30
    failed = subprocess.run(
        [sys.executable, FOLDER / "script.py", "nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert failed.stderr == "script: nothing: no such folder\n"


@pytest.fixture
def server(speaking):
    """The HTTP service of a tiny translator, and its model."""
    module = example("http_service")
    model = seq2edge.load(speaking("bart"), device="cpu", threads=1)
    with module.Server(("127.0.0.1", 0), model) as server:
        server.options = server.options.replace(max_new_tokens=40, eos_token_id=(), max_length=None)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server, model
        server.shutdown()
        thread.join()


def post(server, text, headers=None):
    """Status, pieces and connection's end of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=SECONDS)
    connection.request("POST", "/", text.encode() if isinstance(text, str) else text, headers or {})
    response = connection.getresponse()
    pieces = []
    while piece := response.read1():
        pieces.append(piece.decode())
    connection.close()
    return response.status, pieces


def test_clients_of_the_http_service_share_a_batch(server, monkeypatch):
    """All at once, each with its own answer, in pieces."""
    server, model = server
    texts = [f"w{i} w{2 * i}" for i in range(5, 13)]
    wanted = [answers[0].text for answers in model.generate(texts, server.options)]
    step, rows, all_here = model.backend.step, [], threading.Event()

    def counted(tokens, new_length, cache):
        assert all_here.wait(SECONDS)
        rows.append(len(tokens))
        return step(tokens, new_length, cache)

    monkeypatch.setattr(model.backend, "step", counted)
    submit = server.service.submit
    here = threading.Semaphore(0)

    def counting(request):
        reply = submit(request)
        here.release()
        return reply

    monkeypatch.setattr(server.service, "submit", counting)
    with ThreadPoolExecutor(len(texts)) as pool:
        answers = [pool.submit(post, server, text) for text in texts]
        for _ in texts:
            assert here.acquire(timeout=SECONDS)
        all_here.set()
        found = [answer.result(SECONDS) for answer in answers]
    assert [status for status, _ in found] == [200] * len(texts)
    assert ["".join(pieces) for _, pieces in found] == wanted
    assert any(len(pieces) > 1 for _, pieces in found)
    assert max(rows) > len(texts) / 2


def test_the_http_service_says_what_it_does_not_take(server):
    """By status, in words."""
    server, _ = server
    assert post(server, b"w\xff") == (400, ["text: no UTF-8\n"])
    status, pieces = post(server, "w5 " * 100)
    assert status == 400
    assert "the model takes 64" in pieces[0]
    assert post(server, "", {"Content-Length": "1000000"})[0] == 413
    fits = server.options
    server.options = fits.replace(max_new_tokens=100)
    assert post(server, "w5")[0] == 413
    server.options = fits
    server.service.close()
    assert post(server, "w5") == (503, ["service: closed, it takes no more requests\n"])


def test_a_client_that_goes_away_is_decoded_no_further(server, monkeypatch):
    """The service has nothing left to do long before the answer's end."""
    server, model = server
    server.options = server.options.replace(max_new_tokens=63)
    step, gate, steps = model.backend.step, threading.Semaphore(1), []

    def gated(*arguments):
        assert gate.acquire(timeout=SECONDS)
        steps.append(1)
        return step(*arguments)

    monkeypatch.setattr(model.backend, "step", gated)
    cancelled = threading.Event()
    reply_of = server.service.submit

    def watched(request):
        reply = reply_of(request)
        cancel = reply.cancel
        reply.cancel = lambda: (cancel(), cancelled.set())
        return reply

    monkeypatch.setattr(server.service, "submit", watched)
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=SECONDS)
    connection.request("POST", "/", b"w5 w6")
    connection.getresponse()
    connection.sock.close()
    connection.close()
    while not cancelled.wait(0.02):
        gate.release()
        assert len(steps) < 60
    gate.release(100)
    server.service.close(finish=True)
    assert len(steps) < 63


def tone(seconds, loudness=0.3):
    """Noise of that length and loudness."""
    rng = np.random.default_rng(0)
    return rng.uniform(-loudness, loudness, int(seconds * 16000)).astype(np.float32)


def test_commands_are_cut_at_pauses():
    """Each with a block before it; a hum is none, and one without an end is cut in two."""
    voice = example("voice_commands")
    silence = np.zeros(16000, np.float32)
    sound = np.concatenate([silence, tone(0.5), silence, tone(2, 0.005), tone(1), silence])
    pcm = (sound * 32767).astype("<i2").tobytes()
    lengths = [len(said) / 16000 for said in voice.utterances(voice.blocks_of(io.BytesIO(pcm)))]
    assert lengths == pytest.approx([0.1 + 0.5 + 0.6, 0.1 + 1 + 0.6])
    endless = list(voice.utterances([tone(0.1)] * 400))
    assert len(endless) == 1
    assert len(endless[0]) < 30 * 16000


def test_commands_are_known_though_misheard():
    """Case, marks and a wrong letter do not matter; other sentences are no commands."""
    closest = example("voice_commands").closest
    commands = ["turn on the light", "turn off the light"]
    assert closest(" Turn on the Lights!", commands) == "turn on the light"
    assert closest("turn of the light", commands) == "turn off the light"
    assert closest("what a fine day", commands) is None
    assert closest("", commands) is None


def test_what_is_said_is_done(speaking, tmp_path, capsys):
    """From a WAVE file of another rate to the command; what is no command is told."""
    voice = example("voice_commands")
    model = seq2edge.load(
        speaking("whisper", max_source_positions=1500, num_mel_bins=80), device="cpu", threads=1
    )
    file = tmp_path / "said.wav"
    silence = np.zeros(8000, np.float32)
    sound = np.concatenate([silence, tone(0.5), silence, tone(0.3), silence])
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes((sound * 32767).astype("<i2").tobytes())
    voice.listen(model, voice.blocks_of_file(str(file)), {"turn on the light": lambda: None})
    heard = capsys.readouterr().err.splitlines()
    assert len(heard) == 2
    assert all(line.endswith(": no command") for line in heard)
    words = heard[0].split("'")[1]
    done = []
    voice.listen(model, voice.blocks_of_file(str(file)), {words: lambda: done.append(words)})
    assert done[0] == words
