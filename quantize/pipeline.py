"""A float bundle in, a quantized one and a verdict out: `seq2edge quantize` in Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seq2edge.errors import OptionError
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.metrics import METRICS, find_metric
from seq2edge.files.progress import Progress
from seq2edge.files.workspace import temporary_folder
from seq2edge.quantize.quantizer import QuantizationReport, Quantizer
from seq2edge.quantize.recipes import Options, RangeMethod, find_recipe, find_target
from seq2edge.quantize.report import write_report
from seq2edge.quantize.search import TARGET, Budget, Search, quantize_automatically
from seq2edge.quantize.verdict import Verdict, judge

AUTO = "auto"  # instead of a recipe: the fastest within a budget


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How to quantize, and what to judge by. Raises OptionError for what would not be heeded."""

    # One of `RECIPES`, or "auto": the fastest on this machine that stays within the budget.
    recipe: str
    # What the graphs are for: onnxruntime or tensorrt; by default the recipe's first.
    target: str | None = None
    # What auto may lose on the evaluation's examples: "bleu-0.3", "wer+0.5", "perplexity+2%".
    budget: str | None = None
    # The metric of the verdict, measured on the evaluation's examples; by default the task's first.
    metric: str | None = None
    # Where auto writes its HTML page; by default beside the bundle, with the ending .html.
    report: Path | None = None
    # How int8-static finds the range of products' inputs: min-max, percentile or entropy.
    ranges: RangeMethod = "min-max"
    # The share of inputs' outliers that moves to the weights (SmoothQuant); 0 to below 1.
    smoothing: float = 0.0
    # Keep the decoder's own keys and values in 8 bits.
    int8_cache: bool = False
    # Keep those in 8 bits that the decoder reads of the encoder.
    int8_memory: bool = False
    # Of the clips, for a multilingual speech model.
    language: str | None = None
    # Of the CPU; by default all cores.
    threads: int | None = None
    # Replace a bundle that is there already.
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.metric is not None:
            find_metric(self.metric)
        if self.recipe != AUTO:
            for name in ("budget", "report"):
                if getattr(self, name) is not None:
                    raise OptionError(f"{name}: is for the recipe auto, {self.recipe} has none")
            return
        if self.budget is None:
            raise OptionError("budget: auto needs one, such as wer+0.5")
        if self.target not in (None, TARGET):
            raise OptionError(
                f"target: auto measures speed here, where nothing for {self.target} runs; "
                "name a recipe"
            )

    def recipe_options(self) -> Options:
        """What is chosen beside the recipe. Raises OptionError for values that mean nothing."""
        return Options(
            ranges=self.ranges,
            smoothing=self.smoothing,
            int8_cache=self.int8_cache,
            int8_memory=self.int8_memory,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """What `run` made: the bundle, how far it is from the float one, and whether it pays here."""

    report: QuantizationReport  # the bundle, its parity, and weights that stayed float
    verdict: Verdict  # sizes (bytes), memory (bytes), load time (s), speed (tokens/s), quality
    search: Search | None = None  # of auto: every trial, and the errors of the layers
    page: Path | None = None  # of auto: the HTML page

    def values(self) -> dict[str, Any]:
        """The verdict with the rest, for JSON."""
        values = dataclasses.asdict(self.verdict)
        if self.search is not None:
            values |= {"search": self.search.values(), "report": str(self.page)}
        return values | {"bundle": str(self.report.bundle.path)}


def run(
    source: str | Path,
    destination: str | Path,
    options: QuantizeOptions,
    *,
    calibration: Sequence[Example] = (),
    evaluation: Sequence[Example] = (),
    progress: Progress = lambda *_: None,
) -> Quantized:
    """Quantize the float bundle `source` into a new folder, and judge both bundles here.

    `calibration` are examples that ranges are found on and weights are rounded for, `evaluation`
    those that the verdict is measured on (random input without), best with references;
    `seq2edge.evaluation.examples.read_examples` reads files of them. TensorRT's graphs do not run
    here: they are judged by emulation, without speed and memory.

        quantized = seq2edge.quantize.run("model", "small", QuantizeOptions(recipe="int8-weight"))
        quantized.verdict.sentence        # "int8-weight pays here: 3.8x smaller, ..."
        quantized.verdict.speedup(1)      # tokens/s over the float model's, one input at a time
        quantized.report.bundle.path

    Raises OptionError for a recipe, target, metric or budget that is unknown or does not go
    together, for examples that are missing or not used, and where nothing stays within the budget;
    InputError for examples that the model cannot read; BundleError for a source that is damaged,
    quantized already or without graphs, and for a destination that is taken; ExportError where the
    result answers no finite numbers; BackendError where a library is missing. Then nothing is
    written, but for a bundle whose verdict cannot be had.
    """
    if options.metric is not None and not evaluation:
        raise OptionError("metric: is measured on examples for evaluation, give some")
    if options.recipe == AUTO:
        return _run_search(source, destination, options, calibration, evaluation, progress)
    with temporary_folder() as folder:
        report = quantize_bundle(
            source,
            destination,
            options.recipe,
            target=options.target,
            options=options.recipe_options(),
            calibration=calibration,
            language=options.language,
            threads=options.threads,
            emulation=folder / "emulated",
            overwrite=options.overwrite,
            progress=progress,
        )
        progress("judge", 1.0)
        return Quantized(report=report, verdict=_judge(report, evaluation, options, options.metric))


def _run_search(
    source: str | Path,
    destination: str | Path,
    options: QuantizeOptions,
    calibration: Sequence[Example],
    evaluation: Sequence[Example],
    progress: Progress,
) -> Quantized:
    """Find the fastest within the budget, judge it, and write the page."""
    assert options.budget is not None
    budget = Budget.parse(options.budget)
    quantizer = Quantizer(
        source, calibration=calibration, language=options.language, threads=options.threads
    )
    report, search = quantize_automatically(
        quantizer,
        destination,
        budget,
        evaluation,
        options=options.recipe_options(),
        language=options.language,
        overwrite=options.overwrite,
        progress=progress,
    )
    progress("judge", 1.0)
    metric = options.metric or (budget.metric if budget.metric in METRICS else None)
    verdict = _judge(report, evaluation, options, metric)
    output = Path(destination)
    page = options.report or output.with_name(f"{output.name}.html")
    write_report(page, search, verdict.sentence, f"{output.name}: {budget}")
    return Quantized(report=report, verdict=verdict, search=search, page=page)


def _judge(
    report: QuantizationReport,
    evaluation: Sequence[Example],
    options: QuantizeOptions,
    metric: str | None,
) -> Verdict:
    return judge(
        report.source,
        report.bundle,
        emulated=report.emulated,
        examples=evaluation,
        metric=metric,
        language=options.language,
        threads=options.threads,
    )


def quantize_bundle(
    source: str | Path,
    destination: str | Path,
    recipe: str,
    *,
    target: str | None = None,
    options: Options = Options(),  # noqa: B008 - frozen
    calibration: Sequence[Example] = (),
    language: str | None = None,
    threads: int | None = None,
    emulation: Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> QuantizationReport:
    """Write a quantized copy of a float bundle, without a verdict; the source is only read.

    The copy holds the graphs for `target` (onnxruntime or tensorrt, by default the recipe's first)
    alone. With examples to calibrate on, weights are rounded for what their inputs are there, and
    what would overflow stays float32; `language` is a multilingual speech model's. TensorRT's
    graphs are measured by emulation, as a bundle that `emulation` keeps. Raises OptionError for an
    unknown recipe, target or pair of them, and for examples and options that are missing or not
    used, InputError for examples that the model cannot read, BundleError for a source that is
    damaged, quantized already or without graphs, and ExportError where the result answers no
    finite numbers.
    """
    chosen = find_recipe(recipe)
    aim = find_target(chosen, target)
    if calibration and not (chosen.takes_examples(aim) or options.needs_examples()):
        raise OptionError(f"calibration: {chosen.name} for {aim} uses none")
    quantizer = Quantizer(source, calibration=calibration, language=language, threads=threads)
    return quantizer.write(
        destination,
        chosen,
        target=aim,
        options=options,
        emulation=emulation,
        overwrite=overwrite,
        progress=progress,
    )
