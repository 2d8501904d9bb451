"""How late `seq2edge listen` settles words: a recording piped into it as fast as it was spoken.

    python benchmarks/listen_delay.py BUNDLE [RECORDING ...] --threads 2

Without recordings the LibriVox sentences are read one after the other, with a second between them.
The delay of a word is counted here, from when its last sample was written to when the line that
settles it was read. Also told: the text, and how much processor time a second of sound took.

With `--virtual` the clock is not the wall's: a reading lasts as long as the processor time that it
took on one thread, divided by `--threads`. That is for machines that do other things too, and an
estimate: nothing else takes time there, and threads share their work perfectly.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

RATE = 16_000
BLOCK = RATE // 20  # samples that are written at a time


def sound(paths: list[str]) -> np.ndarray:
    """16 kHz samples of the recordings, a second of silence behind each."""
    from seq2edge.runtime.sound.recording import read_samples

    if not paths:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
        from weights import prepare

        paths = [str(path) for path in sorted(prepare("librivox").glob("*.wav"))]
    pause = np.zeros(RATE, np.float32)
    return np.concatenate([part for path in paths for part in (read_samples(path), pause)])


def play(samples: np.ndarray, pipe, begin: list[float]) -> None:
    """Write samples when they would have been heard."""
    data = (np.clip(samples, -1, 1) * 32767).astype("<i2")
    begin.append(time.monotonic())
    for start in range(0, len(data), BLOCK):
        end = min(start + BLOCK, len(data))
        time.sleep(max(0.0, begin[0] + end / RATE - time.monotonic()))
        pipe.write(data[start:end].tobytes())
        pipe.flush()
    pipe.close()


def on_a_virtual_clock(
    bundle: str, samples: np.ndarray, step: float, threads: int
) -> tuple[list, list, int]:
    """Delays, texts and how often was read, where nothing but the model takes time."""
    import seq2edge
    from seq2edge.runtime.speech.live import Listener, LiveOptions

    listener = Listener.of(seq2edge.load(bundle, threads=1), options=LiveOptions(step=step))
    clock, place, readings = 0.0, 0, 0
    delays, texts = [], []
    while place < len(samples):
        clock = max(clock, (place + step * RATE) / RATE)
        heard = min(len(samples), round(clock * RATE))
        begin = time.process_time()
        updates = [listener.hear(samples[place:heard])]
        if heard == len(samples):
            updates.append(listener.finish())
        clock += (time.process_time() - begin) / threads
        place, readings = heard, readings + 1
        for word in (word for update in updates if update for word in update.settled):
            delays.append(clock - word.end)
            texts.append(word.text)
    return delays, texts, readings


def report(delays: list, texts: list, readings: int, seconds: float) -> None:
    """Print it."""
    delays.sort()
    print(f"{seconds:.1f} s, {len(delays)} words settled, {readings} readings")
    print(
        f"delay: median {statistics.median(delays):.2f} s, "
        f"90 % {delays[int(0.9 * len(delays))]:.2f} s, most {delays[-1]:.2f} s"
    )
    print("".join(texts).strip())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("recordings", nargs="*")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--step", default="0.6")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--virtual", action="store_true")
    options = parser.parse_args()
    samples = sound(options.recordings)[: round(options.seconds * RATE)]
    if options.virtual:
        run = on_a_virtual_clock(options.bundle, samples, float(options.step), int(options.threads))
        report(*run, len(samples) / RATE)
        return
    command = [sys.executable, "-m", "seq2edge.cli", "listen", options.bundle, "-", "--json"]
    command += ["--raw", "s16le,16000,1", "--threads", options.threads, "--step", options.step]
    delays, texts, readings = [], [], 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        time.sleep(5)  # until the model is loaded
        begin: list[float] = []
        writer = threading.Thread(target=play, args=(samples, process.stdin, begin))
        writer.start()
        for line in process.stdout:
            now, update = time.monotonic(), json.loads(line)
            readings += 1
            for word in update["settled"]:
                delays.append(now - begin[0] - word["end"])
                texts.append(word["text"])
        writer.join()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    report(delays, texts, readings, len(samples) / RATE)
    cpu = (usage.ru_utime + usage.ru_stime) / (len(samples) / RATE)
    print(f"processor: {cpu:.2f} s for a second of sound; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
