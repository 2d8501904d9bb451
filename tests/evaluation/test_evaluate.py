"""Tables of metrics: by domain, beside a baseline, and refused where they would mislead."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path

import pytest

from seq2edge.errors import InputError, OptionError
from seq2edge.evaluation import evaluate as evaluation
from seq2edge.evaluation.answers import ModelRequest
from seq2edge.evaluation.evaluate import choose_metrics, evaluate, read_domains, table
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.metrics import METRICS
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sequences import GeneratedText


def model(task="generate", kind="encoder-decoder", mels=0, sha="a", suffix=""):
    """A stand-in that answers with its input and a suffix, and counts what it was asked."""
    found = types.SimpleNamespace(
        asked=[],
        dims=types.SimpleNamespace(
            kind=kind, mels=mels, task=task, reads_signal=bool(mels), image=None
        ),
    )
    tokenizer = types.SimpleNamespace(source="t")
    files = {"t": types.SimpleNamespace(sha256=sha)}
    manifest = types.SimpleNamespace(task=task, tokenizer=tokenizer, files=files, labels=())
    found.bundle = types.SimpleNamespace(path=Path(f"bundle{suffix}"), manifest=manifest)

    def generate_each(texts, options, *, rows, **languages):
        texts = list(texts)
        found.asked.append((texts, options, rows, languages))
        for text in texts:
            yield [GeneratedText(text=text + suffix, ids=(), score=0.0, finish_reason="stop")]

    found.options = DecodeOptions()
    found.generate_each = generate_each
    return found


def right(*texts):
    """Examples whose reference is the input."""
    return [Example(input=text, references=(text,)) for text in texts]


def test_files_are_domains_unless_their_lines_name_some(tmp_path):
    """One file without names is no domain; equal names are told apart by the folder."""
    news, talk = tmp_path / "news.tsv", tmp_path / "talk.jsonl"
    news.write_text("a\ta\nb\tb\n")
    talk.write_text('{"input": "c"}\n{"input": "d", "domain": "x"}')
    assert list(read_domains([news], "generate")) == [""]
    found = read_domains([news, talk], "generate")
    inputs = {name: [example.input for example in examples] for name, examples in found.items()}
    assert inputs == {"news": ["a", "b"], "talk": ["c"], "x": ["d"]}
    assert [len(part) for part in read_domains([news, talk], "generate", limit=1).values()] == [
        1,
        1,
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "news.txt").write_text("e")
    assert list(read_domains([news, tmp_path / "other" / "news.txt"], "generate")) == [
        str(news),
        str(tmp_path / "other" / "news.txt"),
    ]
    (tmp_path / "all.txt").write_text("e")
    with pytest.raises(InputError, match="domain: 'all' is what all together are called"):
        read_domains([news, tmp_path / "all.txt"], "generate")


def test_a_row_for_each_domain_and_one_for_all():
    """All is over examples, not over domains; metrics of the same answers ask once."""
    domains = {"good": right("a", "b", "c"), "bad": [Example(input="d", references=("x",))]}
    asked = model()
    metrics = [METRICS["exact"], METRICS["wer"]]
    parts = []
    rows = evaluate(asked, domains, metrics, progress=lambda *part: parts.append(part))
    found = [(row.domain, row.metric, row.value.value, row.examples) for row in rows]
    assert found == [
        ("good", "exact", 100, 3),
        ("good", "wer", 0, 3),
        ("bad", "exact", 0, 1),
        ("bad", "wer", 100, 1),
        ("all", "exact", 75, 4),
        ("all", "wer", 25, 4),
    ]
    assert [len(texts) for texts, *_ in asked.asked] == [3, 1]
    assert parts[-1] == ("answer", 1.0)
    assert rows[4].value.low < 75 < rows[4].value.high
    assert rows[4].seconds == pytest.approx(rows[0].seconds + rows[2].seconds)


def test_the_baseline_is_asked_in_its_own_way_on_the_same_examples():
    """And the change is this model's value minus the baseline's."""
    mine, other = model(suffix="!"), model(suffix=" more")
    requests = [ModelRequest(options=DecodeOptions(num_beams=n), batch=n) for n in (2, 3)]
    (row,) = evaluate(
        mine,
        {"": right("a b", "c d", "e f")},
        [METRICS["wer"]],
        requests[0],
        baseline=(other, requests[1]),
    )
    assert (row.value.value, row.baseline.value, row.change.value) == (0, 50, -50)
    assert (row.change.low, row.change.high) == (-50, -50)
    assert [(len(texts), rows) for texts, _, rows, _ in mine.asked] == [(3, 2 * 2)]  # two beams
    beams = [(len(texts), options.num_beams) for texts, options, *_ in other.asked]
    assert beams == [(3, 3)]


def test_a_baseline_does_the_same_over_the_same_tokens():
    """Anything else would give a number without meaning."""
    examples = {"": right("a")}
    with pytest.raises(InputError, match="made to classify, a baseline has to generate"):
        evaluate(model(), examples, [METRICS["wer"]], baseline=(model("classify"), ModelRequest()))
    with pytest.raises(InputError, match="another tokenizer, its perplexity is over other tokens"):
        evaluate(
            model(kind="decoder"),
            examples,
            [METRICS["perplexity"]],
            baseline=(model(kind="decoder", sha="b"), ModelRequest()),
        )


BEAMS = ModelRequest(options=DecodeOptions(num_beams=2))
SEVERAL = ModelRequest(options=DecodeOptions(num_beams=2, num_return_sequences=2))


@pytest.mark.parametrize(
    ("made", "names", "request_", "message"),
    [
        (model("classify"), [], BEAMS, "nothing is decoded for accuracy, f1, leave them out"),
        (model(kind="decoder"), ["perplexity"], BEAMS, "nothing is decoded for perplexity"),
        (model(), [], SEVERAL, "the best answer alone is judged, give 1"),
        (
            model("transcribe", mels=80),
            [],
            ModelRequest(target_language="de"),
            "write about a text",
        ),
        (model("classify"), [], ModelRequest(source_language="de"), "write about a text"),
        (model(), [], ModelRequest(language="en"), "of speech, this model reads text"),
        (model(), [], ModelRequest(task="translate"), "of speech, this model reads text"),
        (model(), ["exact", "f1"], ModelRequest(), "f1 is not for models made to generate"),
        (model("embed"), [], ModelRequest(), "bundle: made to embed, it has no metric here"),
    ],
)
def test_what_nothing_would_heed_is_refused(made, names, request_, message):
    """Before anything runs."""
    with pytest.raises((OptionError, InputError), match=message):
        choose_metrics(made, right("a"), names, request_)


def test_missing_references_are_told():
    """Where every usual metric needs them; perplexity needs none."""
    with pytest.raises(InputError, match="made to generate, its metrics need references"):
        choose_metrics(model(), [Example(input="a")], [], ModelRequest())
    found = choose_metrics(model(kind="decoder"), [Example(input="a")], [], ModelRequest())
    assert [metric.name for metric in found] == ["perplexity"]
    found = choose_metrics(model(), right("a"), ["wer", "exact", "wer"], BEAMS)
    assert [metric.name for metric in found] == ["wer", "exact"]


def test_the_table_has_a_column_for_what_there_is():
    """No domains where there is one, no baseline where there is none, and aligned."""
    rows = evaluate(model(), {"": right("a", "b")}, [METRICS["wer"], METRICS["exact"]])
    lines = list(table(rows))
    assert lines[0].split() == "metric value 95 % CI examples seconds examples/s".split()
    assert lines[1].split()[:5] == ["wer", "0.00", "0.00", "to", "0.00"]
    assert len({len(line) for line in lines}) == 1
    rows = evaluate(
        model(suffix=" x"), {"p": right("a"), "q": right("b")}, [METRICS["wer"]],
        baseline=(model(), ModelRequest()),
    )  # fmt: skip
    lines = list(table(rows))
    assert lines[0].split()[:4] == ["domain", "metric", "value", "95"]
    assert lines[1].split()[:6] == ["p", "wer", "100.00", "-", "0.00", "+100.00"]
    assert lines[3].split()[0] == "all"
    assert "+100.00 to +100.00" in lines[3]


def test_no_time_is_no_error():
    """On a clock too coarse to see it."""
    (row,) = evaluate(model(), {"": right("a")}, [METRICS["exact"]])
    assert list(table([dataclasses.replace(row, seconds=0.0)]))[1].endswith("inf")
    assert row.domain == evaluation.ALL
