"""Export a tiny random model with the command line and write down the tokens that it gives.

python .ci/make_bundle.py FOLDER    # makes FOLDER/bundle and FOLDER/expected.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import tiny_models
import torch

PROMPTS = [[5, 17, 40, 8], [12, 3, 33, 21, 60, 9, 70]]


def main() -> None:
    """See the module."""
    folder = Path(sys.argv[1])
    model = tiny_models.save("marian", folder / "checkpoint")
    command = [sys.executable, "-m", "seq2edge.cli", "export", str(folder / "checkpoint")]
    subprocess.run([*command, "-o", str(folder / "bundle")], check=True)
    expected = []
    for prompt in PROMPTS:
        for beams in (1, 4):
            sequences = model.generate(torch.tensor([prompt]), num_beams=beams, max_new_tokens=12)
            expected.append({"prompt": prompt, "beams": beams, "ids": sequences[0, 1:].tolist()})
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
