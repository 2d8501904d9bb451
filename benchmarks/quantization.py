"""Every recipe on real weights: the table of docs/quantization.md.

Fetches Whisper tiny.en, SmolLM2-135M and MiniLM-L6 with examples (pinned, see examples/weights.py),
takes the phoneme model of examples/g2p, makes a random model of OPUS-MT's size, exports and
quantizes each by every recipe, and judges it as `seq2edge quantize` does. Examples to calibrate on
and to measure with are never the same.

    python benchmarks/quantization.py [--models whisper-tiny.en ...] [--write docs/quantization.md]
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from decode_speed import VOCAB, make_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from seq2edge.bundle import Bundle
from seq2edge.evaluation.examples import Example, read_examples
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.quantize.quantizer import Quantizer
from seq2edge.quantize.recipes import RECIPES, Options
from seq2edge.quantize.verdict import Verdict, judge

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from weights import fetch, prepare

PHONEMES = Path(__file__).resolve().parent.parent / "examples" / "g2p"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
HEAD = (
    "| model | recipe | for | size, MB | tokens/s, batch 1 | batch 8 | agreement | metric |\n"
    "|---|---|---|---|---|---|---|---|"
)
EXTRA = (("int8-static", Options(smoothing=0.5)), ("int8-weight", Options(int8_cache=True)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, what to calibrate on, what to measure with."""

    name: str
    checkpoint: Callable[[Path], Path]
    examples: Callable[[], tuple[list[Example], list[Example]]]
    metric: str | None = None  # by default the task's first


def _clips() -> tuple[list[Example], list[Example]]:
    """Five read sentences; fifty telephone prompts."""
    return tuple(read_examples(prepare(name), "transcribe") for name in ("librivox", "prompts"))


def _paragraphs() -> tuple[list[Example], list[Example]]:
    """The first and the second twenty paragraphs of the Debian FAQ."""
    texts = read_examples(prepare("paragraphs"), "generate")
    return texts[:20], texts[20:]


def _held_out_words() -> tuple[list[Example], list[Example]]:
    """Two hundred words, and six hundred others with their pronunciations."""
    words = read_examples(PHONEMES / "test.jsonl", "generate")
    return words[:200], words[200:800]


def _words() -> tuple[list[Example], list[Example]]:
    """Random words of a random model."""
    rows = np.random.default_rng(0).integers(3, VOCAB - 1, (40, 24))
    texts = [Example(input=" ".join(f"w{i}" for i in row)) for row in rows]
    return texts[:20], texts[20:]


def _opus(folder: Path) -> Path:
    """OPUS-MT's sizes, random weights, a word for every id."""
    checkpoint = make_model(folder / "opus-checkpoint")
    words = {f"w{i}": i for i in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A w0", special_tokens=[("w0", 0)]
    )
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    (checkpoint / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    return checkpoint


SUBJECTS = (
    Subject(
        name="Phonemes, shipped",
        checkpoint=lambda _: PHONEMES / "model",
        examples=_held_out_words,
        metric="per",
    ),
    Subject(
        name="OPUS-MT-sized, random",
        checkpoint=_opus,
        examples=_words,
    ),
    Subject(
        name="Whisper tiny.en",
        checkpoint=lambda _: fetch("whisper-tiny.en"),
        examples=_clips,
    ),
    Subject(
        name="SmolLM2-135M",
        checkpoint=lambda _: fetch("smollm2-135m"),
        examples=_paragraphs,
    ),
    Subject(
        name="MiniLM-L6",
        checkpoint=lambda _: fetch("minilm-l6"),
        examples=_paragraphs,
    ),
)


def main() -> None:
    """Measure, print every verdict, and write the table where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".cache/quantization"))
    parser.add_argument("--models", nargs="*", help="parts of names, all by default")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--targets", nargs="*", default=["onnxruntime", "tensorrt"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", type=Path, help="replace the table in this file")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for subject in SUBJECTS:
        if not arguments.models or any(part in subject.name for part in arguments.models):
            for row in measure(subject, arguments):
                rows.append(row)
                print(row, flush=True)
    note = (
        f"Made by `python benchmarks/quantization.py` on {time.strftime('%Y-%m-%d')}: "
        f"{_processor()}, {arguments.threads} threads, onnxruntime {onnxruntime.__version__}."
    )
    table = "\n".join((note, "", HEAD, *rows))
    if arguments.write:
        text = arguments.write.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        after = rest.split(END)[1]
        arguments.write.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def measure(subject: Subject, arguments: argparse.Namespace) -> Iterator[str]:
    """A row of the table for every recipe, target and set of options."""
    folder, threads = arguments.folder, arguments.threads
    path = folder / subject.name.split(",")[0]
    export_checkpoint(subject.checkpoint(folder), path, overwrite=True)
    calibration, evaluation = subject.examples()
    quantizer = Quantizer(path, calibration=calibration, threads=threads)
    first = True
    for name, options in (*((n, Options()) for n in arguments.recipes), *EXTRA):
        decodes = quantizer.bundle.manifest.dims.decoder is not None
        if name not in arguments.recipes or (options.int8_cache and not decodes):
            continue
        recipe = RECIPES[name]
        for target in recipe.targets:
            if target not in arguments.targets or (options.int8_cache and target == "tensorrt"):
                continue
            with tempfile.TemporaryDirectory() as temporary:
                report = quantizer.write(
                    folder / "small",
                    recipe,
                    target=target,
                    options=options,
                    emulation=Path(temporary) / "twin",
                    overwrite=True,
                )
                verdict = judge(
                    report.source,
                    report.bundle,
                    emulated=report.emulated,
                    examples=evaluation,
                    metric=subject.metric,
                    threads=threads,
                )
            if first:
                yield _float_row(subject.name, verdict)
                first = False
            yield _row(subject.name, _label(name, options), target, report.bundle, verdict)


def _label(name: str, options: Options) -> str:
    if options.smoothing:
        name += f", smoothing {options.smoothing:g}"
    return f"{name}, int8 cache" if options.int8_cache else name


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f}" if size >= 20e6 else f"{size / 1e6:.1f}"


def _float_row(name: str, verdict: Verdict) -> str:
    rates = verdict.float32.rates
    quality = verdict.quality
    metric = f"{quality.metric} {quality.float32.value:.2f}" if quality else "-"
    size = _megabytes(verdict.float32.bytes)
    return _line(name, "float32", "onnxruntime", size, rates, "-", metric)


def _row(name: str, recipe: str, target: str, bundle: Bundle, verdict: Verdict) -> str:
    quality, metric = verdict.quality, "-"
    if quality is not None:
        change = quality.change
        metric = (
            f"{quality.metric} {quality.quantized.value:.2f} "
            f"({change.value:+.2f}; {change.low:+.2f} to {change.high:+.2f})"
        )
    size = f"{_megabytes(bundle.size)} ({verdict.size_ratio:.2f}x)"
    rates, base = verdict.quantized.rates, verdict.float32.rates
    ratios = {b: f" ({rates[b] / base[b]:.2f}x)" for b in rates}
    return _line(name, recipe, target, size, rates, f"{verdict.agreement:.1%}", metric, ratios)


def _line(
    name: str,
    recipe: str,
    target: str,
    size: str,
    rates: dict[int, float],
    agreement: str,
    metric: str,
    ratios: dict[int, str] | None = None,
) -> str:
    speeds = [f"{rates[b]:.0f}{(ratios or {}).get(b, '')}" if rates else "-" for b in (1, 8)]
    return f"| {' | '.join((name, recipe, target, size, *speeds, agreement, metric))} |"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    kinds = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
    flags = [kind for kind in kinds if f" {kind}" in text]
    return f"{names[0] if names else platform.processor()} ({', '.join(flags)})"


if __name__ == "__main__":
    main()
