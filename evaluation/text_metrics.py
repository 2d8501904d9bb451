"""Metrics of texts against references: what each is made of, example by example.

An answer may have several references. Error rates count against the one with the fewest edits in
proportion to its own length (the first of equal ones), ROUGE takes the best, BLEU and chrF give all
of them to sacrebleu, and an exact answer equals any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import BackendError, InputError
from seq2edge.evaluation.examples import Example
from seq2edge.runtime.sequences import GeneratedText

Sums: TypeAlias = NDArray[np.float64]  # (sums of a metric,), added over examples
Measure: TypeAlias = Callable[
    [Sequence[GeneratedText], Sequence[Example]], Iterator[Sequence[float]]
]
Clean: TypeAlias = Callable[[str], str]


def measure_translation(name: str) -> Measure:
    """The statistics that sacrebleu adds up for "bleu" or "chrf".

    sacrebleu's public functions give scores alone, of whole corpora: a bootstrap would tokenize
    everything a thousand times. So this calls two of its private methods, here the one that counts
    and in `aggregate_translation` the one that scores counts; a test names them, for the day when a
    release has others.
    """

    def measure(
        answers: Sequence[GeneratedText], examples: Sequence[Example]
    ) -> Iterator[Sequence[float]]:
        scorer = _translation(name)
        for answer, example in zip(answers, examples, strict=True):
            references = [[text] for text in example.references]
            yield scorer._extract_corpus_statistics([answer.text], references)[0]  # noqa: SLF001

    return measure


def aggregate_translation(name: str) -> Callable[[Sums], float]:
    """The metric of added statistics."""

    def aggregate(total: Sums) -> float:
        counts = [int(x) for x in total]
        return float(_translation(name)._compute_score_from_stats(counts).score)  # noqa: SLF001

    return aggregate


def _translation(name: str) -> Any:
    module = library("sacrebleu.metrics", "quantize")
    return {"bleu": module.BLEU, "chrf": module.CHRF}[name]()


def measure_errors(unit: str, normalize: Clean | None = None) -> Measure:
    """Edits, and the length of the reference they were counted against.

    Units: "words" and "characters", without case and punctuation, or as `normalize` leaves the
    texts; "symbols", whatever stands between spaces, and "stressless", symbols without the digits
    of ARPAbet's stress. Where nothing is left of a reference, all that was said is an edit.
    """

    def measure(
        answers: Sequence[GeneratedText], examples: Sequence[Example]
    ) -> Iterator[Sequence[float]]:
        jiwer = library("jiwer", "quantize")
        clean = _cleaner(unit, jiwer) if normalize is None else _spaced(normalize)
        process = jiwer.process_characters if unit == "characters" else jiwer.process_words
        for answer, example in zip(answers, examples, strict=True):
            said = clean(answer.text)
            counts = [
                _edits(process, clean, text, said, may_be_empty=normalize is not None)
                for text in example.references
            ]
            yield min(counts, key=lambda count: count[0] / max(1, count[1]))

    return measure


def _edits(
    process: Callable[..., Any], clean: Clean, reference: str, said: str, *, may_be_empty: bool
) -> tuple[int, int]:
    expected = clean(reference)
    if not expected and not (may_be_empty and plain(reference)):
        raise InputError(f"metric: the reference {reference!r} holds no words")
    if not expected:  # noise or a hesitation, by the rules
        return len(said if process.__name__ == "process_characters" else said.split()), 0
    counts = process(expected, said)
    edits = counts.substitutions + counts.deletions + counts.insertions
    return edits, counts.hits + counts.substitutions + counts.deletions


def _cleaner(unit: str, jiwer: ModuleType) -> Clean:
    if unit == "symbols":
        return plain
    if unit == "stressless":
        return stressless
    steps = [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces()]
    clean: Clean = jiwer.Compose([*steps, jiwer.Strip()])
    return clean


def _spaced(normalize: Clean) -> Clean:
    return lambda text: plain(normalize(text))


def plain(text: str) -> str:
    """The text with one space between its parts, and nothing else changed."""
    return " ".join(text.split())


def stressless(text: str) -> str:
    """Symbols without a last 0, 1 or 2 after a letter, ARPAbet's marks of stress."""
    return re.sub(r"(?<=[A-Za-z])[012](?!\S)", "", plain(text))


def measure_exact(clean: Clean) -> Measure:
    """Whether an answer is one of its references, after `clean`."""

    def measure(
        answers: Sequence[GeneratedText], examples: Sequence[Example]
    ) -> Iterator[Sequence[float]]:
        for answer, example in zip(answers, examples, strict=True):
            yield float(clean(answer.text) in map(clean, example.references)), 1.0

    return measure


def measure_rouge(name: str) -> Measure:
    """ROUGE's F-measure (Lin 2004), without stemming, as rouge-score computes it.

    "rougeL" takes the whole text as one sentence. The library reads nothing but Latin letters
    without accents and digits, so references without any are refused.
    """

    def measure(
        answers: Sequence[GeneratedText], examples: Sequence[Example]
    ) -> Iterator[Sequence[float]]:
        scoring = library("rouge_score.rouge_scorer", "train")
        scorer = scoring.RougeScorer([name], use_stemmer=False)
        for answer, example in zip(answers, examples, strict=True):
            for text in example.references:
                if not re.search("[a-z0-9]", text.lower()):
                    raise InputError(
                        f"metric: {name} reads a-z and 0-9 alone, the reference {text!r:.40} has "
                        "none; chrf reads any script"
                    )
            yield scorer.score_multi(example.references, answer.text)[name].fmeasure, 1.0

    return measure


def library(name: str, extra: str) -> ModuleType:
    """A metric's library. Raises BackendError naming the extra that has it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendError(f"metric: {error}; install seq2edge[{extra}]") from error
