"""Columns of text below each other."""

from __future__ import annotations

from seq2edge.evaluation.tables import aligned


def test_names_begin_together_and_numbers_end_together():
    """As wide as the widest cell; no spaces at the ends of lines."""
    rows = [("name", "of", "value"), ("a", "bcd", "1.5"), ("long one", "e", "")]
    assert aligned(rows) == ["name       of  value", "a         bcd    1.5", "long one    e"]
    assert aligned(rows, left=2)[1] == "a         bcd    1.5"
    assert aligned(rows, left=2)[0] == "name      of   value"
    assert aligned([("1", "2"), ("10", "20")], left=0) == [" 1   2", "10  20"]
    assert aligned([]) == []
