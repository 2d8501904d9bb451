"""Finding the fastest recipe that loses no more than a budget allows, on this machine.

1. Every recipe is tried as it is: quality on the examples for evaluation, and speed in rounds that
   alternate with the float model's, so that a noisy machine disturbs both alike.
2. A recipe that loses too much, but would be faster than all that do not, is tried again with the
   layers that err most in higher precision (float32 instead of 8 bits, 8 instead of 4). Halving
   finds the fewest layers that do; with fewer of them it is taken to lose more.
3. Of the trials within the budget the fastest for one input at a time is chosen; among those as
   fast within the noise, the smallest.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seq2edge.bundle import Bundle, BundleWriter
from seq2edge.errors import OptionError
from seq2edge.evaluation.answers import ModelRequest
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.metrics import (
    AGREEMENT,
    Estimate,
    Metric,
    Scores,
    choose_metric,
    find_metric,
    score,
)
from seq2edge.evaluation.tables import aligned
from seq2edge.files.progress import Progress
from seq2edge.files.workspace import workspace
from seq2edge.quantize.benchmark import (
    BATCHES,
    Throughput,
    agreement_metric,
    measure_throughput,
    model_inputs,
)
from seq2edge.quantize.quantizer import QuantizationReport, Quantizer
from seq2edge.quantize.recipes import RECIPES, Options, QuantizedTarget, Recipe
from seq2edge.quantize.sensitivity import LayerError, measure_layers
from seq2edge.runtime.model import Model, load

NOISE = 0.95  # a speed of which the fastest is called as fast
TARGET: QuantizedTarget = "onnxruntime"  # whose graphs run here: speed is measured, never guessed

_BUDGET = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*?)\s*([+-])\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much worse a metric may become: in its own units, or in percent of the float model's.

    Written "bleu-0.3", "wer+0.5", "perplexity+2%", "agreement-5".
    """

    metric: str
    allowed: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget. Raises OptionError for another form, metric or direction."""
        match = _BUDGET.fullmatch(text)
        if match is None:
            raise OptionError(
                f"budget: {text!r} is none, give a metric and what it may lose: "
                "bleu-0.3, wer+0.5, perplexity+2% or agreement-5"
            )
        name, sign, amount, percent = match.groups()
        higher_is_better = name == AGREEMENT or find_metric(name).higher_is_better
        if (sign == "-") != higher_is_better:
            better = "larger" if higher_is_better else "smaller"
            raise OptionError(
                f"budget: {text!r}, but {better} values of {name} are better; "
                f"write {name}{'-' if higher_is_better else '+'}{amount}{percent}"
            )
        return cls(metric=name, allowed=float(amount), relative=bool(percent))

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better."""
        return self.metric == AGREEMENT or find_metric(self.metric).higher_is_better

    def holds(self, before: Estimate, change: Estimate) -> bool:
        """Whether the metric changed by no more than that; `before` is the float model's."""
        loss = -change.value if self.higher_is_better else change.value
        return loss <= self._amount(before)

    def limit(self, before: Estimate) -> float:
        """The worst value allowed."""
        return before.value + (-1 if self.higher_is_better else 1) * self._amount(before)

    def _amount(self, before: Estimate) -> float:
        return self.allowed * before.value / 100 if self.relative else self.allowed

    def __str__(self) -> str:
        sign, percent = "-" if self.higher_is_better else "+", "%" if self.relative else ""
        return f"{self.metric}{sign}{self.allowed:g}{percent}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One way to quantize, measured. `speedups` are over float32, by batch, in the same rounds.

    `higher_precision` are the layers with more bits than the recipe says.
    """

    recipe: str
    higher_precision: tuple[str, ...]
    options: Options
    bytes: int
    rates: Throughput
    speedups: Throughput
    quality: Estimate
    change: Estimate
    within: bool

    @property
    def name(self) -> str:
        """The recipe, and how many layers are in higher precision."""
        count = len(self.higher_precision)
        return f"{self.recipe}, {count} in higher precision" if count else self.recipe

    def values(self) -> dict[str, Any]:
        """All of it but the options, for JSON."""
        values = dataclasses.asdict(self)
        del values["options"]
        return {("finer" if key == "higher_precision" else key): v for key, v in values.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """All trials, the float model beside them, and what each layer's quantization alone does."""

    budget: Budget
    examples: int
    float_bytes: int
    float_quality: Estimate
    trials: tuple[Trial, ...]
    layers: dict[str, tuple[LayerError, ...]]
    chosen: Trial

    def values(self) -> dict[str, Any]:
        """All of it, for JSON."""
        trials = [{**trial.values(), "chosen": trial is self.chosen} for trial in self.trials]
        layers = {
            recipe: {part.layer: part.error for part in parts}
            for recipe, parts in self.layers.items()
        }
        return {"budget": str(self.budget), "trials": trials, "layers": layers}

    def table(self) -> list[str]:
        """Every trial as a line of text, the chosen one marked."""
        heads = ["", "", "MB", *(f"speed x{batch}" for batch in BATCHES)]
        rows = [[*heads, self.budget.metric, "change", str(self.budget)]]
        ones = ["1.00" for _ in BATCHES]
        size, quality = f"{self.float_bytes / 1e6:.1f}", f"{self.float_quality.value:.2f}"
        rows.append(["", "float32", size, *ones, quality, "", ""])
        rows += [
            [
                "*" if trial is self.chosen else "",
                trial.name,
                f"{trial.bytes / 1e6:.1f}",
                *(f"{trial.speedups[batch]:.2f}" for batch in BATCHES),
                f"{trial.quality.value:.2f}",
                f"{trial.change.value:+.2f}",
                "within" if trial.within else "exceeded",
            ]
            for trial in self.trials
        ]
        return aligned(rows, left=2)


def quantize_automatically(
    quantizer: Quantizer,
    destination: str | Path,
    budget: Budget,
    evaluation: Sequence[Example],
    *,
    options: Options = Options(),  # noqa: B008 - frozen
    language: str | None = None,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> tuple[QuantizationReport, Search]:
    """Search, and write the bundle that was chosen.

    The quantizer's examples calibrate and tell the layers' errors; `evaluation` is what the budget
    is about. Options hold for every recipe that heeds them. Raises OptionError where examples are
    missing, a metric is not the model's, or nothing stays within the budget, and BundleError where
    nothing can be written; then nothing is.
    """
    BundleWriter(destination, overwrite=overwrite).check_destination()
    if quantizer.decode_examples(lambda part: progress("decode examples", 0.1 * part)) is None:
        raise OptionError(
            "calibration: auto needs examples, the errors of layers are found on them"
        )
    if not evaluation:
        raise OptionError("evaluation: auto needs examples, the budget is about them")
    with workspace(Path(destination).absolute().parent) as folder:
        search = _Searcher(quantizer, budget, evaluation, options, folder, language, progress).run()
    report = quantizer.write(
        destination,
        RECIPES[search.chosen.recipe],
        target=TARGET,
        options=search.chosen.options,
        overwrite=overwrite,
        progress=lambda stage, part: progress(stage, 0.95 + 0.05 * part),
    )
    return report, search


class _Searcher:
    """The state of a search."""

    def __init__(
        self,
        quantizer: Quantizer,
        budget: Budget,
        evaluation: Sequence[Example],
        options: Options,
        folder: Path,
        language: str | None,
        progress: Progress,
    ) -> None:
        self.quantizer, self.budget, self.evaluation = quantizer, budget, evaluation
        self.options, self.folder = options, folder
        self.language, self.progress = language, progress
        self.model = self._load(quantizer.bundle)
        self.inputs = model_inputs(self.model, evaluation)
        self.metric = self._metric()
        self.float_scores = self._score(self.model)
        self.float_quality = self.float_scores.estimate()
        self.trials: list[Trial] = []
        self.layers: dict[str, tuple[LayerError, ...]] = {}

    def run(self) -> Search:
        recipes = [recipe for recipe in RECIPES.values() if TARGET in recipe.targets]
        for number, recipe in enumerate(recipes):
            self.progress(f"try {recipe.name}", 0.1 + 0.4 * number / len(recipes))
            self._try(recipe)
        exceeded = sorted(
            (trial for trial in self.trials if not trial.within), key=lambda t: -t.speedups[1]
        )
        for number, trial in enumerate(exceeded):
            if trial.speedups[1] > max((t.speedups[1] for t in self._within()), default=0.0):
                self._refine(RECIPES[trial.recipe], 0.5 + 0.45 * number / len(exceeded))
        chosen = self._choose()
        if chosen.recipe not in self.layers:
            self._measure_layers(RECIPES[chosen.recipe], 0.75)
        return Search(
            budget=self.budget,
            examples=len(self.evaluation),
            float_bytes=self.quantizer.bundle.size,
            float_quality=self.float_quality,
            trials=tuple(self.trials),
            layers=self.layers,
            chosen=chosen,
        )

    def _within(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.within]

    def _choose(self) -> Trial:
        fitting = self._within()
        if not fitting:
            worse = -1 if self.budget.higher_is_better else 1
            closest = min(self.trials, key=lambda trial: worse * trial.change.value)
            raise OptionError(
                f"budget: {self.budget} is not reached, the closest is {closest.name} with "
                f"{closest.change.value:+.2f}; allow more, or keep the float bundle"
            )
        fastest = max(trial.speedups[1] for trial in fitting)
        even = [trial for trial in fitting if trial.speedups[1] >= NOISE * fastest]
        return min(even, key=lambda trial: trial.bytes)

    def _refine(self, recipe: Recipe, start: float) -> None:
        """Find the fewest layers in higher precision with which it stays within the budget."""
        erring = [part for part in self._measure_layers(recipe, start) if part.error > 0]
        low, high = 0, len(erring)  # `low` layers are known to be too few
        while high - low > 1:
            middle = (low + high) // 2
            self.progress(f"{recipe.name}, {middle} in higher precision", start + 0.25)
            if self._try(recipe, erring[:middle]).within:
                high = middle
            else:
                low = middle

    def _measure_layers(self, recipe: Recipe, start: float) -> tuple[LayerError, ...]:
        def show(part: float) -> None:
            self.progress(f"layers, {recipe.name}", start + 0.2 * part)

        errors = measure_layers(self.quantizer, recipe, self._options(recipe), show)
        self.layers[recipe.name] = tuple(errors)
        return self.layers[recipe.name]

    def _options(self, recipe: Recipe) -> Options:
        """What the recipe heeds of the options."""
        return dataclasses.replace(
            self.options,
            ranges=self.options.ranges if recipe.inputs == "static" else "min-max",
            smoothing=self.options.smoothing if recipe.inputs else 0.0,
        )

    def _try(self, recipe: Recipe, higher_precision: Sequence[LayerError] = ()) -> Trial:
        """Quantize with those layers in higher precision, and measure quality and speed."""
        names = frozenset(name for part in higher_precision for name in part.weights)
        options = dataclasses.replace(self._options(recipe), higher_precision=names)
        report = self.quantizer.write(
            self.folder / "trial", recipe, target=TARGET, options=options, overwrite=True
        )
        model = self._load(report.bundle)
        scores = self._score(model)
        before, after = measure_throughput([self.model, model], self.inputs, self.language)
        change = scores.change_from(self.float_scores)
        trial = Trial(
            recipe=recipe.name,
            higher_precision=tuple(part.layer for part in higher_precision),
            options=options,
            bytes=report.bundle.size,
            rates=after,
            speedups={batch: after[batch] / before[batch] for batch in after},
            quality=scores.estimate(),
            change=change,
            within=self.budget.holds(self.float_quality, change),
        )
        self.trials.append(trial)
        return trial

    def _load(self, bundle: Bundle) -> Model:
        return load(bundle.path, device="cpu", threads=self.quantizer.threads)

    def _metric(self) -> Metric:
        if self.budget.metric == AGREEMENT:
            return agreement_metric(self.model, self.inputs, self.language)
        metric = choose_metric(self.model, self.evaluation, self.budget.metric)
        assert metric is not None
        return metric

    def _score(self, model: Model) -> Scores:
        return score(self.metric, model, self.evaluation, ModelRequest(language=self.language))
