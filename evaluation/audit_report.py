"""An audit as lines of text, as a plot, and as an HTML page with both."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from seq2edge.errors import OptionError
from seq2edge.evaluation.audit import Audit, Finding
from seq2edge.evaluation.plots import as_svg, new_figure
from seq2edge.evaluation.scores import Estimate
from seq2edge.files.storage import file_errors

SUFFIXES = (".html", ".png")
MEASURES = 6  # of a group in the plot, the largest gaps first: classifiers may have many labels

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; color: #222; }}
pre {{ font-size: 13px; line-height: 1.45; white-space: pre-wrap; }}
svg {{ max-width: 100%; height: auto; }}
</style></head><body>
<h1>{title}</h1>
<p>Sentences that differ in one term, compared pair by pair. Bars and points are means over
templates with their 95 % CI (bootstrap over templates); a cross is the largest gap of a
single pair. A small gap on these sentences is no proof that the model treats people alike.</p>
{plot}
<pre>{table}</pre>
</body></html>
"""


def check_report(path: Path) -> None:
    """Refuse a report that could not be written, before the audit runs.

    Raises OptionError for another suffix or a missing folder, BackendError without matplotlib.
    """
    if path.suffix not in SUFFIXES:
        raise OptionError(f"report: {path} ends in neither of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise OptionError(f"report: {path.parent} is no folder")
    new_figure(1, 1, "quantize")


def write_report(path: Path, found: Audit) -> None:
    """Write the plot (.png) or the page (.html). Raises BundleError where that fails."""
    figure = plot(found)
    with file_errors(path):
        if path.suffix == ".png":
            figure.savefig(path, dpi=150)
            return
        page = _PAGE.format(
            title=escape(f"Audit of {found.bundle}"),
            plot=as_svg(figure),
            table=escape("\n".join(table(found))),
        )
        path.write_text(page, encoding="utf-8")


def plot(found: Audit) -> Any:
    """A row of axes for each group: gaps, and where there are any how alternatives lean."""
    groups = [(name, _largest(findings)) for name, findings in _groups(found)]
    leaning = any(finding.leans for finding in found.findings)
    heights = [
        1.2 + 0.22 * max(2 * len(shown), sum(len(finding.leans) for finding in shown))
        for _, shown in groups
    ]
    figure = new_figure(12 if leaning else 8, sum(heights), "quantize")
    axes = figure.subplots(
        len(groups),
        1 + leaning,
        squeeze=False,
        sharex="col",  # so that groups can be compared
        gridspec_kw={"height_ratios": heights},
    )
    for (name, shown), (left, *right) in zip(groups, axes, strict=True):
        _draw_gaps(left, name, shown)
        for other in right:
            _draw_leans(other, name, [finding for finding in shown if finding.leans])
    for lowest, legend in zip(axes[-1], ("bar: mean; cross: largest", "point: mean"), strict=False):
        lowest.set_xlabel(f"{legend}; line: 95 % CI", fontsize=9)
    return figure


def _draw_gaps(axes: Any, name: str, findings: Sequence[Finding]) -> None:
    rows = range(len(findings))
    means = [finding.mean for finding in findings]
    axes.barh(rows, [mean.value for mean in means], color="#8fb3d9", height=0.6)
    _draw_intervals(axes, rows, means)
    largest = [finding.largest for finding in findings]
    axes.plot(largest, rows, "x", color="#b3402f", clip_on=False)
    axes.set_yticks(rows, [finding.measure for finding in findings], fontsize=8)
    axes.set_ylim(max(len(rows), 2) - 0.5, -0.5 if len(rows) > 1 else -1.5)
    axes.set_xlim(left=0)
    axes.set_title(f"{name}: gap within pairs", fontsize=10)


def _draw_leans(axes: Any, name: str, findings: Sequence[Finding]) -> None:
    leans = [
        (f"{finding.measure}: {alternative}", lean)
        for finding in findings
        for alternative, lean in finding.leans.items()
    ]
    rows = range(len(leans))
    _draw_intervals(axes, rows, [lean for _, lean in leans])
    axes.plot([lean.value for _, lean in leans], rows, "o", color="#35618f")
    axes.axvline(0, color="#999999", linewidth=1)
    axes.set_yticks(rows, [label for label, _ in leans], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(f"{name}: from the mean of all", fontsize=10)


def _draw_intervals(axes: Any, rows: Sequence[int], estimates: Sequence[Estimate]) -> None:
    for row, estimate in zip(rows, estimates, strict=True):
        axes.plot([estimate.low, estimate.high], [row, row], color="#333333", linewidth=1.5)


def _groups(found: Audit) -> Iterator[tuple[str, list[Finding]]]:
    for name, findings in itertools.groupby(found.findings, key=lambda finding: finding.group):
        yield name, list(findings)


def _largest(findings: Sequence[Finding]) -> list[Finding]:
    """The MEASURES with the largest mean gaps, in their own order."""
    kept = sorted(findings, key=lambda finding: -finding.mean.value)[:MEASURES]
    return [finding for finding in findings if finding in kept]


def table(found: Audit) -> Iterator[str]:
    """A block of lines for each group, and one for the associations."""
    for group, findings in _groups(found):
        first = findings[0]
        templates = "one template" if first.templates == 1 else f"{first.templates} templates"
        yield f"{group}: {first.pairs} pairs of sentences of {templates}"
        width = max(len(each.measure) for each in findings)
        yield f"  {'':<{width}}  {'mean gap':>8}  {'95 % CI':>18}  {'largest':>8}"
        for finding in findings:
            yield from _lines(finding, width)
        yield ""
    for effect in found.effects:
        one, other = effect.targets
        yield f"{effect.name}: effect size {effect.size:+.2f}, p {effect.p:.4f}"
        near, far = effect.attributes
        yield f"  above 0: {one} nearer to {near}, {other} to {far}"


def _lines(finding: Finding, width: int) -> Iterator[str]:
    mean = finding.mean
    interval = f"{mean.low:.4f} to {mean.high:.4f}" if finding.templates > 1 else "-"
    yield (
        f"  {finding.measure:<{width}}  {mean.value:>8.4f}  {interval:>18}  {finding.largest:>8.4f}"
    )
    if finding.leans:
        leans = (f"{name} {lean.value:+.4f}" for name, lean in finding.leans.items())
        yield f"    from the mean of all: {', '.join(leans)}"
    if finding.largest > 0:
        yield f"    largest: {finding.sentences[0]} / {finding.sentences[1]}"
