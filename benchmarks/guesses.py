"""Prompt lookup on a task that copies: SmolLM2-135M repeats passages of Python's documentation.

    python benchmarks/guesses.py [--tokens 8] [--rounds 3]

For the float and the int8-weight bundle, rounds with and without guesses in turn: steps a token,
how many of the guesses were right, whether the tokens are the same, and the ratio of the times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics

import seq2edge
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.quantize.pipeline import quantize_bundle

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from weights import fetch

TOPICS = ("assert", "import", "lambda", "yield", "while", "class")
PASSAGE = 500  # characters
NEW_TOKENS = 128


def passages() -> list[str]:
    """The second to fourth paragraph of some topics, a line each."""
    texts = (" ".join(topics[name].split("\n\n")[2:5]) for name in TOPICS)
    return [" ".join(text.split())[:PASSAGE] for text in texts]


def compare(bundle: Path, most: int, rounds: int) -> str:
    """One line of the table."""
    model = seq2edge.load(bundle, device="cpu", threads=2)
    plain = model.options.replace(max_new_tokens=NEW_TOKENS, max_length=None)
    guessed = plain.replace(prompt_lookup_num_tokens=most)
    steps = tokens = right = guesses = same = 0
    ratios = []
    for text in passages():
        ask = f"Repeat this text word for word, and nothing else:\n\n{text}"
        ids = model.encode_chat([{"role": "user", "content": ask}])
        for _ in range(rounds):
            times, answers = [], []
            for options in (plain, guessed):
                begin = time.perf_counter()
                answers.append(model.generate_ids([ids], options)[0][0])
                times.append(time.perf_counter() - begin)
            ratios.append(times[0] / times[1])
        usage = answers[1].usage
        assert usage is not None
        steps, tokens = steps + usage.steps, tokens + len(answers[1].ids)
        right, guesses = right + usage.accepted_tokens, guesses + usage.guessed_tokens
        same += answers[0].ids == answers[1].ids
    return (
        f"{bundle.name}: {steps / tokens:.2f} steps a token, {right} of {guesses} guesses right, "
        f"{same} of {len(TOPICS)} answers the same, {statistics.median(ratios):.2f}x as fast "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    """Export, quantize, and measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=8, help="guessed at a time, at most")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (checkpoint,) = fetch("smollm2-135m").glob("*.gguf")
        export_checkpoint(checkpoint, folder / "float32")
        quantize_bundle(folder / "float32", folder / "int8-weight", "int8-weight")
        for bundle in ("float32", "int8-weight"):
            print(compare(folder / bundle, arguments.tokens, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
