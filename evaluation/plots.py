"""Plots without a display."""

from __future__ import annotations

import io
from typing import Any

from seq2edge.errors import BackendError


def new_figure(width: float, height: float, extra: str) -> Any:
    """An empty matplotlib figure, inches. Raises BackendError naming the extra that has it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError(f"report: {error}; install seq2edge[{extra}]") from error
    return Figure(figsize=(width, height), layout="constrained")


def as_svg(figure: Any) -> str:
    """The figure as an element of an HTML page."""
    text = io.StringIO()
    figure.savefig(text, format="svg")
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]
