"""What a sweep found: a table, sentences, a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seq2edge.evaluation.pages import new_figure
from seq2edge.evaluation.tables import aligned
from seq2edge.training.scaling import USEFUL, Fit, Interval
from seq2edge.training.sweep import Sweep, SweepRun

COLUMNS = ("size", "rows", "parameters", "and tables", "tokens", "seen", "steps", "seconds", "loss")

MARKERS = "osD^v<>p"  # hollow and different, since runs of one size often lie on each other
TITLE = r"points: runs; lines: $E + A / N^\alpha + B / D^\beta$, dashed beyond the runs"


def table(runs: Sequence[SweepRun]) -> str:
    """The runs, one a line; parameters without embeddings, and with them."""
    rows = [COLUMNS]
    for run in runs:
        counts = (run.rows, run.parameters, run.all_parameters, run.tokens, run.seen, run.steps)
        shown = [f"{count:,}" for count in (*counts, run.seconds)]
        rows.append((run.size, *shown, f"{run.loss:.4f}"))  # type: ignore[arg-type]
    return "\n".join(aligned(rows, left=0))


def sentences(sweep: Sweep) -> list[str]:
    """What the law says about the next doubling, and what it cannot say."""
    fit = sweep.fit
    if fit is None:
        return [f"no fit: {sweep.refused}"]
    law = fit.law
    formula = f"{law.floor:.3f} + {law.a:.3g} / N^{law.alpha:.3f} + {law.b:.3g} / D^{law.beta:.3f}"
    spread = f"E {fit.floor}, {_exponent('alpha', fit.alpha)}, {_exponent('beta', fit.beta)}"
    lines = [
        f"L = {formula} (N parameters without embeddings, D different tokens that were read)",
        f"{spread}: 90 % CI of bootstrap fits; the runs are off by {fit.error:.1%} (rms)",
    ]
    largest = max(sweep.runs, key=lambda run: (run.parameters, run.counted))
    here = fit.predict(largest.parameters, largest.counted)
    doubled = {
        "parameters": (fit.alpha, fit.predict(2 * largest.parameters, largest.counted)),
        "tokens": (fit.beta, fit.predict(largest.parameters, 2 * largest.counted)),
    }
    said = [_doubling(name, *pair) for name, pair in doubled.items()]
    return [*lines, f"from {largest.size} with {largest.rows:,} rows ({here.value:.3f}): "
            + "; ".join(said)]  # fmt: skip


def _exponent(name: str, interval: Interval) -> str:
    return f"{name} {interval}" if interval.known else f"{name} not determined"


def _doubling(name: str, exponent: Interval, loss: Interval) -> str:
    if exponent.known:
        return f"twice the {name} would give {loss}"
    return (
        f"these runs do not determine what twice the {name} would give (the exponent's interval "
        f"is wider than a factor of {USEFUL:.0f}, or it is not needed): "
        f"add {'sizes' if name == 'parameters' else 'amounts of data'} farther apart"
    )


def draw(sweep: Sweep, path: Path) -> None:
    """Loss against parameters for every amount of data, with the law.

    Raises BackendError without matplotlib.
    """
    figure = new_figure(7.5, 4.8, "train")
    from matplotlib import colormaps

    axes: Any = figure.subplots()
    amounts = sorted({run.rows for run in sweep.runs})
    for number, rows in enumerate(amounts):
        runs = sorted((r for r in sweep.runs if r.rows == rows), key=lambda run: run.parameters)
        colour = colormaps["viridis"](0.85 * (1 - number / max(1, len(amounts) - 1)))
        losses = [run.loss for run in runs]
        label = f"{rows:,} rows, {runs[-1].tokens:,} tokens"
        points, marker = [run.parameters for run in runs], MARKERS[number % len(MARKERS)]
        axes.plot(points, losses, marker, color=colour, mfc="none", mew=1.6, ms=7, label=label)
        if sweep.fit is not None:
            _draw_law(axes, sweep.fit, runs, colour)
    if sweep.fit is not None:
        _draw_floor(axes, sweep.fit.floor.value, [run.loss for run in sweep.runs])
    axes.set_xscale("log")
    axes.set_xlabel("parameters without embeddings")
    axes.set_ylabel("validation loss (nats a target token)")
    axes.set_title(TITLE, fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _draw_floor(axes: Any, floor: float, losses: Sequence[float]) -> None:
    """A line where it does not squeeze the runs together, else words."""
    near = floor > min(losses) - 0.6 * (max(losses) - min(losses))
    if near:
        axes.axhline(floor, color="grey", lw=0.8, ls=":")
    axes.annotate(
        f"E = {floor:.2f}" if near else f"E = {floor:.2f}, below",
        (0.99, floor if near else 0.01),
        xycoords=("axes fraction", "data" if near else "axes fraction"),
        ha="right",
        va="bottom",
        color="grey",
    )


def _draw_law(axes: Any, fit: Fit, runs: Sequence[SweepRun], colour: Any) -> None:
    """The law through one amount's runs, dashed beyond the largest model."""
    import numpy as np

    first, last = runs[0].parameters, runs[-1].parameters
    known = np.geomspace(first, last, 50)
    # Under one budget of operations a larger model reads fewer tokens.
    tokens = np.interp(
        np.log(known), np.log([r.parameters for r in runs]), [r.counted for r in runs]
    )
    within = [fit.law.loss(n, d) for n, d in zip(known, tokens, strict=True)]
    axes.plot(known, within, color=colour, lw=1.5)
    beyond = np.geomspace(last, 4 * last, 20)
    ahead = [fit.law.loss(n, runs[-1].counted) for n in beyond]
    axes.plot(beyond, ahead, color=colour, lw=1.2, ls="--")
