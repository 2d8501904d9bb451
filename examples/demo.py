"""`make demo`: real Whisper weights from checkpoint to text, with what each stage cost.

Fetches OpenAI's Whisper tiny.en (MIT), exports it, verifies the bundle, transcribes a recording
without torch's help, and compares the speed with the same model in eager PyTorch.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from weights import FetchError, fetch

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / ".cache" / "bundles" / "whisper-tiny.en"
CLIP = HERE / "librivox.wav"
ROUNDS = 3


class Stages:
    """Times the stages and collects the table."""

    def __init__(self) -> None:
        self.table = Table("stage", "seconds", "result", title="Whisper tiny.en, CPU, float32")
        self._begin = time.perf_counter()

    def done(self, stage: str, result: str) -> None:
        """One row: everything since the last one."""
        now = time.perf_counter()
        self.table.add_row(stage, f"{now - self._begin:.1f}", result)
        self._begin = time.perf_counter()


def main() -> None:
    """See the module."""
    console, stages = Console(), Stages()
    checkpoint = fetch("whisper-tiny.en")
    stages.done("fetch", f"{size(checkpoint):.0f} MB CTranslate2 folder, SHA-256 as pinned")

    from seq2edge.export.pipeline import export_checkpoint

    BUNDLE.parent.mkdir(parents=True, exist_ok=True)
    report = export_checkpoint(checkpoint, BUNDLE, overwrite=True)
    worst = max(found.max_absolute for found in report.parity.values())
    stages.done("export", f"{report.bundle.size / 1e6:.0f} MB ONNX, logits within {worst:.1e}")

    import seq2edge
    from seq2edge.bundle import Bundle
    from seq2edge.runtime.verification import verify_graphs

    outcomes = list(verify_graphs(Bundle.open(BUNDLE, hashes=True)))
    if not all(outcome.passed for _, outcome in outcomes):
        sys.exit("demo: the bundle does not verify")
    stages.done("verify", "; ".join(f"{t}: {o.summary.split(':')[0]}" for t, o in outcomes))

    model = seq2edge.load(BUNDLE, device="cpu")
    stages.done("load", model.reason)
    text = model.transcribe([CLIP])[0][0].text
    stages.done("transcribe", f"{CLIP.name}, 5.3 s of speech")
    ours, theirs = speeds(model, checkpoint)
    stages.done("compare", f"{ours:.0f} tokens/s, eager PyTorch {theirs:.0f}: {ours / theirs:.1f}x")
    console.print(f"\n{CLIP.name}: [bold]{text.strip()}[/bold]\n")
    console.print(stages.table)


def size(folder: Path) -> float:
    """Megabytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def speeds(model: object, checkpoint: Path) -> tuple[float, float]:
    """Decoder tokens per second of the bundle and of eager PyTorch: best of interleaved runs."""
    import numpy as np

    from seq2edge.model.eager import EagerBackend
    from seq2edge.model.load import load_checkpoint
    from seq2edge.runtime import audio
    from seq2edge.runtime.decoding import decode
    from seq2edge.runtime.model import Model

    assert isinstance(model, Model)
    features = audio.log_mel(audio.read_clip(CLIP), mels=model.dims.mels)[None]
    lengths = np.array([model.dims.frames // 2])
    options = model.options.replace(min_new_tokens=64, max_length=None)
    start = [(options.decoder_start_token_id or 0,)]
    rates = []
    backends = (model.backend, EagerBackend(load_checkpoint(checkpoint).model))
    memories = [backend.encode(features, lengths) for backend in backends]
    for _ in range(ROUNDS):
        row = []
        for backend, memory in zip(backends, memories, strict=True):
            begin = time.perf_counter()
            found = decode(backend, memory, start, options, max_new_tokens=64)
            row.append(len(found[0][0].ids) / (time.perf_counter() - begin))
        rates.append(row)
    best = np.max(rates, axis=0)
    return float(best[0]), float(best[1])


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"demo: {error}")
