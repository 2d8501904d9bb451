"""`make demo-chat`: SmolLM2-135M-Instruct from a GGUF file to an answer.

python examples/demo_chat.py ["What is the capital of France?"]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from weights import FetchError, fetch

BUNDLE = Path(__file__).resolve().parent.parent / ".cache" / "bundles" / "smollm2-135m"
QUESTION = "What is the capital of France?"


def main() -> None:
    """Export once, then answer."""
    import seq2edge

    if not BUNDLE.exists():
        from seq2edge.export.pipeline import export_checkpoint

        BUNDLE.parent.mkdir(parents=True, exist_ok=True)
        print("exporting SmolLM2-135M-Instruct ...", flush=True)
        export_checkpoint(fetch("smollm2-135m"), BUNDLE)
    model = seq2edge.load(BUNDLE, device="cpu")
    question = " ".join(sys.argv[1:]) or QUESTION
    begin = time.perf_counter()
    answer = model.chat(
        [{"role": "user", "content": question}],
        model.options.replace(max_new_tokens=64, max_length=None),
    )[0]
    seconds = time.perf_counter() - begin
    print(f"\nQ: {question}\nA: {answer.text.strip()}\n")
    print(f"{len(answer.ids)} tokens in {seconds:.1f} s, the question included ({model.reason})")


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"demo-chat: {error}")
