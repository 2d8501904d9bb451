"""Run bundles where only the wheel and its `cpu` extra are installed, and compare the answers.

python .ci/torch_free.py FOLDER    # what make_bundle.py made
"""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from pathlib import Path
from typing import Any

import seq2edge

SCORES = 2e-5  # how far probabilities and unit vectors may lie apart


def answer(model: seq2edge.Model, case: dict[str, Any]) -> list[Any]:
    """Tokens of the best sequence, or the scores of an encoder."""
    task = model.bundle.manifest.task
    if task == "classify":
        return list(map(float, model.classify_ids([case["prompt"]])[0]))
    if task == "embed":
        return list(map(float, model.embed_ids([case["prompt"]])[0]))
    options = model.options.replace(num_beams=case["beams"], max_new_tokens=12, max_length=None)
    return list(model.generate_ids([case["prompt"]], options)[0][0].ids)


def same(found: list[Any], expected: list[Any]) -> bool:
    """Tokens are equal, scores are close."""
    if len(found) != len(expected) or isinstance(expected[0], int):
        return found == expected
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= SCORES


def main() -> int:
    """Returns the exit code."""
    present = [n for n in ("torch", "transformers", "onnx") if importlib.util.find_spec(n)]
    if present:
        print(f"torch-free: {', '.join(present)} can be imported here, so this proves nothing")
        return 1
    folder = Path(sys.argv[1])
    cases = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    for name in dict.fromkeys(case["bundle"] for case in cases):
        model = seq2edge.load(folder / name)
        for case in (case for case in cases if case["bundle"] == name):
            answered = answer(model, case)
            if not same(answered, case["answer"]):
                print(f"torch-free: {case} became {answered}")
                return 1
        print(f"torch-free: {name}: {model.reason}, answers equal")
    print(f"torch-free: Python {platform.python_version()} on {platform.machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
