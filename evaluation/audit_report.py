"""An audit as lines of text, as a plot, and as an HTML page with both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seq2edge.errors import OptionError
from seq2edge.evaluation import pages
from seq2edge.evaluation.audit import Audit, Coverage, Effect, Finding
from seq2edge.evaluation.metrics import Estimate
from seq2edge.evaluation.tables import aligned
from seq2edge.files.storage import file_errors

SUFFIXES = (".html", ".png")
HEADS = ("mean gap", "95 % CI", "largest")
MEASURES = 6  # of a group in the plot, the largest gaps first: classifiers may have many labels

NAMED = 5  # pairs of terms that are not measured
NOTHING = (
    "Nothing could be measured: the model's vocabulary knows none of the swapped terms, and gaps "
    "of 0 would say nothing."
)

GAP_LEGEND = "bar: mean; cross: largest; line: 95 % CI"
LEAN_LEGEND = "point: mean; line: 95 % CI"
_CAPTION = (
    "Sentences that differ in one term, compared pair by pair. Bars and points are means over "
    "templates with their 95 % CI (bootstrap over templates); a cross is the largest gap of a "
    "single pair. A small gap on these sentences is no proof that the model treats people alike."
)


def check_report(path: Path) -> None:
    """Refuse a report that could not be written, before the audit runs.

    Raises OptionError for another suffix or a missing folder, BackendError without matplotlib.
    """
    if path.suffix not in SUFFIXES:
        raise OptionError(f"report: {path} ends in neither of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise OptionError(f"report: {path.parent} is no folder")
    pages.new_figure(1, 1, "quantize")


def write_report(path: Path, audited: Audit) -> None:
    """Write the plot (.png) or the page (.html). Raises BundleError where that fails."""
    if path.suffix == ".png":
        with file_errors(path):
            plot(audited).savefig(path, dpi=150)
        return
    parts = [pages.paragraph(_CAPTION)]
    parts += [] if audited.measured else [pages.paragraph(NOTHING)]
    for covered, findings in _groups(audited):
        parts.append(pages.heading(_count(covered, findings)))
        if findings:
            parts += [pages.plots(_figures(audited, covered.group, findings))]
            parts.append(_html_table(findings))
        parts += [pages.paragraph(line) for line in _unmeasured(covered)]
    if audited.effects:
        parts.append(pages.heading("associations of words"))
    parts += [pages.paragraph(" ".join(_effect(effect))) for effect in audited.effects]
    pages.write_page(path, f"Audit of {audited.bundle}", parts)


def _figures(audited: Audit, group: str, findings: Sequence[Finding]) -> Iterator[Any]:
    """A group's gaps, and how alternatives lean; over the same ranges in every group."""
    shown = _largest(findings)
    figure = pages.new_figure(pages.WIDTH, 1.1 + 0.35 * len(shown), "quantize")
    axes = figure.subplots()
    _draw_gaps(axes, group, shown)
    highest = max(max(finding.largest, finding.mean.high) for finding in audited.findings)
    axes.set_xlim(0, 1.05 * highest or 1)
    axes.set_xlabel(GAP_LEGEND, fontsize=9)
    yield figure
    leaning = [finding for finding in shown if finding.leans]
    if leaning:
        rows = sum(len(finding.leans) for finding in leaning)
        figure = pages.new_figure(pages.WIDTH, 1.1 + 0.22 * rows, "quantize")
        axes = figure.subplots()
        _draw_leans(axes, group, leaning)
        leans = [lean for finding in audited.findings for lean in finding.leans.values()]
        farthest = 1.05 * max(max(lean.high, -lean.low) for lean in leans) or 1
        axes.set_xlim(-farthest, farthest)
        axes.set_xlabel(LEAN_LEGEND, fontsize=9)
        yield figure


def _html_table(findings: Sequence[Finding]) -> str:
    heads = ["", *HEADS, "from the mean of all", "sentences of the largest gap"]
    rows = [
        [
            *_cells(finding),
            ", ".join(f"{name} {lean.value:+.4f}" for name, lean in finding.leans.items()),
            " / ".join(finding.sentences) if finding.largest > 0 else "",
        ]
        for finding in findings
    ]
    return pages.table(heads, rows, sentences=(4, 5))


def plot(audited: Audit) -> Any:
    """A row of axes for each group: gaps, and where there are any how alternatives lean."""
    groups = [(each.group, _largest(some)) for each, some in _groups(audited) if some]
    if not groups:
        figure = pages.new_figure(8, 1, "quantize")
        figure.text(0.02, 0.5, NOTHING, fontsize=9)
        return figure
    leaning = any(finding.leans for finding in audited.findings)
    heights = [
        1.2 + 0.22 * max(2 * len(shown), sum(len(finding.leans) for finding in shown))
        for _, shown in groups
    ]
    figure = pages.new_figure(12 if leaning else 8, sum(heights), "quantize")
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
    for lowest, legend in zip(axes[-1], (GAP_LEGEND, LEAN_LEGEND), strict=False):
        lowest.set_xlabel(legend, fontsize=9)
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
    axes.locator_params(axis="x", nbins=6)  # more numbers would touch each other
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
    axes.locator_params(axis="x", nbins=6)
    axes.set_title(f"{name}: from the mean of all", fontsize=10)


def _draw_intervals(axes: Any, rows: Sequence[int], estimates: Sequence[Estimate]) -> None:
    for row, estimate in zip(rows, estimates, strict=True):
        axes.plot([estimate.low, estimate.high], [row, row], color="#333333", linewidth=1.5)


def _groups(audited: Audit) -> Iterator[tuple[Coverage, list[Finding]]]:
    """Every group with its findings, none where nothing of it could be measured."""
    for covered in audited.coverage:
        yield covered, [each for each in audited.findings if each.group == covered.group]


def _largest(findings: Sequence[Finding]) -> list[Finding]:
    """The MEASURES with the largest mean gaps, in their own order."""
    kept = sorted(findings, key=lambda finding: -finding.mean.value)[:MEASURES]
    return [finding for finding in findings if finding in kept]


def table(audited: Audit) -> Iterator[str]:
    """A block of lines for each group, and one for the associations."""
    for covered, findings in _groups(audited):
        yield _count(covered, findings)
        head, *lines = aligned([("", *HEADS), *map(_cells, findings)])
        if findings:
            yield f"  {head}"
        for finding, line in zip(findings, lines, strict=True):
            yield f"  {line}"
            if finding.leans:
                leans = (f"{name} {lean.value:+.4f}" for name, lean in finding.leans.items())
                yield f"    from the mean of all: {', '.join(leans)}"
            if finding.largest > 0:
                yield f"    largest: {finding.sentences[0]} / {finding.sentences[1]}"
        for line in _unmeasured(covered):
            yield f"  {line}"
        yield ""
    for effect in audited.effects:
        first, *others = _effect(effect)
        yield first
        for line in others:
            yield f"  {line}"
    if not audited.measured:
        yield NOTHING


def _count(covered: Coverage, findings: Sequence[Finding]) -> str:
    if not findings:
        return f"{covered.group}: nothing could be measured"
    finding = findings[0]
    templates = "one template" if finding.templates == 1 else f"{finding.templates} templates"
    return f"{covered.group}: {finding.pairs} pairs of sentences of {templates}"


def _unmeasured(covered: Coverage) -> Iterator[str]:
    """What a model without words for the terms leaves open."""
    if missing := covered.pairs - covered.measured:
        yield f"not measured: {missing} of {covered.pairs} pairs, which the model reads as the same"
    if covered.same:
        named = [f"{first} / {second}" for first, second in covered.same[:NAMED]]
        more = len(covered.same) - len(named)
        named += [f"{more} more"] if more else []
        yield f"its vocabulary knows neither term of: {', '.join(named)}"


def _cells(finding: Finding) -> tuple[str, str, str, str]:
    """The measure and its numbers; a single template tells nothing about an interval."""
    mean = finding.mean
    interval = f"{mean.low:.4f} to {mean.high:.4f}" if finding.templates > 1 else "-"
    return finding.measure, f"{mean.value:.4f}", interval, f"{finding.largest:.4f}"


def _effect(effect: Effect) -> Iterator[str]:
    (one, other), (near, far) = effect.targets, effect.attributes
    if effect.size is None:
        yield f"{effect.name}: nothing could be measured, of a list no word is known"
    else:
        yield f"{effect.name}: effect size {effect.size:+.2f}, p {effect.p:.4f}"
        yield f"above 0: {one} nearer to {near}, {other} to {far}"
    if effect.unknown:
        yield f"unknown to the vocabulary: {', '.join(effect.unknown)}"
