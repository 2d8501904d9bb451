"""Very many mixed generations in one process: whether memory grows, and answers stay the same.

Two small models, the shipped one (words to phonemes) and a random GPT-2, answer requests drawn at
random: batches and single ones, greedy, beams, several results, drawn with a seed, streams that are
left early, requests of a service that come and go, some of which are cancelled. Every answer is
compared with the first one to the same request. Prints the resident memory by quarter, and exits
with 1 where an answer changed or memory grew by more than 5 % from the second quarter to the last.

    python benchmarks/soak.py [--generations 100000] [--threads 1] [--folder .cache/soak]
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import tiny_models

import seq2edge
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.runtime.model import Model

SHIPPED = Path(__file__).resolve().parent.parent / "examples" / "g2p" / "model"
WORDS = "gravity seldom onions thorough quay phlegm rhythm a colonel waltz xylophone eh".split()
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_beams": 4},
    {"num_beams": 3, "num_return_sequences": 3},
    {"do_sample": True, "seed": 7},
    {"do_sample": True, "seed": 1, "top_k": 5, "num_return_sequences": 2},
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
    {"prompt_lookup_num_tokens": 3},
]
GROWTH = 1.05
Answers: TypeAlias = Iterator[tuple[Any, Any]]  # what was asked, and what was answered


class Soak:
    """The models, their service, and the first answer to everything that was asked."""

    def __init__(self, folder: Path, seed: int, threads: int) -> None:
        if not (folder / "words").exists():
            folder.mkdir(parents=True, exist_ok=True)
            export_checkpoint(SHIPPED, folder / "words", original=False)
        if not (folder / "ids").exists():
            tiny_models.save("gpt2", folder / "gpt2")
            export_checkpoint(folder / "gpt2", folder / "ids", original=False)
        self.words = seq2edge.load(folder / "words", device="cpu", threads=threads)
        self.ids = seq2edge.load(folder / "ids", device="cpu", threads=threads)
        self.service = seq2edge.Service(self.words)
        self.rng = random.Random(seed)
        self.first: dict[Any, Any] = {}
        self.changed: list[str] = []
        self.counts: Counter[str] = Counter()

    def run(self, generations: int) -> list[float]:
        """So many; the median of the resident memory in MB, by quarter."""
        ways: list[Callable[[], Answers]] = [self.batch, self.of_ids, self.stream, self.serve]
        memory: list[list[float]] = [[], [], [], []]
        done = 0
        while done < generations:
            way = self.rng.choice(ways)
            for key, answer in way():
                done += 1
                self.counts[way.__name__] += 1
                if answer is not None and self.first.setdefault(key, answer) != answer:
                    self.changed.append(f"{key}: {self.first[key]}, now {answer}")
            if self.rng.random() < 0.02:
                memory[min(4 * done // generations, 3)].append(resident())
        gc.collect()
        memory[3].append(resident())
        return [statistics.median(each) if each else float("nan") for each in memory]

    def options(self, model: Model) -> tuple[str, Any]:
        """A choice of options, and its name."""
        changes = self.rng.choice(OPTIONS)
        settings = {"num_beams": 1, "max_new_tokens": 12, "max_length": None, **changes}
        return str(changes), model.options.replace(**settings)

    def batch(self) -> Answers:
        """Texts together."""
        name, options = self.options(self.words)
        words = self.rng.choices(WORDS, k=self.rng.randint(1, 32))
        for word, texts in zip(words, self.words.generate(words, options), strict=True):
            yield ("words", word, name), [text.text for text in texts]

    def of_ids(self) -> Answers:
        """Ids together, prompts of several lengths."""
        name, options = self.options(self.ids)
        prompts = [
            tuple(range(3, 4 + self.rng.randrange(9))) for _ in range(self.rng.randint(1, 32))
        ]
        for prompt, results in zip(prompts, self.ids.generate_ids(prompts, options), strict=True):
            yield ("ids", prompt, name), [result.ids for result in results]

    def stream(self) -> Answers:
        """One text as it comes; a third of them is left before its end."""
        word = self.rng.choice(WORDS)
        stream = self.words.stream(word)
        if self.rng.random() < 1 / 3:
            next(stream, None)
            yield ("stream", word), None
        else:
            yield ("stream", word), "".join(stream)

    def serve(self) -> Answers:
        """Several replies of a service at once; a tenth of them is cancelled."""
        asked = []
        for word in self.rng.choices(WORDS, k=self.rng.randint(1, 32)):
            name, options = self.options(self.words)
            asked.append((word, name, self.service.generate(word, options)))
        for word, name, reply in asked:
            if self.rng.random() < 0.1:
                reply.cancel()
                reply.results()
                yield ("words", word, name), None
            else:
                yield ("words", word, name), [text.text for text in reply.results()]


def resident() -> float:
    """MB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Soak, and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--generations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(".cache/soak"), help="of the bundles")
    arguments = parser.parse_args()
    soak = Soak(arguments.folder, arguments.seed, arguments.threads)
    begin = time.monotonic()
    quarters = soak.run(arguments.generations)
    seconds = time.monotonic() - begin
    soak.service.close()
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in soak.counts.items())
    print(f"{soak.counts.total():,} generations in {seconds:.0f} s: {kinds}")
    print("MB by quarter: " + ", ".join(f"{quarter:.1f}" for quarter in quarters))
    for change in soak.changed[:20]:
        print(f"CHANGED  {change}")
    grown = quarters[3] > GROWTH * quarters[1]
    print(f"{len(soak.changed)} answers changed, memory {'grew' if grown else 'did not grow'}")
    sys.exit(bool(soak.changed) or grown)


if __name__ == "__main__":
    main()
