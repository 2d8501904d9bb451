"""`make demo`: the shipped model, from checkpoint to phonemes, with what each stage cost.

The model turns English words into ARPAbet phonemes (examples/g2p). The words below were held out of
its training, as were all those that its errors are counted on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from stages import Stages, megabytes

HERE = Path(__file__).resolve().parent
CHECKPOINT, TEST = HERE / "g2p" / "model", HERE / "g2p" / "test.jsonl"
BUNDLE = HERE.parent / ".cache" / "bundles" / "g2p"
SHOWN, COUNTED = 12, 500


def main() -> None:
    """See the module."""
    console, stages = Console(), Stages("words to phonemes, CPU, float32")
    from seq2edge.export.pipeline import export_checkpoint

    BUNDLE.parent.mkdir(parents=True, exist_ok=True)
    report = export_checkpoint(CHECKPOINT, BUNDLE, overwrite=True)
    worst = max(found.max_absolute for found in report.parity.values())
    stages.done("export", f"{megabytes(BUNDLE):.1f} MB ONNX, logits within {worst:.1e} of PyTorch")

    import seq2edge
    from seq2edge.bundle import Bundle
    from seq2edge.evaluation.examples import read_examples
    from seq2edge.evaluation.metrics import find_metric, score
    from seq2edge.runtime.backends.verification import verify_graphs

    outcomes = list(verify_graphs(Bundle.open(BUNDLE, hashes=True), device="cpu"))
    if not all(outcome.passed for _, outcome in outcomes):
        sys.exit("demo: the bundle does not verify")
    stages.done("verify", "; ".join(f"{t}: {o.summary.split(':')[0]}" for t, o in outcomes))

    model = seq2edge.load(BUNDLE, device="cpu")
    stages.done("load", model.reason)
    examples = read_examples(TEST, "generate")
    shown = examples[:: len(examples) // SHOWN][:SHOWN]
    answers = model.generate([str(example.input) for example in shown])
    beams = model.options.num_beams
    stages.done("decode", f"{len(shown)} words, beam search with {beams} beams")
    counted = examples[:: len(examples) // COUNTED][:COUNTED]
    errors = score(find_metric("per"), model, counted).estimate()
    stages.done("count errors", f"phoneme error {errors} % on {len(counted)} held-out words")

    table = Table("word", "phonemes", "dictionary", title="Held-out words")
    for example, found in zip(shown, answers, strict=True):
        right = found[0].text in example.references
        mark = "" if right else "  [bold red]differs[/bold red]"
        table.add_row(str(example.input), found[0].text + mark, " | ".join(example.references))
    console.print(table)
    console.print(stages.table)


if __name__ == "__main__":
    main()
