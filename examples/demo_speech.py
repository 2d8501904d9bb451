"""`make demo-speech`: real Whisper weights from checkpoint to text, with what each stage cost.

Fetches OpenAI's Whisper tiny.en (MIT), exports it, verifies the bundle, transcribes a recording
without torch's help, and compares the speed with the same model in eager PyTorch.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from stages import Stages, megabytes
from weights import FetchError, fetch

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / ".cache" / "bundles" / "whisper-tiny.en"
CLIP = HERE / "librivox.wav"
ROUNDS = 3


def main() -> None:
    """See the module."""
    console, stages = Console(), Stages("Whisper tiny.en, CPU, float32")
    checkpoint = fetch("whisper-tiny.en")
    stages.done("fetch", f"{megabytes(checkpoint):.0f} MB CTranslate2 folder, SHA-256 as pinned")

    from seq2edge.export.pipeline import export_checkpoint

    BUNDLE.parent.mkdir(parents=True, exist_ok=True)
    report = export_checkpoint(checkpoint, BUNDLE, overwrite=True)
    worst = max(parity.max_absolute for parity in report.parity.values())
    stages.done("export", f"{report.bundle.size / 1e6:.0f} MB ONNX, logits within {worst:.1e}")

    import seq2edge
    from seq2edge.bundle import Bundle
    from seq2edge.runtime.backends.verification import verify_graphs

    outcomes = list(verify_graphs(Bundle.open(BUNDLE, hashes=True)))
    if not all(outcome.passed for _, outcome in outcomes):
        sys.exit("demo-speech: the bundle does not verify")
    stages.done("verify", "; ".join(f"{t}: {o.summary.split(':')[0]}" for t, o in outcomes))

    model = seq2edge.load(BUNDLE, device="cpu")
    stages.done("load", model.reason)
    text = model.transcribe([CLIP])[0][0].text
    stages.done("transcribe", f"{CLIP.name}, 5.3 s of speech")
    ours, theirs = speeds(model, checkpoint)
    stages.done("compare", f"{ours:.0f} tokens/s, eager PyTorch {theirs:.0f}: {ours / theirs:.1f}x")
    console.print(f"\n{CLIP.name}: [bold]{text.strip()}[/bold]\n")
    console.print(stages.table)


def speeds(model: object, checkpoint: Path) -> tuple[float, float]:
    """Tokens per second of the bundle and of eager PyTorch: best of interleaved runs."""
    import numpy as np

    from seq2edge.checkpoints.load import load_checkpoint
    from seq2edge.export.eager import EagerBackend
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.request import Request
    from seq2edge.runtime.scheduler import decode
    from seq2edge.runtime.sound import log_mel, recording

    assert isinstance(model, Model)
    features = log_mel.log_mel(recording.read_clip(CLIP), mels=model.dims.mels)
    options = model.options.replace(min_new_tokens=64, max_length=None)
    request = Request(
        prompt=model.start_tokens(options),
        source=features,
        positions=model.dims.frames // 2,
        options=options,
        max_new_tokens=64,
    )
    rates = []
    backends = (model.backend, EagerBackend(load_checkpoint(checkpoint).model))
    for _ in range(ROUNDS):
        row = []
        for backend in backends:
            begin = time.perf_counter()
            sequences = decode(backend, [request])
            row.append(len(sequences[0][0].ids) / (time.perf_counter() - begin))
        rates.append(row)
    best = np.max(rates, axis=0)
    return float(best[0]), float(best[1])


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"demo-speech: {error}")
