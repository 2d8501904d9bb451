from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from seq2edge.training import scaling
from seq2edge.training.scaling import Law
from seq2edge.training.sweep import Budget, Sweep, SweepRun, conclude
from seq2edge.training.sweep_report import draw, sentences, table


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Nine runs whose loss falls with the parameters alone."""
    monkeypatch.setattr(scaling, "REPEATS", 20)
    law = Law(floor=1.0, a=20, alpha=0.4, b=0.0, beta=0.3)
    return conclude(
        Budget(steps=100),
        [
            SweepRun(
                size=f"{width}x1",
                rows=rows,
                parameters=28 * width**2,
                all_parameters=30 * width**2,
                tokens=12 * rows,
                seen=100_000,
                steps=100,
                seconds=3,
                loss=law.loss(28 * width**2, 12 * rows),
                device="cpu",
            )
            for width, rows in itertools.product((8, 32, 128), (100, 1000, 10000))
        ],
    )


def test_table(found: Sweep) -> None:
    """Parameters stand without and with tables, tokens as different and as seen ones."""
    lines = table(found.runs).splitlines()
    assert len({len(line) for line in lines}) == 1
    first = "8x1 100 1,792 1,920 1,200 100,000 100 3"
    assert lines[1].split()[:-1] == first.split()


def test_sentences(found: Sweep) -> None:
    """The next doubling is told where the runs determine it, and that they do not elsewhere."""
    formula, intervals, doubling = sentences(found)
    assert formula.startswith("L = 0.999 + ")
    assert "beta not determined" in intervals
    assert "alpha 0.399" in intervals
    assert "from 128x1 with 10,000 rows" in doubling
    assert "twice the parameters would give 1.08" in doubling
    assert "do not determine what twice the tokens would give" in doubling
    assert "add amounts of data farther apart" in doubling


def test_counted(found: Sweep) -> None:
    """Tokens that a run was too short to read do not count."""
    assert [run.counted for run in found.runs[:3]] == [1200, 12000, 100_000]


def test_draw(found: Sweep, tmp_path: Path) -> None:
    """The plot is drawn with a law and without one."""
    draw(found, tmp_path / "a.png")
    draw(Sweep(budget=found.budget, runs=found.runs, fit=None, refused="few"), tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > (tmp_path / "b.png").stat().st_size > 5000
