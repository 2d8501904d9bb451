"""Pages that need nothing beside them, and text in them that stays text."""

from __future__ import annotations

import re

import pytest

from seq2edge.errors import BundleError
from seq2edge.evaluation import pages


def test_a_page_holds_everything_in_itself(tmp_path):
    """Titles, sentences and cells are escaped; nothing is fetched; a phone gets its own width."""
    figure = pages.new_figure(pages.WIDTH, 2, "quantize")
    figure.subplots().plot([1, 2], [3, 4])
    parts = [pages.heading("a < b"), pages.paragraph("x & y"), pages.plots([figure, figure])]
    pages.write_page(tmp_path / "page.html", "<title>", [*parts, pages.table(["<h>"], [["<c>"]])])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>&lt;title&gt;</title>" in page
    assert "<h2>a &lt; b</h2>" in page
    assert "<p>x &amp; y</p>" in page
    assert "<th>&lt;h&gt;</th>" in page
    assert "<td>&lt;c&gt;</td>" in page
    assert page.count("<svg") == 2
    assert 'name="viewport"' in page
    for outside in ("<script", "<link", "<img", 'href="http', "src=", "<pre"):
        assert outside not in page


def test_a_table_marks_a_row_and_columns_of_sentences():
    """Numbers end together by themselves; what wraps is said."""
    rows = [["a", "1", "some words"], ["b", "2", "more"]]
    table = pages.table(["", "n", "why"], rows, sentences=(2,), chosen=1)
    assert re.findall(r"<tr[^>]*>", table) == ["<tr>", "<tr>", '<tr class="chosen">']
    assert '<td>1</td><td class="text">some words</td>' in table


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    """With its path."""
    with pytest.raises(BundleError, match=r"none/page\.html"):
        pages.write_page(tmp_path / "none" / "page.html", "t", [])
