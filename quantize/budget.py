"""What a quantized model may lose: "bleu-0.3", "wer+0.5", "perplexity+2%", "agreement-5"."""

from __future__ import annotations

import dataclasses
import re

from seq2edge.errors import OptionError
from seq2edge.evaluation.metrics import AGREEMENT, Estimate, find_metric

_FORM = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*?)\s*([+-])\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much worse a metric may become: in its own units, or in percent of the float model's."""

    metric: str
    allowed: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget. Raises OptionError for another form, metric or direction."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise OptionError(
                f"budget: {text!r} is none, give a metric and what it may lose: "
                "bleu-0.3, wer+0.5, perplexity+2% or agreement-5"
            )
        name, sign, amount, percent = found.groups()
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
