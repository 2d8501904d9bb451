"""`seq2edge eval` and `seq2edge audit`: what they print where, and how they fail."""

from __future__ import annotations

import json

import pytest
from command_line import call

import seq2edge


def test_eval_prints_a_table_on_stdout_and_the_rest_on_stderr(bundles, tmp_path):
    """With the model's own answers as references, nothing is wrong."""
    bundle = bundles("bart")
    model = seq2edge.load(bundle, device="cpu")
    texts = ["w5 w6", "w7 w8 w9", "w10"]
    options = model.options.replace(num_beams=2, max_new_tokens=4, max_length=None)
    answers = [found[0].text for found in model.generate(texts, options)]
    rows = [f"{text}\t{answer}" for text, answer in zip(texts, answers, strict=True)]
    (tmp_path / "a.tsv").write_text("\n".join(rows[:2]))
    (tmp_path / "b.tsv").write_text(rows[2])
    result = call(
        "eval", bundle, tmp_path / "a.tsv", tmp_path / "b.tsv", "--metric", "exact",
        "--num-beams", 2, "--max-new-tokens", 4, "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[:3] for line in lines[1:]] == [
        ["a", "exact", "100.00"],
        ["b", "exact", "100.00"],
        ["all", "exact", "100.00"],
    ]
    assert result.stderr.startswith("seq2edge: cpu: asked for\n")
    result = call("eval", bundle, tmp_path / "a.tsv", tmp_path / "b.tsv", "--no-per-domain")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["metric", "chrf", "bleu"]


def test_eval_as_json_beside_a_baseline(bundles, tmp_path):
    """A classifier against itself changes by nothing."""
    bundle = bundles("bert")
    labels = seq2edge.load(bundle, device="cpu").bundle.manifest.labels
    lines = [{"input": f"w{i} w{i + 1}", "references": labels[:2]} for i in range(5, 15)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = call(
        "eval", bundle, tmp_path / "x.jsonl", "--baseline", bundle, "--json", "--limit", 6
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["bundle"] == found["baseline"] == bundle
    assert [row["metric"] for row in found["rows"]] == ["accuracy", "f1"]
    assert all(row["change"]["value"] == 0 and row["examples"] == 6 for row in found["rows"])


@pytest.mark.parametrize(
    ("name", "text", "more", "message"),
    [
        ("bart", "w5\tw6", ["--metric", "f1"], "f1 is not for models made to generate"),
        ("bart", "w5\tw6", ["--metric", "x"], "metric: 'x' is unknown, known: chrf"),
        ("bart", "w5", [], "its metrics need references, give them"),
        ("bart", "", [], "x.tsv: holds no text"),
        ("bert", "w5\tLABEL_0", ["-b", "2"], "nothing is decoded for accuracy, f1"),
        ("bert", "w5\tgood", [], "the label 'good' is unknown, known: LABEL_0"),
    ],
)
def test_eval_fails_in_one_line(bundles, tmp_path, name, text, more, message):
    """Exit code 1, nothing on stdout, no traceback."""
    (tmp_path / "x.tsv").write_text(text)
    result = call("eval", bundles(name), tmp_path / "x.tsv", *more)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr.splitlines()[-1]


@pytest.fixture
def pairs(tmp_path):
    """Sentences that the tiny tokenizer knows."""
    path = tmp_path / "pairs.json"
    group = {
        "alternatives": ["a", "b"],
        "terms": [["w5", "w6"]],
        "templates": ["w7 {} w8", "w9 {} w9"],
    }
    lists = [["w5", "w7"], ["w6", "w8"]]
    words = {
        "name": "words",
        "targets": dict(zip("xy", lists, strict=True)),
        "attributes": dict(zip("vw", lists, strict=True)),
    }
    path.write_text(json.dumps({"groups": {"words": group}, "associations": [words]}))
    return path


@pytest.mark.parametrize(
    ("name", "measures"),
    [
        ("bert", ["label changes", "score of LABEL_0"]),
        ("bert-embedding", ["cosine distance", "words: effect size"]),
        ("bart", ["log-probability per output token", "output changes"]),
        ("gpt2", ["output changes", "log-likelihood per sentence token"]),
    ],
)
def test_audit_prints_the_gaps_of_every_kind_of_model(bundles, pairs, tmp_path, name, measures):
    """And writes the report; the rest goes to stderr."""
    more = ["--max-new-tokens", 4] if name in {"bart", "gpt2"} else []
    report = tmp_path / "report.html"
    result = call("audit", bundles(name), "--pairs", pairs, "--report", report, *more)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("words: 2 pairs of sentences of 2 templates\n")
    assert all(measure in result.stdout for measure in measures)
    assert f"report: {report}" in result.stderr
    assert "<svg" in report.read_text()
    result = call("audit", bundles(name), "--pairs", pairs, "--json", *more)
    found = json.loads(result.stdout)
    assert {finding["group"] for finding in found["findings"]} == {"words"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--pairs", "none.json"], "none.json: No such file or directory"),
        (["--report", "x.pdf"], "report: x.pdf ends in neither of .html, .png"),
        (["--max-new-tokens", 3], "made to classify, it takes no new tokens"),
    ],
)
def test_audit_fails_in_one_line(bundles, more, message):
    """Exit code 1, nothing on stdout."""
    result = call("audit", bundles("bert"), *more)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr.splitlines()[-1]
