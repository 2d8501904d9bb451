"""What the README says of serving: one command, and the first answer to OpenAI's client."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
HERE = "http://127.0.0.1:8000"
SECONDS = 60  # after which a test that hangs fails


def test_the_readmes_lines_give_an_answer(speaking, tmp_path):
    """Its command as a program of its own, but for the port, and its client as it stands."""
    text = README.read_text(encoding="utf-8")
    command = re.search(r"^seq2edge serve .*$", text, re.MULTILINE)[0]
    (client,) = re.findall(r"```python\n(import openai\n.*?)```", text, re.DOTALL)
    assert HERE in client
    (tmp_path / "model").symlink_to(speaking("bart"))
    words = [sys.executable, "-m", "seq2edge.cli", *shlex.split(command)[1:], "--port", "0"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = next(json.loads(line)["url"] for line in server.stderr if "listening" in line)
            words = [sys.executable, "-c", client.replace(HERE, url)]
            answer = subprocess.run(
                words, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        finally:
            server.kill()
    assert answer.returncode == 0, answer.stderr
    assert re.fullmatch(r"w\d+( w\d+)*\n", answer.stdout)
