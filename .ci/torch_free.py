"""Run a bundle where only the wheel and its `cpu` extra are installed, and compare the tokens.

python .ci/torch_free.py BUNDLE EXPECTED.json
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import seq2edge


def main() -> int:
    """Returns the exit code."""
    present = [n for n in ("torch", "transformers", "onnx") if importlib.util.find_spec(n)]
    if present:
        print(f"torch-free: {', '.join(present)} can be imported here, so this proves nothing")
        return 1
    model = seq2edge.load(sys.argv[1])
    for case in json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")):
        options = model.options.replace(num_beams=case["beams"], max_new_tokens=12, max_length=None)
        tokens = list(model.generate_ids([case["prompt"]], options)[0][0].ids)
        if tokens != case["ids"]:
            print(f"torch-free: {case} became {tokens}")
            return 1
    print(f"torch-free: Python {sys.version.split()[0]}, {model.reason}, tokens equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
