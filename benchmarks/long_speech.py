"""Ten minutes of speech, silence and noise: ours against transformers and faster-whisper.

The recording is made of LibriVox sentences and telephone prompts with silence and noise between
them, in an order that the seed says. Parts, each by its name:

    tokens    exact mode without guards gives transformers' tokens (greedy, and beams with --beams)
    words     word errors of ours, exact and batched, of transformers and of faster-whisper
    invented  words that are heard in 60 s of silence and in 60 s of noise
    speed     rounds in turn: ours exact, ours batched, faster-whisper; peak memory of each process

    python benchmarks/long_speech.py BUNDLE CHECKPOINT --parts words speed --peer-python PYTHON

CHECKPOINT is the CTranslate2 folder that the bundle was made of (`examples/weights.py`); PYTHON
has faster-whisper. With `--device cuda` ours and transformers run there, transformers' speed too.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
# How transformers reads a long recording as ours does in exact mode, with nothing drawn.
EXACT = {
    "condition_on_prev_tokens": True,
    "temperature": 0.0,
    "logprob_threshold": -1.0,
    "compression_ratio_threshold": 1.35,
    "no_speech_threshold": 0.6,
}
ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tokens", "words", "invented", "speed")
# What the peer runs: reads a request a line, answers a line.
PEER = """
import json, resource, sys, time
from faster_whisper import BatchedInferencePipeline, WhisperModel
model = WhisperModel(sys.argv[1], device="cpu", compute_type=sys.argv[2],
                     cpu_threads=int(sys.argv[3]))
for line in sys.stdin:
    request = json.loads(line)
    run = model
    if request.pop("batched"):
        run = BatchedInferencePipeline(model)
    begin = time.perf_counter()
    segments, _ = run.transcribe(request.pop("file"), **request)
    texts = [segment.text for segment in segments]
    print(json.dumps({"text": "".join(texts), "seconds": time.perf_counter() - begin,
                      "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}), flush=True)
"""


def clips() -> list[tuple[NDArray[np.float32], str]]:
    """All sentences and prompts at 16 kHz, with what they say."""
    sys.path.insert(0, str(ROOT / "examples"))
    from weights import prepare

    from seq2edge.runtime.sound.recording import read_clip

    pairs = []
    for name in ("librivox", "prompts"):
        folder = prepare(name)
        for line in (folder / "transcripts.tsv").read_text(encoding="utf-8").splitlines():
            file, text = line.split("\t")
            pairs.append((read_clip(folder / f"{file}.wav"), text))
    return pairs


def recording(minutes: float, seed: int) -> tuple[NDArray[np.float32], str]:
    """Samples, and the words in them."""
    rng, pairs = np.random.default_rng(seed), clips()
    parts: list[NDArray[np.float32]] = []
    texts: list[str] = []
    length = 0
    while length < minutes * 60 * RATE:
        kind = rng.random()
        if kind < 0.8:
            samples, text = pairs[int(rng.integers(len(pairs)))]
            texts.append(text)
            parts += [samples, np.zeros(int(rng.uniform(0.2, 1.0) * RATE), np.float32)]
        else:
            seconds = rng.uniform(2, 20)
            level = 0.0 if kind < 0.9 else float(rng.uniform(0.002, 0.05))
            noise = level * rng.standard_normal(int(seconds * RATE))
            parts.append(noise.astype(np.float32))
        length = sum(map(len, parts))
    return np.concatenate(parts), " ".join(texts)


def words(text: str) -> list[str]:
    """Lower-case words, numerals and spellings as they stand."""
    return re.findall(r"[a-z0-9']+", text.lower().replace("-", " "))


def errors(text: str, reference: str) -> float:
    """Word errors in per cent of the reference's words."""
    heard, said = words(text), words(reference)
    row = np.arange(len(said) + 1)
    steps = np.arange(len(said) + 1)
    for word in heard:
        differs = np.array([word != other for other in said])
        new = np.concatenate(([row[0] + 1], np.minimum(row[1:] + 1, row[:-1] + differs)))
        row = np.minimum.accumulate(new - steps) + steps
    return 100 * float(row[-1]) / len(said)


def write_wav(file: Path, samples: NDArray[np.float32]) -> None:
    """16-bit PCM, from which all read."""
    with wave.open(str(file), "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(RATE)
        target.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


def peak() -> int:
    """KiB of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def searches(arguments: argparse.Namespace) -> list[int]:
    """Beams of the searches that are compared."""
    return [1, 5] if arguments.beams else [1]


class Original:
    """transformers' model of the checkpoint, with the generation settings of the bundle."""

    def __init__(self, checkpoint: Path, threads: int, device: str, precision: str) -> None:
        import torch
        import transformers

        from seq2edge.checkpoints.load import open_source

        torch.set_num_threads(threads)
        source = open_source(checkpoint)
        config = transformers.WhisperConfig(**dict(source.config))
        self.model = transformers.WhisperForConditionalGeneration(config).eval()
        values = {name: source.read(name).float() for name in source.names}
        missing, extra = self.model.load_state_dict(values, strict=False)
        assert not extra, extra
        assert set(missing) <= {"proj_out.weight"}, missing
        self.model.tie_weights()
        for name, value in (source.generation or {}).items():
            setattr(self.model.generation_config, name, value)
        self.model.generation_config.max_initial_timestamp_index = 50
        self.model.to(device, getattr(torch, precision))

    def ids(self, samples: NDArray[np.float32], **settings: Any) -> list[int]:
        """What it generates of a recording."""
        from transformers import WhisperFeatureExtractor

        features = WhisperFeatureExtractor(feature_size=self.model.config.num_mel_bins)(
            samples, sampling_rate=RATE, return_tensors="pt", truncation=False, padding="longest"
        ).input_features
        features = features.to(self.model.device, self.model.dtype)
        answer = self.model.generate(features, return_timestamps=True, **settings)
        ids: list[int] = answer[0].tolist()
        return ids


def our_ids(arguments: argparse.Namespace, samples: NDArray[np.float32], beams: int) -> list[int]:
    """Ours, with thresholds of a single temperature and no guard."""
    import seq2edge
    from seq2edge.runtime.speech.exact_windows import ExactWindows
    from seq2edge.runtime.speech.options import SpeechOptions
    from seq2edge.runtime.speech.transcriber import Transcriber

    model = seq2edge.load(arguments.bundle, device=arguments.device, threads=arguments.threads)
    options = SpeechOptions(temperatures=(0.0,), skip_silence=False)
    transcriber = Transcriber(model, options, model.options.replace(num_beams=beams))
    ids: list[int] = []
    take = ExactWindows.take

    def watched(self: ExactWindows, window: Any, heard: Any) -> Any:
        parts = take(self, window, heard)
        ids.extend(token for part in parts for token in part.ids)
        return parts

    ExactWindows.take = watched  # type: ignore[method-assign]
    try:
        transcriber.transcribe(samples)
    finally:
        ExactWindows.take = take  # type: ignore[method-assign]
    return ids


def check_tokens(arguments: argparse.Namespace, samples: NDArray[np.float32]) -> None:
    """Ours and transformers', where nothing is drawn."""
    from seq2edge.runtime.sequences import common_length

    original = Original(arguments.checkpoint, arguments.threads, arguments.device, "float32")
    for beams in searches(arguments):
        ours = our_ids(arguments, samples, beams)
        theirs = original.ids(samples, num_beams=beams, **EXACT)
        same = common_length(ours, theirs)
        verdict = "equal" if ours == theirs else f"differ from token {same} on"
        print(f"tokens, beams {beams}: ours {len(ours)}, transformers' {len(theirs)}: {verdict}")


def ours(arguments: argparse.Namespace) -> None:
    """The worker of ours: reads a request a line, answers a line."""
    import seq2edge
    from seq2edge.runtime.speech.options import SpeechOptions
    from seq2edge.runtime.speech.transcriber import Transcriber

    model = seq2edge.load(arguments.bundle, device=arguments.device, threads=arguments.threads)
    for line in sys.stdin:
        request = json.loads(line)
        file, beams = request.pop("file"), request.pop("beam_size")
        transcriber = Transcriber(
            model, SpeechOptions(**request), model.options.replace(num_beams=beams)
        )
        begin = time.perf_counter()
        transcript = transcriber.transcribe(file)
        seconds = time.perf_counter() - begin
        answer = {"text": transcript.text, "seconds": seconds, "peak": peak()}
        print(json.dumps(answer), flush=True)


Ask = Callable[..., dict[str, Any]]


def worker(command: Sequence[str]) -> Ask:
    """A process that is asked line by line."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(**request: Any) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    return ask


def runners(arguments: argparse.Namespace, kind: str) -> list[tuple[str, Ask, dict[str, Any]]]:
    """Ours and the peer, exact and batched, greedy and with beams: name, process, request."""
    bundle = arguments.int8 if kind == "int8" and arguments.int8 else arguments.bundle
    threads, checkpoint = str(arguments.threads), str(arguments.checkpoint)
    options = ["--worker", "--threads", threads, "--device", arguments.device]
    mine = worker([sys.executable, __file__, str(bundle), checkpoint, *options])
    peer = None
    if arguments.peer_python:
        peer = worker([str(arguments.peer_python), "-c", PEER, checkpoint, kind, threads])
    chosen: list[tuple[str, Ask, dict[str, Any]]] = []
    for beams in searches(arguments):
        for mode in ("exact", "batched"):
            name = f"{mode}, {kind}, beams {beams}"
            chosen.append((f"seq2edge {name}", mine, {"mode": mode, "beam_size": beams}))
            if peer is not None:
                batched = mode == "batched"
                request: dict[str, Any] = {"batched": batched, "language": "en"}
                request |= {"beam_size": beams, **({"batch_size": 8} if batched else {})}
                chosen.append((f"faster-whisper {name}", peer, request))
    return chosen


def originals(arguments: argparse.Namespace) -> list[tuple[str, Ask, dict[str, Any]]]:
    """transformers in this process, for the GPU: name, what is asked, request."""
    from seq2edge.runtime.sound.recording import read_samples

    chosen: list[tuple[str, Ask, dict[str, Any]]] = []
    for precision in ("float32", "float16"):
        original = Original(arguments.checkpoint, arguments.threads, arguments.device, precision)

        def ask(*, file: str, original: Original = original, **settings: Any) -> dict[str, Any]:
            samples = read_samples(Path(file), longest=3600)
            begin = time.perf_counter()
            original.ids(samples, **settings)  # which waits for the device
            seconds = time.perf_counter() - begin
            return {"seconds": seconds, "peak": peak()}

        for beams in searches(arguments):
            name = f"transformers exact, {precision}, beams {beams}"
            chosen.append((name, ask, {**EXACT, "num_beams": beams}))
    return chosen


def check_speed(arguments: argparse.Namespace, file: Path, seconds: float) -> None:
    """Rounds in turn, the first of which warms up."""
    on_gpu = arguments.device == "cuda"
    chosen = runners(arguments, "float32" if on_gpu else "int8")
    chosen += originals(arguments) if on_gpu else []
    times: dict[str, list[float]] = {name: [] for name, _, _ in chosen}
    peaks: dict[str, float] = {}
    for number in range(arguments.rounds + 1):
        for name, ask, request in chosen:
            answer = ask(file=str(file), **request)
            if number:
                times[name].append(answer["seconds"])
                peaks[name] = answer["peak"] / 1024
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(
            f"speed, {name}: {middle:.2f} s ({min(taken):.2f} to {max(taken):.2f}), "
            f"{seconds / middle:.1f} x real time, peak {peaks[name]:.0f} MiB",
            flush=True,
        )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--int8", type=Path, help="the quantized bundle, for speed")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beams", action="store_true", help="also with five beams")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        ours(arguments)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """The parts that were asked for."""
    samples, said = recording(arguments.minutes, arguments.seed)
    samples = ((samples.clip(-1, 1) * 32767).astype(np.int16) / 32768).astype(np.float32)
    print(f"{len(samples) / RATE:.1f} s, {len(words(said))} words", flush=True)
    if "tokens" in arguments.parts:
        check_tokens(arguments, samples)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "long.wav"
        chosen = runners(arguments, "float32") if {"words", "invented"} & {*arguments.parts} else []
        if "words" in arguments.parts:
            write_wav(file, samples)
            for name, ask, request in chosen:
                text = ask(file=str(file), **request)["text"]
                print(f"words, {name}: {errors(text, said):.2f} % errors", flush=True)
        if "invented" in arguments.parts:
            noise = np.random.default_rng(1).standard_normal(60 * RATE).astype(np.float32)
            for level, what in ((0.0, "silence"), (0.01, "noise"), (0.1, "loud noise")):
                write_wav(file, level * noise)
                for name, ask, request in chosen:
                    text = ask(file=str(file), **request)["text"]
                    print(f"invented in {what}, {name}: {text!r}", flush=True)
        if "speed" in arguments.parts:
            write_wav(file, samples)
            check_speed(arguments, file, len(samples) / RATE)


if __name__ == "__main__":
    main()
