"""The commands of encoder-only models: what they print, as lines and as JSON."""

from __future__ import annotations

import json
from unittest import mock

import pytest
from command_line import call
from eager_models import eager_model
from small_tokenizers import corpus

TEXTS = corpus("latin")[:4]


@pytest.fixture
def opened(tmp_path):
    """`opened(name, **changes)`: that model, which every command opens from now on."""
    patches = []

    def get(name, **changes):
        _, _, model = eager_model(tmp_path, name, "bert", **changes)
        patches.append(mock.patch("seq2edge.runtime.model.load", return_value=model))
        patches[-1].start()
        return model

    yield get
    for patch in patches:
        patch.stop()


def test_classify_takes_pairs(opened):
    """Two texts with a tab between; anything else is refused."""
    model = opened("bert")
    line = call("classify", "bundle", "--pairs", f"{TEXTS[0]}\t{TEXTS[1]}").stdout
    wanted = model.classify([(TEXTS[0], TEXTS[1])])[0]
    assert line == f"{wanted.label}\t{wanted.scores[wanted.label]:.4f}\n"
    result = call("classify", "bundle", "--pairs", "hello world")
    assert result.exit_code == 1
    assert "'hello world': 0 tabs, a pair has one between its texts" in result.stderr


def test_rerank_prints_the_best_first(opened, tmp_path):
    """Score and text, or JSON with the place of each; blank lines are no texts."""
    model = opened("bert", num_labels=1)
    (tmp_path / "texts").write_text("\n\n".join(TEXTS), encoding="utf-8")
    wanted = model.rerank("hello", TEXTS)
    result = call("rerank", "bundle", "hello", "-f", tmp_path / "texts", "--batch", 3)
    assert result.stdout.splitlines() == [f"{each.score:.4f}\t{each.text}" for each in wanted]
    result = call("rerank", "bundle", "hello", "-f", tmp_path / "texts", "--json", "--top", 1)
    values = json.loads(result.stdout)
    assert (values["text"], values["index"]) == (wanted[0].text, wanted[0].index)
    assert values["score"] == pytest.approx(wanted[0].score)
