"""A real local Ray of two workers, by a Python that SEQ2EDGE_RAY_PYTHON names or by this one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import seq2edge
from seq2edge.errors import BackendError, OptionError
from seq2edge.serve import ray as ray_module
from seq2edge.serve.predictor import Predictor, refuse_files

RUNS = Path(__file__).resolve().parents[1] / "support" / "ray_runs.py"
PYTHON = os.environ.get("SEQ2EDGE_RAY_PYTHON")
HERE = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(
    not (PYTHON or HERE), reason="no ray here; SEQ2EDGE_RAY_PYTHON names a Python that has it"
)


@pytest.fixture
def run(speaking, tmp_path):
    """`run(name)`: what that run of ray_runs.py writes; and what the bundle answers."""
    bundle = str(speaking("bart"))
    rows = [{"text": f"w{5 + n % 80} w7", "id": n} for n in range(40)]
    (tmp_path / "in").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"load": {"device": "cpu", "threads": 1}, "decode": {"max_new_tokens": 8}}
    expected = Predictor(bundle=bundle, task="generate", **settings)(rows)

    def get(name):
        root = Path(seq2edge.__file__).resolve().parents[1]
        done = subprocess.run(
            [PYTHON or sys.executable, RUNS, name, bundle, tmp_path],
            env={**os.environ, "PYTHONPATH": str(root), "HOME": str(tmp_path)},
            capture_output=True, text=True, check=False, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "result.json").read_text()), expected

    return get


def texts(answers):
    """Ids and texts, without scores, whose last digits depend on what is decoded beside them."""
    return [(each["id"], [result["text"] for result in each["results"]]) for each in answers]


@needs_ray
def test_a_batch_outlives_a_killed_worker(run, tmp_path):
    """Another one takes its place: no line is lost or doubled; an error there is one here."""
    outcome, expected = run("batch")
    assert outcome.pop("failure").startswith("max_tokens: no such option")
    assert outcome == {"lines": 40, "errors": 0, "processes": 3}
    answers = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert texts(answers) == texts(expected)


@needs_ray
def test_two_replicas_answer_requests(run):
    """As the predictor does; what cannot be answered has status 400."""
    outcome, expected = run("serve")
    assert outcome["replicas"] == {"RUNNING": 2}
    assert outcome["statuses"] == {"200": 40, "400": 1}
    assert texts(outcome["answers"][:-1]) == texts(expected)
    assert outcome["answers"][-1] == {"error": "no: unknown key with the value 'text'"}


@pytest.mark.skipif(HERE, reason="ray is here")
def test_without_ray_its_extra_is_named():
    """On the command line it is one line."""
    with pytest.raises(BackendError, match=r"ray: not usable here .*; install seq2edge\[ray\]"):
        ray_module.application({})


def test_files_of_rows_are_opened_for_nobody_else():
    """Who sends a row to a server names no file of it."""
    with pytest.raises(OptionError, match="task: transcribe reads files that its rows name"):
        refuse_files(Predictor(bundle="bundle", task="transcribe"))
