"""`seq2edge serve` as a program: it is started, asked and ended."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager

import httpx
import openai
import pytest
from command_line import call

SECONDS = 30  # after which a test that hangs fails
SECRET = "w5 w6 w7"


@contextmanager
def started(*arguments):
    """The program, its address, and the list of lines it wrote so far."""
    command = [sys.executable, "-m", "seq2edge.cli", "serve", *map(str, arguments), "--port", "0"]
    program = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in program.stderr:
            lines.append(line)
            if '"listening"' in line:
                break
        yield program, json.loads(lines[-1])["url"], lines
    finally:
        program.kill()
        program.wait(SECONDS)
        program.stderr.close()


def test_a_bundle_is_served_until_a_signal(speaking):
    """The first answer with OpenAI's client; an end with 0; lines of JSON without texts."""
    bundle = speaking("bart")
    with started(bundle, "--alias", "opus=bundle", "--threads", 1) as (program, url, lines):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        answer = client.completions.create(model="opus", prompt=SECRET, max_tokens=5)
        assert answer.usage.completion_tokens == 5
        program.send_signal(signal.SIGTERM)
        lines.extend(program.stderr)
        assert program.wait(SECONDS) == 0
    records = [json.loads(line) for line in lines]
    request = next(record for record in records if record["message"] == "request")
    assert (request["route"], request["status"], request["model"]) == (
        "/v1/completions",
        200,
        "opus",
    )
    assert SECRET not in "".join(lines)


def test_a_folder_of_bundles_is_served_with_tls(speaking, tmp_path):
    """Each by its own name, to whoever trusts the certificate; and without a page, if so said."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small").symlink_to(speaking("bart"))
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", certificate, "-keyout", key),
        ],
        check=True,
        capture_output=True,
    )
    files = ("--certificate", certificate, "--certificate-key", key)
    with started("--models", tmp_path / "models", *files, "--no-page") as (_, url, _):
        trusted = ssl.create_default_context(cafile=certificate)
        assert url.startswith("https://127.0.0.1:")
        listed = httpx.get(f"{url}/v1/models", verify=trusted).json()["data"]
        assert [record["id"] for record in listed] == ["small"]
        assert httpx.get(url, verify=trusted).status_code == 404


def test_what_cannot_be_served_is_one_line(speaking, tmp_path):
    """What is missing, twice there, taken, or none."""
    bundle = speaking("bart")
    (tmp_path / "keys").write_text("short\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, message in (
            ([], "serve: no bundle; give one, or a folder of them by --models"),
            ([tmp_path], "manifest.json"),
            ([bundle, bundle], "serve: two bundles of one name"),
            ([bundle, "--alias", "x=y"], "alias x=y: needs a new name for one of bundle"),
            ([bundle, "--connections", 10**9], "need 2,000,000,384 open files, the system allows"),
            ([bundle, "--deadline", 0], "deadline: 0.0, needs more than 0"),
            ([bundle, "--keys", tmp_path / "keys"], "needs keys, one a line, of 16 characters"),
            ([bundle, "--certificate", tmp_path / "no"], "TLS needs its file and that of its key"),
            (
                [bundle, "--certificate", tmp_path / "no", "--certificate-key", tmp_path / "no"],
                "no certificate with this key",
            ),
            ([bundle, "--port", taken.getsockname()[1]], "cannot listen there: "),
        ):
            result = call("serve", *arguments)
            assert result.exit_code == 1, message
            assert result.stderr.count("\n") == 1
            assert message in result.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_server_for_others_without_keys_is_pointed_out(speaking, host, monkeypatch):
    """One that only this machine reaches is not."""
    monkeypatch.setattr("seq2edge.serve.server.run", lambda _: None)
    monkeypatch.setattr("seq2edge.serve.gates.write_logs", lambda: None)
    result = call("serve", speaking("bart"), "--host", host)
    assert result.exit_code == 0
    assert ("--keys asks for one" in result.stderr) == (host == "0.0.0.0")
