"""Feeds every reader of strangers' bytes what a fuzzer can think of.

    python tests/attacks/fuzz.py ARTEFACTS [READER...] [--seconds 60] [--keep .cache/fuzz]

With `atheris` where it is installed (`pip install atheris`: guided by the coverage of our code),
else with hypothesis, which changes whole files at random. Each reader has a process of its own. A
finding is kept in KEEP/READER.found: put it into tests/attacks/seeds/READER, where a test reads it
from then on, and mend. KEEP/READER is the corpus that a later run goes on from.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import resource
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT = 10  # seconds an input
MEMORY = 2000  # MB of a whole process, torch included


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artefacts", type=Path)
    parser.add_argument("readers", nargs="*", metavar="READER")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", type=Path, default=Path(".cache/fuzz"))
    parser.add_argument("--here", action="store_true", help="one reader, in this process")
    arguments = parser.parse_args()
    if arguments.here:
        _fuzz(arguments.artefacts, arguments.readers[0], arguments.seconds, arguments.keep)
        return
    from readers import READERS

    names = arguments.readers or [name for name, reader in READERS.items() if reader.here]
    found = sum(_started(name, arguments) for name in names)
    sys.stdout.write(f"{len(names)} readers, {found} with findings\n")
    sys.exit(found > 0)


def _started(name: str, arguments: argparse.Namespace) -> bool:
    """Fuzz one reader in a process of its own; whether anything was found."""
    arguments.keep.mkdir(parents=True, exist_ok=True)
    log = arguments.keep / f"{name}.log"
    command = [sys.executable, __file__, str(arguments.artefacts), name, "--here"]
    command += ["--seconds", str(arguments.seconds), "--keep", str(arguments.keep)]
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    said = "nothing found" if not done.returncode else f"FOUND, see {log}"
    sys.stdout.write(f"{name}: {said} in {time.monotonic() - began:.0f} s\n")
    sys.stdout.flush()
    return done.returncode != 0


def _fuzz(artefacts: Path, name: str, seconds: int, keep: Path) -> None:
    found = keep / f"{name}.found"
    found.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("atheris") is None:
        _with_hypothesis(artefacts, name, seconds, found)
    else:
        _with_atheris(artefacts, name, seconds, keep / name, found)


def _with_atheris(artefacts: Path, name: str, seconds: int, corpus: Path, found: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["seq2edge"]):
        import readers

        readers.prepare(artefacts)
        reader = readers.READERS[name]
        for seed in readers.seeds_of(name):  # imports what it imports later
            readers.check(reader, seed)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(readers.seeds_of(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-timeout={TIMEOUT}", f"-rss_limit_mb={MEMORY}"]
    options += [f"-artifact_prefix={found}/", "-print_final_stats=1"]
    largest = max(map(len, readers.seeds_of(name)), default=0)
    options.append(f"-max_len={max(4096, 2 * largest)}")

    def read(data: bytes) -> None:
        try:
            readers.check(reader, data)
        except BaseException:  # which libFuzzer keeps only where it ends the process itself
            (found / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
            raise

    atheris.Setup([sys.argv[0], *options, str(corpus)], read)
    atheris.Fuzz()


def _with_hypothesis(artefacts: Path, name: str, seconds: int, found: Path) -> None:
    import readers
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    readers.prepare(artefacts)
    reader, seeds = readers.READERS[name], readers.seeds_of(name)
    edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 64), st.binary(max_size=16)))
    until = time.monotonic() + seconds
    resource.setrlimit(resource.RLIMIT_DATA, (2**33, 2**33))
    latest = found / "latest"

    @settings(
        max_examples=200,
        database=None,
        deadline=TIMEOUT * 1000,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(seeds), edits)
    def read(seed: bytes, edits: list[tuple[float, int, bytes]]) -> None:
        for place, cut, put in edits:
            at = int(place * len(seed))
            seed = seed[:at] + put + seed[at + cut :]
        latest.write_bytes(seed)
        readers.check(reader, seed)
        latest.unlink()

    while time.monotonic() < until:
        read()


if __name__ == "__main__":
    main()
