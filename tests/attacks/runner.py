"""Lets attacks happen, each in a process of its own under limits, and judges what became of them.

    python tests/attacks/runner.py ARTEFACTS [KIND...] [--only PATTERN]

ARTEFACTS is a folder of honest artefacts (`artefacts.py`). Prints a JSON object a case: its name
and its faults. The parent imports what commands import and forks: a case takes a fraction of a
second. It makes no session itself, since threads do not survive a fork.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import fnmatch
import importlib
import io
import json
import math
import os
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from case import CANARY, Case, prefixed

KINDS = {  # module: whether its cases read checkpoints, with torch
    "manifests": False,
    "graphs": False,
    "folders": False,
    "archives": False,
    "references": False,
    "vocabularies": False,
    "templates": False,
    "sidecars": False,
    "checkpoints": True,
    "inputs": True,
}
SECONDS = 10  # of computing, a command
PATIENCE = 30.0  # seconds in all, a command: one that waits for something computes nothing
MEMORY = 10**9  # bytes beyond what the parent has
LONGEST = 4500  # characters of a line
COMMANDS = {  # of each artefact; the first that is no `inspect` decides the outcome
    "bart": (("inspect", "."), ("verify", "."), ("run", ".", "w5 w6 w7")),
    "llama": (("inspect", "."), ("verify", "."), ("run", ".", "--chat", "w5 w6 w7")),
    "bert": (("inspect", "."), ("verify", "."), ("classify", ".", "w5 w6 w7")),
}
HONEST_EXPORTS = {
    "checkpoint": (("export", ".", "-o", "out", "--original", "no"),),
    "marian": (("export", ".", "-o", "out", "--original", "no"),),
    "gguf": (("export", ".", "-o", "out", "--original", "no"),),
    "ctranslate2": (("export", ".", "-o", "out", "--original", "no"),),
    "bart": (("run", ".", "w5"), ("eval", ".", "nothing.tsv", "--metric", "exact")),
}
# Lines on stderr that say something beside an error.
REMARK = re.compile(
    r"seq2edge: |note: |not applied: |not used: |kept once: |cut: |length: |guesses: "
    r"|training |Usage: |Try |(load|reference|answer) *$"
)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
FOREIGN = re.compile(
    r"Traceback \(most recent call last\)|panicked at|\[[EWF]:onnxruntime|Warning:"
)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ORT_DISABLE_TELEMETRY": "1",
}
LIBC = ctypes.CDLL(None, use_errno=True)
OPENED, READ = 0x20, 0x1  # inotify's IN_OPEN and IN_ACCESS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Of a command: seconds of computing, and in all."""

    seconds: int
    patience: float


GENEROUS = Limits(seconds=300, patience=300.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One command and how it ended."""

    command: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def refused(self) -> bool:
        """Whether it says so itself."""
        return self.code != 0

    def faults(self) -> Iterator[str]:
        """What a user should not have seen."""
        name = self.command[0]
        text = self.err + self.out
        if foreign := FOREIGN.search(text):
            last = [line for line in self.err.splitlines() if line.strip()] or [""]
            yield f"{name}: {foreign[0]!r}, ... {last[-1]!r:.300}"
            return
        if control := CONTROL.search(text):
            yield f"{name}: prints the control character {control[0]!r}"
        lines = [line for line in self.err.splitlines() if not REMARK.match(line)]
        if self.code not in (0, 1, 2):
            yield f"{name}: exit code {self.code}"
        if self.code and (len(lines) != 1 or not lines[0].startswith("Error: ")):
            yield f"{name}: refused with {len(lines)} lines: {lines[:3]!r:.300}"
        if not self.code and lines:
            yield f"{name}: accepted, but says {lines[:2]!r:.200}"
        if longest := max(map(len, lines), default=0) // LONGEST:
            yield f"{name}: a line of more than {longest * LONGEST} characters"


class Terminal(io.TextIOWrapper):
    """Says that it is one: what is printed there must not act on it."""

    def isatty(self) -> bool:
        """It is not."""
        return True


class Watch:
    """Tells whether a file of a folder was opened, by whomever."""

    def __init__(self, folder: Path) -> None:
        self._handle = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        LIBC.inotify_add_watch(self._handle, os.fsencode(folder), OPENED | READ)

    def names(self) -> set[str]:
        """Files that were opened or read since; none afterwards."""
        opened = set()
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._handle, 2**16)
            while data:
                _, mask, _, length = struct.unpack_from("iIII", data)
                name = data[16 : 16 + length].rstrip(b"\0").decode()
                if name and mask & (OPENED | READ):
                    opened.add(name)
                data = data[16 + length :]
        os.close(self._handle)
        return opened


def make_outside(folder: Path) -> None:
    """What no bundle may reach: a file, and weights that would do."""
    folder.mkdir()
    (folder / "secret.txt").write_bytes(CANARY)
    (folder / "weights.data").write_bytes(CANARY * 200)


def run_case(
    case: Case, artefacts: Path, scratch: Path, limits: Limits, *, old: bool
) -> dict[str, Any]:
    """The case's name, what went wrong with it, and how long it took."""
    root = Path(tempfile.mkdtemp(dir=scratch))
    place, outside = root / "here", root / "outside"
    start = artefacts / case.start
    if start.is_dir():
        shutil.copytree(start, place)
    else:
        place.mkdir()
        shutil.copyfile(start, place / start.name)
    make_outside(outside)
    case.change(place)
    before = _tree(root)
    watch = Watch(outside)
    commands = COMMANDS[case.start] if case.commands is None else case.commands
    steps_file = scratch / f"{root.name}.json"
    began = time.monotonic()
    ended = _fork(place, commands, steps_file, limits)
    seconds = time.monotonic() - began
    steps = [Step(**step) for step in json.loads(steps_file.read_text())]
    faults = list(_faults(case, steps, len(commands), ended, old=old))
    if opened := watch.names():
        faults.append(f"opened {', '.join(sorted(opened))} outside")
    # A run that was refused on the way can be gone on with.
    made = not any(step.refused for step in steps) or commands[0][0] == "train"
    if new := sorted(path for path in _tree(root) - before if not made or path[:8] != "here/out"):
        faults.append(f"left {new[:3]} behind")
    shutil.rmtree(root)
    steps_file.unlink()
    said = [step.err.strip().splitlines()[-1][:300] for step in steps if step.err.strip()]
    return {"name": case.name, "faults": faults, "seconds": round(seconds, 2), "said": said}


def _tree(root: Path) -> set[str]:
    """Everything there."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def _faults(case: Case, steps: list[Step], count: int, ended: str, *, old: bool) -> Iterator[str]:
    """What a case did that no attack may do, and an outcome that is not its own."""
    for step in steps:
        yield from step.faults()
    if ended:
        yield f"{ended} in {case.commands or COMMANDS[case.start]}"[:200]
        return
    if len(steps) < count:
        yield f"ended after {len(steps)} of {count} commands"
        return
    deciding = next(step for step in steps if step.command[0] != "inspect" or count == 1)
    others = [step for step in steps if step.refused and "tensorrt" not in step.command]
    outcome = case.old if old and case.old else case.outcome
    if others and not deciding.refused:
        yield f"{deciding.command[0]} accepts what {others[-1].command[0]} refuses"
    if outcome == "refused" and not deciding.refused:
        yield f"{deciding.command[0]} accepts it"
    if outcome == "harmless" and others:
        yield f"{others[0].command[0]} refuses it: {others[0].err.strip()[-200:]!r}"


def _fork(
    place: Path, commands: tuple[tuple[str, ...], ...], steps_file: Path, limits: Limits
) -> str:
    """Run the commands in a child; how it was ended, empty where it came to its end."""
    steps_file.write_text("[]")
    base = _memory(os.getpid())
    child = os.fork()
    if child == 0:
        try:
            _play(place, commands, steps_file, limits)
        finally:
            os._exit(0)
    began = time.monotonic()
    ended = ""
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - began > limits.patience * len(commands):
            ended = f"hangs for {limits.patience:g} s"
        elif _memory(child) - base > 1.5 * MEMORY:
            ended = f"more than {1.5 * MEMORY / 1e9} GB"
        if ended:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return ended
        time.sleep(0.004)
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)  # what it started
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        taken = f"more than {limits.seconds} s of computing"
        return taken if number == signal.SIGXCPU else f"killed by {signal.Signals(number).name}"
    grown = usage.ru_maxrss * 1024 - base
    return f"{grown / 1e9:.1f} GB of memory" if grown > MEMORY else ""


def _memory(pid: int) -> int:
    """Bytes of a process that are in memory."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _play(
    place: Path, commands: tuple[tuple[str, ...], ...], steps_file: Path, limits: Limits
) -> None:
    """In the child: every command, as from a shell in the artefact's folder."""
    os.setsid()
    os.chdir(place)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**31, 2**31))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    steps: list[dict[str, Any]] = []
    for command in commands:
        most = math.ceil(time.process_time()) + limits.seconds
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        code, out, err = _command(command, steps_file)
        steps.append({"command": command, "code": code, "out": out[:100_000], "err": err[:100_000]})
        steps_file.write_text(json.dumps(steps))


def _stop_before_tracing() -> None:
    """An export has no graphs, and is done when its manifest is made: all was read by then."""
    from seq2edge.export import pipeline

    def accept(*_: object, **__: object) -> None:
        raise SystemExit(0)

    pipeline._write_graphs = lambda *_: ()  # type: ignore[assignment]
    pipeline.record_reference = accept  # type: ignore[assignment]


def _command(command: tuple[str, ...], scratch: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `seq2edge` with these arguments, in this process."""
    from seq2edge import cli

    captured = []
    for number, name in ((1, ".out"), (2, ".err")):
        captured.append(scratch.with_suffix(name))
        os.dup2(os.open(captured[-1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout = Terminal(os.fdopen(1, "wb", closefd=False), "utf-8", "backslashreplace")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    if command[0] == "export":
        _stop_before_tracing()
    code = 0
    try:
        if command[0] == "trap":
            importlib.import_module("traps").TRAPS[command[1]]()
            return 0, "", ""
        cli.main(list(command), prog_name="seq2edge")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - what a user would see
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    texts = [path.read_bytes()[:200_000].decode("utf-8", "backslashreplace") for path in captured]
    for path in captured:
        path.unlink()
    return code, texts[0], texts[1]


def warm(artefacts: Path, *, torch: bool) -> bool:
    """Import what commands import; whether ONNX Runtime is one of the old ones."""
    os.environ.update(ENVIRONMENT)
    if torch:
        importlib.import_module("torch").set_num_threads(1)
    for start, commands in (HONEST_EXPORTS if torch else COMMANDS).items():
        _import_what_they_import(artefacts / start, commands)
    library = importlib.import_module("onnxruntime")
    major, minor = map(int, library.__version__.split(".")[:2])
    return (major, minor) < (1, 31)


def _import_what_they_import(start: Path, commands: tuple[tuple[str, ...], ...]) -> None:
    """Let a child run honest commands and name its modules: no session is made here."""
    known = set(sys.modules)
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(start, Path(scratch) / "here")
        listed = Path(scratch) / "modules"
        child = os.fork()
        if child == 0:
            try:
                _play(Path(scratch) / "here", commands, Path(scratch) / "steps", GENEROUS)
                listed.write_text("\n".join(name for name in sys.modules if name not in known))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        for name in listed.read_text().splitlines():
            with contextlib.suppress(ImportError, AttributeError):  # made by others as they went
                importlib.import_module(name)


def all_cases(kinds: list[str]) -> Iterator[Case]:
    """The cases of some kinds, in their order."""
    for kind in kinds:
        module = importlib.import_module(kind)
        cases = module.trap_cases if kind == "traps" else module.cases
        yield from prefixed(kind, cases())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artefacts", type=Path)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="KIND")
    parser.add_argument("--only", default="*", help="a pattern of names")
    parser.add_argument("--part", type=int, default=1, help="one of so many cases, by its name")
    parser.add_argument("--list", action="store_true", help="names alone")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of computing, a command")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="in all, a command")
    arguments = parser.parse_args()
    limits = Limits(seconds=arguments.seconds, patience=arguments.patience)
    chosen = (
        case
        for case in all_cases(arguments.kinds)
        if fnmatch.fnmatchcase(case.name, arguments.only)
        and zlib.crc32(case.name.encode("utf-8", "replace")) % arguments.part == 0
    )
    if arguments.list:
        for case in chosen:
            _say({"name": case.name})
        return
    artefacts = arguments.artefacts.resolve()
    old = warm(artefacts, torch=any(KINDS.get(kind) for kind in arguments.kinds))
    with tempfile.TemporaryDirectory(prefix="attacks-") as scratch:
        for case in chosen:
            _say(run_case(case, artefacts, Path(scratch), limits, old=old))


def _say(row: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
