"""Reports as HTML pages that need nothing beside them: sentences, tables, and plots as SVG.

They can be read on a phone: a table that is wider than the screen scrolls by itself, and plots are
WIDTH wide, so that their letters stay as large as the text. All text is escaped.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from seq2edge.errors import BackendError
from seq2edge.files.storage import file_errors

WIDTH = 5.4  # of a plot, inches

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1.5rem 1rem 3rem;
  max-width: 64rem; color: #222; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.5rem; line-height: 1.25; }}
h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }}
th, td {{ padding: .35rem .7rem; border-bottom: 1px solid #ddd; text-align: right;
  vertical-align: top; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
.text {{ text-align: left; white-space: normal; min-width: 12rem; }}
tr.chosen {{ background: #e6f4ec; font-weight: 600; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1rem; align-items: start; margin: 1rem 0; }}
svg {{ display: block; width: 100%; max-width: 40rem; height: auto; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write a page of these elements. Raises BundleError where that fails."""
    page = _PAGE.format(title=escape(title), body="\n".join(parts))
    with file_errors(path):
        path.write_text(page, encoding="utf-8")


def heading(text: str) -> str:
    """The title of a part."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Sentences."""
    return f"<p>{escape(text)}</p>"


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    sentences: Collection[int] = (),
    chosen: int | None = None,
) -> str:
    """Rows below their heads: names, then numbers; `sentences` are columns that hold words.

    The row `chosen` is marked.
    """

    def row(tag: str, cells: Sequence[str], kind: str = "") -> str:
        elements = [
            f"<{tag}{_class('text' if column in sentences else '')}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        ]
        return f"<tr{_class(kind)}>{''.join(elements)}</tr>"

    lines = [row("td", cells, "chosen" if i == chosen else "") for i, cells in enumerate(rows)]
    return f'<div class="wide"><table>{row("th", heads)}{"".join(lines)}</table></div>'


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def plots(figures: Iterable[Any]) -> str:
    """Matplotlib figures as SVG, beside each other where the screen is wide enough."""
    drawn = []
    for figure in figures:
        text = io.StringIO()
        figure.savefig(text, format="svg")
        drawn.append(text.getvalue()[text.getvalue().index("<svg") :])
    return f'<div class="plots">{"".join(drawn)}</div>'


def new_figure(width: float, height: float, extra: str) -> Any:
    """An empty matplotlib figure, inches, without a display.

    Raises BackendError naming the extra that has matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError(f"report: {error}; install seq2edge[{extra}]") from error
    return Figure(figsize=(width, height), layout="constrained")
