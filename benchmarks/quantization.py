"""Every recipe on real weights: the README's table of quantized models.

Fetches Whisper tiny.en, SmolLM2-135M and MiniLM-L6 (pinned, see examples/weights.py), exports and
quantizes them, and prints each verdict.

    python benchmarks/quantization.py [--folder .cache/quantization] [--threads 2]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seq2edge.export.pipeline import export_checkpoint
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.quantize.recipes import RECIPES
from seq2edge.quantize.verdict import judge

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from weights import fetch

MODELS = ("whisper-tiny.en", "smollm2-135m", "minilm-l6")


def main() -> None:
    """Prepare what is missing, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".cache/quantization"))
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        source = given.folder / name
        export_checkpoint(fetch(name), source, overwrite=True)
        for recipe in RECIPES:
            small = quantize_bundle(
                source, given.folder / f"{name}-{recipe}", recipe, overwrite=True
            )
            verdict = judge(small.source, small.bundle, threads=given.threads)
            print(
                f"\n{name}, {recipe}: logits within {small.parity.max_relative:.1%} of the largest"
            )
            print("\n".join((*verdict.table(), verdict.sentence)))


if __name__ == "__main__":
    main()
