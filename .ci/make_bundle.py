"""Export tiny random models, make some smaller, and write down what they answer.

python .ci/make_bundle.py FOLDER    # makes five bundles and FOLDER/expected.json

Of the float translator the tokens are transformers' own, of the others those of the runtime here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import torch
import torch_free
from speaking import speaking_bundle
from transformers import BartForConditionalGeneration

import seq2edge

PROMPTS = [[5, 17, 40, 8], [12, 3, 33, 21, 60, 9, 70]]
MODELS = {"translator": "bart", "writer": "llama", "classifier": "bert"}
MODELS["embedder"] = "bert-embedding"
SMALLER = {"translator-int8": ("translator", "int8-weight")}
SMALLER["writer-int4"] = ("writer", "int4-weight")
CALLS = {  # bundle: the numbers of beams of its calls
    "translator": (1, 4),
    "translator-int8": (1, 4),
    "writer-int4": (1, 4),
    "classifier": (0,),
    "embedder": (0,),
}


def main() -> None:
    """See the module."""
    folder = Path(sys.argv[1])
    for name, model in MODELS.items():
        speaking_bundle(folder / "made" / name, model).rename(folder / name)
    for name, (source, recipe) in SMALLER.items():
        command = [sys.executable, "-m", "seq2edge.cli", "quantize", str(folder / source)]
        subprocess.run([*command, "-r", recipe, "-o", str(folder / name)], check=True)
    original = BartForConditionalGeneration.from_pretrained(folder / "made/translator/checkpoint")
    cases = []
    for name, numbers in CALLS.items():
        model = seq2edge.load(folder / name)
        for prompt in PROMPTS:
            for beams in numbers:
                case = {"bundle": name, "prompt": prompt, "beams": beams}
                if name == "translator":
                    ids = torch.tensor([prompt])
                    tokens = original.generate(ids, num_beams=beams, max_new_tokens=12)
                    case["answer"] = tokens[0, 1:].tolist()
                else:
                    case["answer"] = torch_free.answer(model, case)
                cases.append(case)
    (folder / "expected.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main()
