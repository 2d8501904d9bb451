"""Answer the lines of standard input: `python examples/embedding/script.py BUNDLE < FILE`."""

from __future__ import annotations

import sys

import seq2edge
from seq2edge.errors import Seq2EdgeError


def main(bundle: str) -> None:
    """A line of output for each line of input, in batches."""
    model = seq2edge.load(bundle)
    options = model.options.replace(max_new_tokens=40, max_length=None)
    texts = (line.strip() for line in sys.stdin)
    for answers in model.generate_each(texts, options):
        print(answers[0].text, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Seq2EdgeError as error:
        sys.exit(f"script: {error}")
