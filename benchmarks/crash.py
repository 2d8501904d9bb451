"""Runs that are killed, or get no more room: what is at their destination, what is left of them.

Each operation (export, quantize, shorten, build, pack, unpack, and what train saves) replaces what
is at its destination on a tiny model, and is killed by SIGKILL before one of its changes on the
disk (renames, links, folders, fsync, unlink, the exchange of two paths) or at a random time; half
of the runs find a file system that exchanges nothing. After each kill the destination must open
with the right hashes, as the old or the new one, and be alone there after the next run. Power is
cut too: at every change the image of a mounted ext4 is copied as it is, without what is not forced
onto it, and the copy is mounted. Then every operation runs out of room: a limit of a file's size, a
small file system.

    python benchmarks/crash.py [--kills 500] [--operations pack unpack] [--folder .cache/crash]

Operations run in forks of this process, so that libraries are loaded once. Exits with 1 where
anything was lost or left.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import killing
import onnxruntime  # noqa: F401 - before the forks
import small_recipes
import tensorrt_rtx  # noqa: F401
import tiny_models
import torch

from seq2edge.bundle import Bundle, archive
from seq2edge.errors import Seq2EdgeError
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.export.tensorrt.build import build_bundle, plan_request
from seq2edge.export.tensorrt.sizes import BuildSizes
from seq2edge.files.leftovers import clean
from seq2edge.files.storage import scan, settle
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.quantize.shortlist import shorten_vocabulary
from seq2edge.training.checkpoints import SafeCheckpointIO, save_model
from seq2edge.training.run_folder import prepare_run
from seq2edge.training.train import Machine, train

SHARES = {  # of the kills
    "pack": 20,
    "unpack": 24,
    "save": 24,
    "shorten": 10,
    "quantize": 8,
    "build": 8,
    "export": 6,
}
SIZES = BuildSizes(batch=(1, 1, 1), beams=1, source=(1, 8, 16), prompt=(1, 4, 8), capacity=24)
IDS = tuple(range(40))
IMAGE = 8 * 2**20  # bytes of a file system to cut the power of
LIMITS = (0, 4096, 20_000, 60_000)  # bytes of a file
ROOM = (0, 8192, 40_000, 120_000)  # bytes that a small file system has left


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
    """`run` replaces `old` at a destination by something that `is_new`."""

    name: str
    old: Path
    run: Callable[[Path], object]
    is_new: Callable[[Path], bool]
    cheap: bool = True  # so the run itself comes next, not always something smaller


def make_samples(folder: Path) -> None:
    """What the operations read and replace: one checkpoint, its bundles, a run of a training."""
    folder.mkdir(parents=True)
    tiny_models.save("gpt2", folder / "checkpoint")
    plain = folder / "plain"
    export_checkpoint(folder / "checkpoint", plain, original=False)
    quantize_bundle(plain, folder / "small", "int8-weight")
    shorten_vocabulary(plain, folder / "short", ids=IDS)
    for name in ("plain", "small", "short"):
        archive.pack(folder / name, folder / f"{name}.s2e")
    (folder / "words").mkdir()
    recipe = small_recipes.spelling(folder / "words", optimizer__steps=10)
    train(recipe, folder / "run", machine=Machine(device="cpu"), quiet=True)


def operations(folder: Path) -> list[Operation]:
    """All of them, on these samples."""
    plain, small, short = folder / "plain", folder / "small", folder / "short"
    words = folder / "words"

    def save(destination: Path) -> None:
        recipe = small_recipes.spelling(words, optimizer__steps=10)
        run = prepare_run(recipe, folder / "run", lambda _: None)
        weights = {"weight": torch.ones(20_000), "bias": torch.ones(8)}
        save_model(destination, weights, run, {"card": "new"})

    def keep(destination: Path) -> None:
        SafeCheckpointIO().save_checkpoint({"new": torch.ones(20_000)}, destination)

    def has(fact: Callable[[Bundle], bool]) -> Callable[[Path], bool]:
        return lambda path: fact(Bundle.open(path, hashes=True))

    def same(file: Path) -> Callable[[Path], bool]:
        return lambda path: digest(path) == digest(file)

    def loads(path: Path) -> bool:
        return len(torch.load(path, weights_only=True)["new"]) == 20_000

    def is_saved(path: Path) -> bool:
        text = (path / "training.json").read_text(encoding="utf-8")
        return '"new"' in text and (path / "model.safetensors").stat().st_size > 80_000

    def build(destination: Path) -> None:
        build_bundle(plan_request(Bundle.open(destination), "rtx-ampere", SIZES))

    return [
        Operation(
            name="export",
            old=small,
            run=lambda to: export_checkpoint(
                folder / "checkpoint", to, overwrite=True, original=False
            ),
            is_new=has(lambda bundle: bundle.manifest.precision == "float32"),
            cheap=False,
        ),
        Operation(
            name="quantize",
            old=plain,
            run=lambda to: quantize_bundle(plain, to, "int8-weight", overwrite=True),
            is_new=has(lambda bundle: bundle.manifest.precision != "float32"),
            cheap=False,
        ),
        Operation(
            name="shorten",
            old=plain,
            run=lambda to: shorten_vocabulary(plain, to, ids=IDS, overwrite=True),
            is_new=has(lambda bundle: bundle.manifest.shortlist is not None),
            cheap=False,
        ),
        Operation(
            name="build",
            old=plain,
            run=build,
            is_new=has(lambda bundle: len(bundle.manifest.engines) > 0),
            cheap=False,
        ),
        Operation(
            name="pack",
            old=folder / "plain.s2e",
            run=lambda to: archive.pack(short, to, overwrite=True),
            is_new=same(folder / "short.s2e"),
        ),
        Operation(
            name="unpack",
            old=plain,
            run=lambda to: archive.unpack(folder / "small.s2e", to, overwrite=True),
            is_new=same(small),
        ),
        Operation(name="save", old=folder / "run" / "model", run=save, is_new=is_saved),
        Operation(name="save", old=folder / "run" / "last.ckpt", run=keep, is_new=loads),
    ]


def digest(path: Path) -> str:
    """Of a file, or of all files of a folder with their names."""
    names = scan(path) if path.is_dir() else [""]
    parts = [f"{n} {hashlib.sha256((path / n).read_bytes()).hexdigest()}" for n in names]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def copy(source: Path, destination: Path) -> Path:
    """A file or folder again, in the place of an older copy."""
    if destination.is_dir():
        shutil.rmtree(destination)
    destination.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination)
    else:
        shutil.copyfile(source, destination)
    return destination


class Rig:
    """A folder for destinations, one for temporary files, and what went wrong."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.place, self.temporary = folder / "place", folder / "temporary"
        for each in (self.place, self.temporary):
            each.mkdir()
        tempfile.tempdir = str(self.temporary)
        self.rng = random.Random(seed)
        self.faults: list[str] = []

    def kill(self, operation: Operation, kills: int) -> Counter[str]:
        """Kill it so many times; how each ended."""
        path = self.place / "it"
        counts: Counter[str] = Counter()
        old = digest(operation.old)
        changes, seconds = {}, 0.0
        for swap in (None, errno.ENOSYS):
            copy(operation.old, path)
            begin = time.monotonic()
            changes[swap] = killing.count_changes(lambda: operation.run(path), swap=swap)
            seconds = time.monotonic() - begin
            self.check(operation, path, old, f"a whole run, exchange {swap}")
        number = 0
        while counts["old"] + counts["new"] < kills:
            swap = (None, errno.ENOSYS)[number % 2]
            copy(operation.old, path)
            if number % 4 < 2:
                # All changes in turn, the last ones first: what comes before is mostly writing.
                change = changes[swap] - 1 - number // 4 % changes[swap]
                how = f"before change {change}, exchange {swap}"
                outcome = killing.end(lambda: operation.run(path), kill_at=change, swap=swap)
            else:
                moment = self.rng.uniform(0, 1.02 * seconds)
                how = f"after {moment:.3f} s, exchange {swap}"
                outcome = killing.end(lambda: operation.run(path), kill_after=moment, swap=swap)
            number += 1
            if outcome == "failed":
                self.faults.append(f"{operation.name}, {how}: failed")
            if outcome != "killed":
                continue
            counts["noted"] += not os.path.lexists(path)
            counts["left"] += any(each != path for each in self.place.iterdir())
            counts[self.check(operation, path, old, how)] += 1
            self.next(operation, path, how, itself=operation.cheap or number % 10 == 0)
        counts["changes"] = max(changes.values())
        return counts

    def check(self, operation: Operation, path: Path, old: str, how: str) -> str:
        """Whether the old or the new is there, and whole."""
        try:
            if operation.name not in ("pack", "save"):
                Bundle.open(path, hashes=True)
            else:
                settle(path)
            if digest(path) == old:
                return "old"
            if operation.is_new(path):
                return "new"
            self.faults.append(f"{operation.name}, {how}: neither the old nor the new")
        except Exception as error:  # noqa: BLE001 - a fault whatever it is
            self.faults.append(f"{operation.name}, {how}: {type(error).__name__}: {error}")
        return "broken"

    def next(self, operation: Operation, path: Path, how: str, *, itself: bool) -> None:
        """The next run, itself or one beside it; after it nothing of the killed one is there."""
        if itself:
            if operation.name == "build":
                copy(operation.old, path)
            run = lambda: operation.run(path)  # noqa: E731
        else:
            small = operation.old.parent / "small.s2e"
            run = lambda: (archive.unpack(small, path, overwrite=True), list(clean()))  # noqa: E731
        if killing.end(run) != "done":
            self.faults.append(f"{operation.name}, {how}: the next run failed")
        left = [each.name for each in (*self.place.iterdir(), *self.temporary.iterdir())]
        if left != [path.name]:
            self.faults.append(f"{operation.name}, {how}: left {left}")

    def fill(self, operation: Operation, room: str, amount: int) -> str:
        """Run it with little room: the error must be a line, the old one in place and alone."""
        path = copy(operation.old, self.place / "it")
        before = digest(path)
        source, sink = os.pipe()

        def run() -> None:
            os.close(source)
            if room == "file size":
                resource.setrlimit(resource.RLIMIT_FSIZE, (amount, amount))
            else:
                free = os.statvfs(self.place).f_bavail * os.statvfs(self.place).f_frsize
                (self.place / ".filler").write_bytes(bytes(max(free - amount, 0)))
            try:
                operation.run(path)
            except Seq2EdgeError as error:
                os.write(sink, str(error).encode())

        outcome = killing.end(run)
        os.close(sink)
        with os.fdopen(source) as file:
            said = file.read()
        (self.place / ".filler").unlink(missing_ok=True)
        where = f"{operation.name}, {amount} bytes of {room}"
        if outcome != "done":
            self.faults.append(f"{where}: {outcome}")
        elif said and (len(said.splitlines()) != 1 or digest(path) != before):
            self.faults.append(f"{where}: the old one was changed, or {said!r}")
        elif said and not any(word in said for word in ("too large", "No space", "quota")):
            self.faults.append(f"{where}: {said}")
        left = [each.name for each in (*self.place.iterdir(), *self.temporary.iterdir())]
        if left != [path.name]:
            self.faults.append(f"{where}: left {left}")
        return "refused" if said else "enough"


def main() -> None:
    """Kill, fill, and say what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(".cache/crash"), help="of samples")
    parser.add_argument("--operations", nargs="*", default=list(SHARES), choices=list(SHARES))
    arguments = parser.parse_args()
    samples = arguments.folder
    if not samples.exists() and killing.end(lambda: make_samples(samples)) != "done":
        sys.exit("the samples could not be made")
    with tempfile.TemporaryDirectory() as name:
        rig = Rig(Path(name), arguments.seed)
        chosen = [each for each in operations(samples) if each.name in arguments.operations]
        chosen.sort(key=lambda each: list(SHARES).index(each.name))
        kill_all(rig, chosen, arguments.kills)
        cut_all(rig, chosen)
        for kind in ("file size", "file system"):
            fill_all(rig, chosen, kind)
        print("quota: not run here, kernels with quotas on a mounted file system are rare;")
        print("       the number of its error is tested in tests/files/test_storage.py")
    for fault in rig.faults:
        print(f"FAULT  {fault}")
    print(f"{len(rig.faults)} faults")
    sys.exit(bool(rig.faults))


def kill_all(rig: Rig, chosen: list[Operation], kills: int) -> None:
    """Share the kills out, and print a table."""
    total = sum(SHARES[name] for name in {each.name for each in chosen})
    done: Counter[str] = Counter()
    print(f"{'operation':12}{'changes':>8}{'killed':>8}{'old':>6}{'new':>6}{'noted':>7}{'left':>6}")
    for operation in chosen:
        same = sum(each.name == operation.name for each in chosen)
        share = -(-kills * SHARES[operation.name] // (total * same))
        begin = time.monotonic()
        counts = rig.kill(operation, share)
        counts["killed"] = counts["old"] + counts["new"] + counts["broken"]
        done += counts
        shown = "".join(f"{counts[n]:>{w}}" for n, w in COLUMNS.items())
        print(f"{operation.name:12}{shown}   {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{done['killed']} kills: {done['old']} old, {done['new']} new, {done['broken']} broken")


COLUMNS = {"changes": 8, "killed": 8, "old": 6, "new": 6, "noted": 7, "left": 6}


def cut_all(rig: Rig, chosen: list[Operation]) -> None:
    """Cut the power at every change of the cheap operations, where images can be mounted."""
    images = rig.place.parent
    with (images / "base.img").open("wb") as file:
        file.truncate(IMAGE)
    made = subprocess.run(
        ["mkfs.ext4", "-q", images / "base.img"], capture_output=True, check=False
    )
    if made.returncode or not mount(images / "base.img", rig.place):
        print("power: not run, no image of a file system can be mounted here")
        return
    unmount(rig.place)
    for operation in (each for each in chosen if each.cheap):
        counts: Counter[str] = Counter()
        for swap in (None, errno.ENOSYS):
            counts += cut(rig, operation, images, swap)
        print(f"power, {operation.name}: {dict(counts)}", flush=True)


def cut(rig: Rig, operation: Operation, images: Path, swap: int | None) -> Counter[str]:
    """Cut the power before each change of one operation; what was there afterwards."""
    path, old = rig.place / "it", digest(operation.old)
    mount(images / "base.img", rig.place)
    copy(operation.old, path)
    unmount(rig.place)  # writes all
    shutil.copyfile(images / "base.img", images / "old.img")
    mount(images / "base.img", rig.place)
    changes = killing.count_changes(lambda: operation.run(path), swap=swap)
    path.unlink() if path.is_file() else shutil.rmtree(path)
    unmount(rig.place)
    counts: Counter[str] = Counter()
    for change in range(changes):
        how = f"power cut before change {change}, exchange {swap}"
        shutil.copyfile(images / "old.img", images / "live.img")
        mount(images / "live.img", rig.place)
        killing.end(lambda: operation.run(path), kill_at=change, swap=swap)
        shutil.copyfile(images / "live.img", images / "cut.img")
        unmount(rig.place)
        mount(images / "cut.img", rig.place)
        shutil.rmtree(rig.place / "lost+found", ignore_errors=True)
        counts[rig.check(operation, path, old, how)] += 1
        rig.next(operation, path, how, itself=True)
        unmount(rig.place)
    return counts


def mount(image: Path, place: Path) -> bool:
    """Whether an image of a file system could be mounted."""
    command = ["mount", "-o", "loop", str(image), str(place)]
    return not subprocess.run(command, capture_output=True, check=False).returncode


def unmount(place: Path) -> None:
    """Write what is due, and take it away."""
    subprocess.run(["umount", str(place)], check=True)


def fill_all(rig: Rig, chosen: list[Operation], kind: str) -> None:
    """Every operation with ever more room of that kind."""
    mounted = kind == "file system"
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", str(rig.place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            print("file system: not run, nothing can be mounted here")
            return
    try:
        for operation in chosen:
            amounts = ROOM if mounted else LIMITS
            outcomes = Counter(rig.fill(operation, kind, amount) for amount in amounts)
            print(f"{kind}, {operation.name}: {dict(outcomes)}", flush=True)
    finally:
        if mounted:
            unmount(rig.place)


if __name__ == "__main__":
    main()
