"""`make demo-translate`: Firefox's own English-Portuguese model, on this machine and offline.

Fetches the model, exports it with its lexical shortlist, makes it 8-bit, and translates sentences
of Debian's package descriptions. Where the index can be fetched, BLEU and chrF against the
Brazilian translators' sentences are printed for 60 of them.

    python examples/demo_translate.py ["How are you today?" ...]
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from rich.console import Console
from stages import Stages, megabytes
from weights import FetchError, fetch

BUNDLES = Path(__file__).resolve().parent.parent / ".cache" / "bundles"
SENTENCES = (
    "This package contains a small program that shows the weather.",
    "The children were playing in the garden when it began to rain.",
    "He was born in a small village near the river in 1923.",
)
COUNT = 60
SENTENCE = re.compile(r"[A-Z][^.!?:]{38,198}\.")


def pairs(count: int = COUNT) -> list[tuple[str, str]]:
    """Sentences of descriptions and their Brazilian translations, evenly spaced by package.

    One sentence on both sides, 40 to 200 characters in English, none twice, in the order of names.
    Raises FetchError where Debian's index cannot be had.
    """
    import debian

    known: dict[str, str] = {}
    for package in debian.packages():
        for text, translated in package.parallel("pt_BR"):
            one = re.fullmatch(r"[^.!?:]*\.", translated)
            if one and SENTENCE.fullmatch(text) and text != translated:
                known.setdefault(text, translated)
    listed = list(known.items())
    if len(listed) < count:
        raise FetchError(f"Debian's index: {len(listed)} sentences, needs {count}")
    return [listed[i * len(listed) // count] for i in range(count)]


def main() -> None:
    """See the module."""
    console, stages = Console(), Stages("Firefox en-pt, CPU, 8 bits")
    folder = fetch("firefox-en-pt")
    stages.done("fetch", f"{megabytes(folder):.0f} MB, SHA-256 as pinned")

    from seq2edge.export.pipeline import export_checkpoint
    from seq2edge.quantize.pipeline import quantize_bundle

    BUNDLES.mkdir(parents=True, exist_ok=True)
    report = export_checkpoint(folder, BUNDLES / "firefox-en-pt", overwrite=True)
    stages.done("export", f"{report.bundle.size / 1e6:.0f} MB ONNX, its answers proven equal")
    small = quantize_bundle(
        report.bundle.path, BUNDLES / "firefox-en-pt-int8", "int8-weight", overwrite=True
    )
    stages.done("quantize", f"{small.bundle.size / 1e6:.0f} MB")

    import seq2edge

    model = seq2edge.load(small.bundle.path, device="cpu")
    texts = sys.argv[1:] or SENTENCES
    begin = time.perf_counter()
    answers = [each[0].text for each in model.generate(texts)]
    seconds = time.perf_counter() - begin
    stages.done("translate", f"{len(texts)} sentences in {seconds:.2f} s")
    score(model, stages)
    for text, answer in zip(texts, answers, strict=True):
        console.print(f"{text}\n  [bold]{answer}[/bold]")
    console.print(stages.table)


def score(model: object, stages: Stages) -> None:
    """BLEU and chrF of the 60, if Debian's index can be fetched."""
    import sacrebleu

    try:
        sources, references = zip(*pairs(), strict=True)
    except FetchError as error:
        stages.done("measure", f"left out: {error}")
        return
    answers = [each[0].text for each in model.generate(sources)]  # type: ignore[attr-defined]
    bleu = sacrebleu.corpus_bleu(answers, [references]).score
    chrf = sacrebleu.corpus_chrf(answers, [references]).score
    stages.done("measure", f"{len(answers)} descriptions: BLEU {bleu:.1f}, chrF {chrf:.1f}")


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"demo-translate: {error}")
