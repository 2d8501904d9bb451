"""An audit as text, plot and page."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from seq2edge.errors import BackendError, OptionError
from seq2edge.evaluation.audit import Audit, Coverage, Effect, Finding
from seq2edge.evaluation.audit_report import (
    MEASURES,
    NOTHING,
    check_report,
    plot,
    table,
    write_report,
)
from seq2edge.evaluation.metrics import Estimate


def estimate(value):
    """A value with an interval around it."""
    return Estimate(value=value, low=value - 0.01, high=value + 0.01)


def finding(group, measure, mean, *, leans=True, templates=3):
    """A finding with a mean gap."""
    return Finding(
        group=group,
        measure=measure,
        mean=estimate(mean),
        largest=2 * mean,
        sentences=("A <cat>.", "A dog."),
        leans={"cat": estimate(0.02), "dog": estimate(-0.02)} if leans else {},
        templates=templates,
        pairs=12,
    )


EFFECT = Effect(name="words", targets=("x", "y"), attributes=("v", "w"), size=1.234, p=0.04)
WHOLE = (
    Coverage(group="pets", pairs=12, measured=12, same=()),
    Coverage(group="age", pairs=12, measured=12, same=()),
)
AUDIT = Audit(
    bundle="some & bundle",
    task="classify",
    measured=True,
    coverage=WHOLE,
    findings=(
        finding("pets", "score of good", 0.12),
        finding("pets", "label changes", 0.0, leans=False),
        finding("age", "score of good", 0.3, templates=1),
    ),
    effects=(EFFECT,),
)


def test_the_table_has_a_block_for_each_group():
    """The largest gap with its sentences, and which way each alternative leans."""
    assert list(table(AUDIT)) == [
        "pets: 12 pairs of sentences of 3 templates",
        "                 mean gap            95 % CI  largest",
        "  score of good    0.1200   0.1100 to 0.1300   0.2400",
        "    from the mean of all: cat +0.0200, dog -0.0200",
        "    largest: A <cat>. / A dog.",
        "  label changes    0.0000  -0.0100 to 0.0100   0.0000",
        "",
        "age: 12 pairs of sentences of one template",
        "                 mean gap  95 % CI  largest",
        "  score of good    0.3000        -   0.6000",
        "    from the mean of all: cat +0.0200, dog -0.0200",
        "    largest: A <cat>. / A dog.",
        "",
        "words: effect size +1.23, p 0.0400",
        "  above 0: x nearer to v, y to w",
    ]


BLIND = Audit(
    bundle="b",
    task="embed",
    measured=False,
    coverage=(
        Coverage(group="pets", pairs=4, measured=0, same=tuple((f"a{i}", "b") for i in range(7))),
    ),
    findings=(),
    effects=(
        Effect(
            name="words",
            targets=("x", "y"),
            attributes=("v", "w"),
            size=None,
            p=None,
            unknown=("q",),
        ),
    ),
)


def test_what_was_not_measured_is_no_gap(tmp_path):
    """In the text, on the page and in the picture: no 0 is printed for it."""
    assert list(table(BLIND)) == [
        "pets: nothing could be measured",
        "  not measured: 4 of 4 pairs, which the model reads as the same",
        "  its vocabulary knows neither term of: a0 / b, a1 / b, a2 / b, a3 / b, a4 / b, 2 more",
        "",
        "words: nothing could be measured, of a list no word is known",
        "  unknown to the vocabulary: q",
        NOTHING,
    ]
    write_report(tmp_path / "a.html", BLIND)
    page = (tmp_path / "a.html").read_text()
    assert NOTHING.replace("'", "&#x27;") in page
    assert "pets: nothing could be measured" in page
    assert "0.0000" not in page
    assert [text.get_text() for text in plot(BLIND).texts] == [NOTHING]
    part = (Coverage(group="pets", pairs=16, measured=12, same=(("a", "b"),)), WHOLE[1])
    lines = list(table(dataclasses.replace(AUDIT, coverage=part)))
    assert lines[6:8] == [
        "  not measured: 4 of 16 pairs, which the model reads as the same",
        "  its vocabulary knows neither term of: a / b",
    ]


def test_the_plot_shows_groups_beside_each_other():
    """Gaps left, leanings right where there are any; of many measures those that differ most."""
    titles = [axes.get_title() for axes in plot(AUDIT).axes]
    assert [title.split(":")[0] for title in titles] == ["pets", "pets", "age", "age"]
    many = tuple(finding("g", f"m{i}", 0.1 + i / 100, leans=False) for i in range(MEASURES + 2))
    whole = (Coverage(group="g", pairs=12, measured=12, same=()),)
    audited = Audit(bundle="b", task="embed", measured=True, coverage=whole, findings=many)
    (axes,) = plot(audited).axes
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [f"m{i}" for i in range(2, MEASURES + 2)]


def test_reports_are_pages_or_pictures(tmp_path):
    """What a bundle and sentences are called is text, never markup."""
    write_report(tmp_path / "a.html", AUDIT)
    page = (tmp_path / "a.html").read_text()
    assert page.count("<svg") == 4  # of two groups the gaps, and which way alternatives lean
    assert page.count("<table") == 2
    assert "<td>0.1100 to 0.1300</td>" in page
    assert "words: effect size +1.23, p 0.0400 above 0: x nearer to v, y to w" in page
    assert "Audit of some &amp; bundle" in page
    assert "A &lt;cat&gt;. / A dog." in page
    write_report(tmp_path / "a.png", AUDIT)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_reports_that_could_not_be_written_are_refused_first(tmp_path, monkeypatch):
    """Another suffix, no folder, no library."""
    check_report(tmp_path / "a.png")
    with pytest.raises(OptionError, match=r"report: .*a.pdf ends in neither of .html, .png"):
        check_report(tmp_path / "a.pdf")
    with pytest.raises(OptionError, match=r"report: .*none is no folder"):
        check_report(tmp_path / "none" / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match=r"install seq2edge\[quantize\]"):
        check_report(tmp_path / "a.png")
