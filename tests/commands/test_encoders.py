"""The commands of encoder-only models: what they print, as lines and as JSON."""

from __future__ import annotations

import codecs
import json
from unittest import mock

import pytest
from command_line import call
from eager_models import eager_model
from reranking import INSTRUCTION, card_ids, card_score, causal_reranker
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


def test_a_language_model_becomes_a_reranker(tmp_path):
    """Exported with the task alone: proven, inspected, and told what counts."""
    reference, tokenizer = causal_reranker(tmp_path / "checkpoint")
    result = call("export", tmp_path / "checkpoint", "-o", tmp_path / "bundle", "--task", "rerank")
    assert result.exit_code == 0, result.output
    assert "original: transformers" in result.stderr
    assert "Qwen3ForCausalLM answers within" in result.stderr
    summary = call("inspect", tmp_path / "bundle").stdout
    assert f'asked       by chat_template.jinja, instruction "{INSTRUCTION}"' in summary
    words = tokenizer.convert_tokens_to_ids(["yes", "no"])
    for instruction in (None, "Find contradictions."):
        more = ("--instruction", instruction) if instruction else ()
        line = call("rerank", tmp_path / "bundle", TEXTS[0], TEXTS[1], "--json", *more).stdout
        ids = card_ids(tokenizer, *TEXTS[:2], instruction or INSTRUCTION)
        wanted = card_score(reference, ids, *words)
        assert json.loads(line)["score"] == pytest.approx(wanted, abs=1e-5)
    (tmp_path / "asks.jinja").write_text("{{ messages }}")
    result = call(
        *("export", tmp_path / "checkpoint", "-o", tmp_path / "other", "--task", "rerank"),
        *("--template", tmp_path / "asks.jinja"),
    )
    assert "template: '{{ messages }}' is no chat template with the roles" in result.stderr


def test_tag_prints_a_line_an_entity(opened):
    """With an empty line behind each text; or one JSON object a text."""
    model = opened("bert-tokens")
    wanted = model.tag(TEXTS[:2], aggregation="first")
    lines = call("tag", "bundle", *TEXTS[:2], "--aggregation", "first").stdout.splitlines()
    assert [lines.index(""), lines[-1]] == [len(wanted[0]), ""]
    entity = wanted[0][0]
    label, score, *place = lines[0].split("\t")
    assert (label, score) == (entity.label, f"{entity.score:.4f}")
    text = TEXTS[0][entity.start : entity.end]
    assert place == [str(entity.start), str(entity.end), text]
    result = call("tag", "bundle", TEXTS[0], "--json", "--ignore", entity.label)
    found = json.loads(result.stdout)["entities"]
    kept = model.tag(TEXTS[:1], ignore=(entity.label,))[0]
    assert [each["word"] for each in found] == [each.word for each in kept]


def test_answer_reads_a_context_or_a_file(opened, tmp_path):
    """One of them; every option reaches the model."""
    model = opened("bert-span")
    context = "\n".join(TEXTS)
    (tmp_path / "context").write_text(context, encoding="utf-8")
    (tmp_path / "latin").write_bytes(b"w\xe9\n")
    options = ("--top", 3, "--longest", 4, "--may-be-empty", "--window", 30, "--overlap", 5)
    wanted = model.answer(
        "hello", context, top_k=3, longest=4, may_be_empty=True, window=30, overlap=5
    )
    result = call("answer", "bundle", "hello", "-f", tmp_path / "context", *options)
    assert result.stdout.splitlines() == [
        f"{each.score:.4f}\t{each.start}\t{each.end}\t{' '.join(each.text.split())}"
        for each in wanted
    ]
    values = json.loads(call("answer", "bundle", "hello", context, "--json").stdout)
    assert values["answers"][0]["text"] == model.answer("hello", context)[0].text
    assert call("answer", "bundle", "hello").exit_code == 2
    (tmp_path / "marked").write_bytes(codecs.BOM_UTF8 + context.encode())
    marked = call("answer", "bundle", "hello", "-f", tmp_path / "marked", *options)
    assert marked.stdout == call("answer", "bundle", "hello", context, *options).stdout
    result = call("answer", "bundle", "hello", "-f", tmp_path / "latin")
    assert result.exit_code == 1
    assert "latin: is no UTF-8" in result.stderr


def test_fill_prints_what_may_stand_in_a_mask(opened):
    """The best first, with an empty line behind each mask; or one JSON object a text."""
    model = opened("bert-masked")
    text = "hello [MASK] world [MASK]"
    wanted = model.fill(text, top_k=2)
    lines = call("fill", "bundle", text, "--top", 2).stdout.split("\n")
    assert [len(lines), lines[2], lines[5]] == [7, "", ""]
    assert lines[0] == f"{wanted[0][0].score:.4f}\t{wanted[0][0].token}\t{wanted[0][0].text}"
    values = json.loads(call("fill", "bundle", text, "--json").stdout)
    assert [len(mask) for mask in values["masks"]] == [5, 5]
    assert call("fill", "bundle", " ").stdout == "\n"
    assert json.loads(call("fill", "bundle", "", "--json").stdout) == {"input": "", "masks": []}
    result = call("fill", "bundle", "hello")
    assert "fill: 'hello' has no [MASK]; write it where a word is missing" in result.stderr
