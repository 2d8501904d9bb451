"""The commands that run a bundle: what they print where, and what they read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import call

import seq2edge


def test_text_is_needed_from_somewhere(bundles):
    """No text, no dash, no file: a usage error before the model is loaded."""
    result = call("run", bundles("bart"))
    assert result.exit_code == 2
    assert "give a text, - for standard input, or --file" in result.stderr
    assert "seq2edge: cpu" not in result.stderr


def test_run_prints_results_on_stdout_and_the_rest_on_stderr(bundles):
    """One line a text, so that it can be piped."""
    result = call("run", bundles("bart"), "w5 w6", "w7", "--device", "cpu")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    assert all(word.startswith("w") for word in result.stdout.split())
    assert result.stderr == "seq2edge: cpu: asked for\n"


def test_run_takes_lines_from_stdin_and_files(bundles, tmp_path):
    """Line n answers line n, blank ones too; batches make no difference."""
    lines = "w5 w6\n \nw7\nw8 w9 w10\n\n"
    (tmp_path / "lines.txt").write_text(lines)
    bundle = bundles("bart")
    arguments = ["w5 w6", "", "w7", "w8 w9 w10", ""]
    wanted = call("run", bundle, *arguments).stdout
    alone = [call("run", bundle, text).stdout for text in arguments]
    assert wanted == "".join(alone)
    assert [line == "" for line in wanted.splitlines()] == [False, True, False, False, True]
    two = call("run", bundle, "-b", 2, "-n", 2, "", "w7").stdout.splitlines()
    assert [line == "" for line in two] == [True, True, False, False]
    assert json.loads(call("run", bundle, "", "--json").stdout) == {"input": "", "results": []}
    assert call("run", bundle, "-", input=lines).stdout == wanted
    assert call("run", bundle, "-f", tmp_path / "lines.txt", "--batch", 1).stdout == wanted


def test_run_as_json_gives_ids_and_scores(bundles):
    """One object a text, with as many results as were asked for; every option reaches decoding."""
    result = call(
        "run", bundles("bart"), "w5 w6", "--json", "-b", 4, "-n", 3, "--max-new-tokens", 5,
        "--min-new-tokens", 2, "--length-penalty", 0.5, "--early-stopping", "never",
        "--no-repeat-ngram-size", 2, "--repetition-penalty", 1.2, "--capacity", 16, "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    model = seq2edge.load(bundles("bart"), device="cpu")
    options = model.options.replace(
        num_beams=4, num_return_sequences=3, max_new_tokens=5, max_length=None, min_new_tokens=2,
        length_penalty=0.5, early_stopping="never", no_repeat_ngram_size=2,
        repetition_penalty=1.2, capacity=16,
    )  # fmt: skip
    wanted = model.generate(["w5 w6"], options)[0]
    assert found["input"] == "w5 w6"
    assert [r["ids"] for r in found["results"]] == [list(t.ids) for t in wanted]
    assert [r["score"] for r in found["results"]] == pytest.approx([t.score for t in wanted])


def test_classify_and_embed(bundles):
    """Label and probability, or JSON."""
    line = call("classify", bundles("bert"), "w5 w6").stdout
    label, score = line.split("\t")
    values = json.loads(call("classify", bundles("bert"), "w5 w6", "--json").stdout)
    assert values["label"] == label
    assert values["scores"][label] == pytest.approx(float(score), abs=1e-4)
    values = json.loads(call("embed", bundles("bert-embedding"), "w5 w6").stdout)
    model = seq2edge.load(bundles("bert-embedding"))
    np.testing.assert_allclose(values["embedding"], model.embed(["w5 w6"])[0], atol=1e-6)
