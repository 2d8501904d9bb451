"""Model repositories of Triton: what is in them, and what the real server answers with one."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import triton_server
from command_line import call

from seq2edge.errors import InputError, OptionError
from seq2edge.serve.predictor import Predictor
from seq2edge.serve.triton import TritonModel, export_triton

PYTHON = os.environ.get("SEQ2EDGE_TRITON_PYTHON")
OPTIONS = ("--task", "generate", "--batch", 4, "--threads", 1, "--max-new-tokens", 8)
LOAD = {"device": "cpu", "threads": 1}


@pytest.fixture
def repository(speaking, tmp_path):
    """A repository of the command line with one model, and the same as a predictor."""
    bundle = str(speaking("bart"))
    result = call("export-triton", bundle, "-o", tmp_path / "models", "--name", "small", *OPTIONS)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'models' / 'small'}\n"
    decode = {"max_new_tokens": 8, "max_length": None}
    return tmp_path / "models", Predictor(bundle=bundle, task="generate", load=LOAD, decode=decode)


def test_a_repository_says_how_requests_become_batches(repository):
    """A configuration that Triton reads, a line of Python, and the whole bundle."""
    folder, predictor = repository
    text = (folder / "small" / "config.pbtxt").read_text()
    for line in (
        'name: "small"',
        'backend: "python"',
        "max_batch_size: 4",
        "dynamic_batching { max_queue_delay_microseconds: 2000 }",
        "instance_group [ { kind: KIND_CPU count: 1 } ]",
    ):
        assert f"{line}\n" in text
    names = {path.name for path in (folder / "small" / "1" / "bundle").iterdir()}
    assert names == {path.name for path in type(folder)(predictor.bundle).iterdir()}
    code = (folder / "small" / "1" / "model.py").read_text()
    scope = {}
    exec(code, scope)
    assert scope["TritonPythonModel"] is TritonModel


def test_requests_are_answered_in_their_places(repository, monkeypatch):
    """Several rows a request, several requests a call; a row that fails is an answer too."""
    folder, predictor = repository
    fake = SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: request[name],
        Tensor=lambda name, values: (name, values),
        InferenceResponse=lambda output_tensors: output_tensors,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    model = TritonModel()
    settings = predictor.__getstate__() | {"bundle": "bundle"}
    config = {"parameters": {"predictor": {"string_value": json.dumps(settings)}}}
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(folder / "small"),
            "model_version": "1",
        }
    )
    rows = [[b'{"text": "w5", "id": 1}', b"{"], [b'{"text": "w6 w7"}']]
    tensors = [
        {"row": SimpleNamespace(as_numpy=lambda part=part: np.array(part, dtype=object)[:, None])}
        for part in rows
    ]
    responses = model.execute(tensors)
    expected = predictor([row for part in rows for row in part])
    answers = []
    for part, ((name, values),) in zip(rows, responses, strict=True):
        assert (name, values.shape) == ("answer", (len(part), 1))
        answers += [json.loads(line) for line in values.ravel()]
    assert [list(answer) for answer in answers] == [["results", "id"], ["error"], ["results"]]
    assert answers[1] == expected[1]
    assert answers[2]["results"][0]["text"] == expected[2]["results"][0]["text"]


def test_what_no_repository_can_be(tmp_path):
    """A name that is a path, recordings, a draft, which would be a second bundle."""
    with pytest.raises(InputError, match=r"name: '\.\./x' is no name of a folder"):
        export_triton(Predictor(bundle="bundle", task="tag"), tmp_path, "../x")
    with pytest.raises(OptionError, match="task: transcribe reads files"):
        export_triton(Predictor(bundle="bundle", task="transcribe"), tmp_path, "x")
    result = call("export-triton", "bundle", "-o", tmp_path, *OPTIONS, "--draft", "draft")
    assert result.exit_code == 2
    assert "--draft: a repository holds one bundle" in result.stderr


@pytest.mark.skipif(
    not PYTHON, reason="SEQ2EDGE_TRITON_PYTHON names no Python with nvidia-pytriton 0.7"
)
def test_the_real_server_answers_as_the_predictor(repository, tmp_path):
    """Over HTTP; requests that come together are answered together."""
    folder, predictor = repository
    rows = [{"text": f"w{5 + n % 80} w7", "id": n} for n in range(40)]
    lines = list(map(json.dumps, rows))
    with triton_server.triton(PYTHON, folder, tmp_path) as address:
        (broken,) = triton_server.infer(address, "small", ["{"])
        assert "not valid JSON" in broken["error"]
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(lambda line: triton_server.infer(address, "small", [line])[0], lines)
            )
        counts = triton_server.statistics(address, "small")
    for answer, expected in zip(answers, predictor(rows), strict=True):
        assert answer["id"] == expected["id"]
        assert answer["results"][0]["text"] == expected["results"][0]["text"]
    assert int(counts["inference_count"]) == 41
    assert int(counts["execution_count"]) < 41
