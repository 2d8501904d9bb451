"""A search as one HTML page: every trial, and plots of size, speed and the layers' errors.

The page needs nothing beside it: the plots are SVG inside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seq2edge.evaluation import pages
from seq2edge.quantize.benchmark import BATCHES
from seq2edge.quantize.search import Search, Trial
from seq2edge.quantize.sensitivity import LayerError

COLOURS = {"within": "#1b7f4d", "exceeded": "#b3402f", "float32": "#555555"}
LAYERS = 40  # bars in a plot of layers


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
    parts = [
        pages.paragraph(sentence),
        _table(search),
        pages.paragraph(
            f"Measured on {search.examples} examples; speeds are ratios to float32 in rounds that "
            "alternate. The dashed line is the budget."
        ),
        *plots,
    ]
    pages.write_page(path, title, parts)


def _table(search: Search) -> str:
    """The float model, and every trial."""
    heads = ["", "size, MB", *(f"speed, batch {b}" for b in BATCHES)]
    heads += [search.budget.metric, "change", "95 % CI", f"budget {search.budget}"]
    cells = ["float32", f"{search.float_bytes / 1e6:.1f}", *("1.00x" for _ in BATCHES)]
    cells += [f"{search.float_quality.value:.2f}", "", "", ""]
    rows = [cells, *(_cells(trial) for trial in search.trials)]
    chosen = next((i for i, t in enumerate(search.trials, start=1) if t is search.chosen), None)
    return pages.table(heads, rows, chosen=chosen)


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
    for x, y, _, kind in points:
        axes.plot(x, y, "o", color=COLOURS[kind])
    allowed = search.budget.limit(search.float_quality)
    axes.axhline(allowed, color="#999999", linestyle="--", linewidth=1)
    axes.set_xlabel(label)
    axes.set_ylabel(search.budget.metric)
    axes.margins(0.2)
    axes.figure.draw_without_rendering()  # lays out: names are placed by pixels
    _name_points(axes, [(x, y, name) for x, y, name, _ in points])


def _name_points(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Names beside their points, each moved down until it lies on no other."""
    line, letter = 15, 7  # pixels at matplotlib's 100 a inch, for letters of 8 points
    placed: list[tuple[float, float, float]] = []  # left, right and height of names
    for x, y, name in sorted(points, key=lambda point: -point[1]):
        left, height = axes.transData.transform((x, y))
        right, shift = left + letter * len(name), 0
        while any(
            left < end and begin < right and abs(height - shift - other) < line
            for begin, end, other in placed
        ):
            shift += 1
        placed.append((left, right, height - shift))
        place = (6, 4 - shift * 72 / 100)
        axes.annotate(name, (x, y), xytext=place, textcoords="offset points", fontsize=8)


def _bars(parts: Sequence[LayerError], axes: Any) -> None:
    shown = parts[:LAYERS]
    names = [part.layer for part in shown]
    axes.barh(names, [part.error for part in shown], color="#35618f")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("quantized alone: divergence of the next token\n(nats), or squared error")


def _plot(title: str, draw: Callable[[Any], None], bars: int = 0) -> str:
    """A heading and the plot as SVG."""
    height = 3.4 if not bars else 1.2 + 0.2 * min(bars, LAYERS)
    figure = pages.new_figure(pages.WIDTH, height, "quantize")
    draw(figure.subplots())
    return pages.heading(title) + pages.plots([figure])
