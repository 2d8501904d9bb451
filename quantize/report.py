"""A search as one HTML page: every trial, and plots of size, speed and the layers' errors.

The page needs nothing beside it: the plots are SVG inside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from seq2edge.evaluation.plots import as_svg, new_figure
from seq2edge.files.storage import file_errors
from seq2edge.quantize.benchmark import BATCHES
from seq2edge.quantize.search import Search, Trial
from seq2edge.quantize.sensitivity import LayerError

COLOURS = {"within": "#1b7f4d", "exceeded": "#b3402f", "float32": "#555555"}
LAYERS = 40  # bars in a plot of layers

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; color: #222; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
tr.chosen {{ background: #e6f4ec; font-weight: 600; }}
svg {{ max-width: 100%; height: auto; }}
</style></head><body>
<h1>{title}</h1>
<p>{sentence}</p>
<table>{rows}</table>
<p>Measured on {examples} examples; speeds are ratios to float32 in rounds that alternate. The
dashed line is the budget.</p>
{plots}
</body></html>
"""


def write_report(path: Path, search: Search, sentence: str, title: str) -> None:
    """Write the page. Raises BackendError where matplotlib is missing."""
    plots = [
        _plot("Size against quality", lambda axes: _scatter(axes, search, _megabytes, "size, MB")),
        _plot("Speed against quality", lambda axes: _scatter(axes, search, _speed, _SPEED)),
    ]
    plots += [
        _plot(f"Error of each layer, {recipe}", functools.partial(_bars, parts), len(parts))
        for recipe, parts in search.layers.items()
    ]
    page = _PAGE.format(
        title=escape(title),
        sentence=escape(sentence),
        rows=_rows(search),
        examples=search.examples,
        plots="".join(plots),
    )
    with file_errors(path):
        path.write_text(page, encoding="utf-8")


def _rows(search: Search) -> str:
    metric = escape(search.budget.metric)
    heads = ["", "size, MB", *(f"speed, batch {b}" for b in BATCHES), metric, "change"]
    heads += ["95 % CI", f"budget {search.budget}"]
    rows = ["<tr>" + "".join(f"<th>{escape(head)}</th>" for head in heads) + "</tr>"]
    cells = ["float32", f"{search.float_bytes / 1e6:.1f}", *("1.00x" for _ in BATCHES)]
    cells += [f"{search.float_quality.value:.2f}", "", "", ""]
    rows.append(_row("", cells))
    rows += [_row("chosen" if t is search.chosen else "", _cells(t)) for t in search.trials]
    return "".join(rows)


def _cells(trial: Trial) -> list[str]:
    change = trial.change
    return [
        trial.name,
        f"{trial.bytes / 1e6:.1f}",
        *(f"{trial.speedups[batch]:.2f}x" for batch in BATCHES),
        f"{trial.quality.value:.2f}",
        f"{change.value:+.2f}",
        f"{change.low:+.2f} to {change.high:+.2f}",
        "within" if trial.within else "exceeded",
    ]


def _row(kind: str, cells: Sequence[str]) -> str:
    return f'<tr class="{kind}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


_SPEED = "speed at batch 1, times float32"


def _megabytes(trial: Trial) -> float:
    return trial.bytes / 1e6


def _speed(trial: Trial) -> float:
    return trial.speedups[1]


def _scatter(axes: Any, search: Search, of: Callable[[Trial], float], label: str) -> None:
    first = search.float_bytes / 1e6 if of is _megabytes else 1.0
    points = [(first, search.float_quality.value, "float32", "float32")]
    points += [
        (of(t), t.quality.value, t.name, "within" if t.within else "exceeded")
        for t in search.trials
    ]
    for x, y, name, kind in points:
        axes.plot(x, y, "o", color=COLOURS[kind])
        axes.annotate(name, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)
    allowed = search.budget.limit(search.float_quality)
    axes.axhline(allowed, color="#999999", linestyle="--", linewidth=1)
    axes.set_xlabel(label)
    axes.set_ylabel(search.budget.metric)
    axes.margins(0.15)


def _bars(parts: Sequence[LayerError], axes: Any) -> None:
    shown = parts[:LAYERS]
    names = [part.layer for part in shown]
    axes.barh(names, [part.error for part in shown], color="#35618f")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("divergence of the next token (nats), or squared error, quantized alone")


def _plot(title: str, draw: Callable[[Any], None], bars: int = 0) -> str:
    """A heading and the plot as SVG."""
    height = 4.5 if not bars else 1.2 + 0.2 * min(bars, LAYERS)
    figure = new_figure(8, height, "quantize")
    draw(figure.subplots())
    return f"<h2>{escape(title)}</h2>{as_svg(figure)}"
