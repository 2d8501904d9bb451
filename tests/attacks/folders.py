"""Files of a bundle that are missing, foreign, damaged, or no files at all."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from case import Case, Change, edited, rewritten, sealed, written

FILES = (
    "weights.data",
    "tokenizer.json",
    "reference.npz",
    "encoder.onnx",
    "decoder.onnxruntime.onnx",
)
FAR = 100 * 10**9  # bytes of a file without contents


def cases() -> Iterator[Case]:
    """All of this file."""
    for name in FILES:
        yield from _of(name)
    yield from _of("manifest.json")
    yield from _swaps()
    yield from _strangers()
    yield from _opened()


def _case(name: str, change: Change, **more: Any) -> Case:
    return Case(name=name, start="bart", change=change, **more)


def _instead(name: str, make: Callable[[Path], object]) -> Change:
    """Something else in the place of a file."""

    def change(bundle: Path) -> None:
        path = bundle / name
        path.unlink()
        make(path)

    return change


def _listening(path: Path) -> None:
    """A socket in the file system; its path may be too long to be bound from afar."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _of(name: str) -> Iterator[Case]:
    """What may become of one file."""
    for what, make in {
        "missing": lambda _: None,
        "a pipe": os.mkfifo,
        "a socket": _listening,
        "a folder": Path.mkdir,
        "a link to a file outside": lambda p: p.symlink_to("../outside/weights.data"),
        "a link to nothing": lambda p: p.symlink_to("nothing"),
        "a link to itself": lambda p: p.symlink_to(p.name),
        "a link to a device without end": lambda p: p.symlink_to("/dev/zero"),
        "a link to a terminal": lambda p: p.symlink_to("/dev/tty"),
        "a link to a process": lambda p: p.symlink_to("/proc/self/environ"),
    }.items():
        yield _case(f"{name} is {what}", _instead(name, make))
    yield _case(f"{name} is empty", written(name, b""))
    yield _case(f"{name} is cut", rewritten(name, lambda data: data[:-100]))
    yield _case(f"{name} goes on", rewritten(name, lambda data: data + b"\0"))
    yield _case(f"{name} is changed", rewritten(name, lambda data: b"\0" + data[1:]))
    if name == "manifest.json":
        return
    yield _case(f"{name} is empty, as listed", sealed(written(name, b"")))
    yield _case(
        f"{name} is cut in half, as listed",
        sealed(rewritten(name, lambda data: data[: len(data) // 2])),
    )
    yield _case(
        f"{name} is zeros, as listed", sealed(rewritten(name, lambda data: bytes(len(data))))
    )
    yield _case(
        f"{name} goes on, as listed",
        sealed(rewritten(name, lambda data: data + bytes(100))),
        outcome="either",
    )
    yield _case(f"{name} is not listed", edited(lambda v: v["files"].pop(name)))

    def far(bundle: Path) -> None:
        with (bundle / name).open("r+b") as file:
            file.truncate(FAR)

    yield _case(f"{name} has 100 GB without contents", far)

    def far_listed(bundle: Path) -> None:
        far(bundle)
        edited(lambda v: v["files"][name].update(size=FAR))(bundle)

    yield _case(
        f"{name} has 100 GB without contents, as listed",
        far_listed,
        commands=(("run", ".", "w5"),),
        outcome="either",
    )


def _swaps() -> Iterator[Case]:
    for one, other in (
        ("tokenizer.json", "reference.npz"),
        ("tokenizer.json", "encoder.onnx"),
        ("weights.data", "reference.npz"),
        ("weights.data", "tokenizer.json"),
        ("reference.npz", "decoder.onnx"),
    ):

        def swap(bundle: Path, one: str = one, other: str = other) -> None:
            first, second = (bundle / one).read_bytes(), (bundle / other).read_bytes()
            (bundle / one).write_bytes(second)
            (bundle / other).write_bytes(first)

        yield _case(f"{one} and {other} swapped", swap)
        yield _case(f"{one} and {other} swapped, as listed", sealed(swap))


def _strangers() -> Iterator[Case]:
    """What lies in the folder and is not listed."""
    for what, make in {
        "a file": lambda b: (b / "extra.bin").write_bytes(b"x"),
        "a hidden file": lambda b: (b / ".hidden").write_bytes(b"x"),
        "a link": lambda b: (b / "extra").symlink_to("../outside/secret.txt"),
        "a linked folder": lambda b: (b / "extra").symlink_to("../outside"),
        "a link to the folder itself": lambda b: (b / "extra").symlink_to("."),
        "a pipe": lambda b: os.mkfifo(b / "extra"),
        "a socket": lambda b: _listening(b / "extra"),
        "a name that is no text": lambda b: Path(
            os.fsdecode(os.fsencode(b) + b"/\xff\xfe")
        ).touch(),
        "a name with escapes": lambda b: (b / "\x1b[2J").touch(),
        "a name with a newline": lambda b: (b / "a\nError: b").touch(),
        "a long name": lambda b: (b / ("x" * 250)).touch(),
        "a manifest in capitals": lambda b: shutil.copy(b / "manifest.json", b / "MANIFEST.JSON"),
        "a module to import": lambda b: (b / "numpy.py").write_text("open('../ran', 'w')"),
        "a module of ours": lambda b: (b / "sitecustomize.py").write_text("open('../ran', 'w')"),
        "a library to load": lambda b: (b / "libonnxruntime.so").write_bytes(b"\x7fELF"),
    }.items():
        yield _case(f"{what} beside the files", make)
    for what, make in {
        "an empty folder": lambda b: (b / "empty").mkdir(),
        "500 folders in each other": lambda b: (b / "/".join(["d"] * 500)).mkdir(parents=True),
    }.items():
        yield _case(f"{what} beside the files", make, outcome="harmless")
    yield _case(
        "2000 files beside the files", lambda b: [(b / f"extra{i}").touch() for i in range(2000)]
    )
    yield _case(
        "2000 more files, as listed",
        sealed(lambda b: [(b / f"extra{i}").touch() for i in range(2000)]),
        outcome="harmless",
    )


def _opened() -> Iterator[Case]:
    """What is opened is no bundle."""
    for what, make in {
        "a pipe": os.mkfifo,
        "an empty folder": Path.mkdir,
        "a file": Path.touch,
        "nothing": lambda _: None,
        "a link to itself": lambda p: p.symlink_to(p.name),
    }.items():

        def put(bundle: Path, make: Callable[[Path], object] = make) -> None:
            make(bundle / "other")

        yield _case(
            f"a bundle that is {what}",
            put,
            commands=(
                ("verify", "other"),
                ("inspect", "other"),
                ("run", "other", "w5"),
                ("pack", "other", "out"),
            ),
        )
        yield _case(f"an archive that is {what}", put, commands=(("unpack", "other", "out"),))
    for device in ("/dev/zero", "/dev/stdin", "/dev/null", "/proc/self/mem", "/proc/kmsg", "/"):
        yield _case(
            f"an archive that is {device}", lambda _: None, commands=(("unpack", device, "out"),)
        )
    for what, path in {
        "with a NUL": "a\0b",
        "too long": "x" * 5000,
        "no text": "\udcff",
    }.items():
        yield _case(
            f"a path {what}",
            lambda _: None,
            commands=(
                ("verify", path),
                ("unpack", path, "out"),
                ("run", path, "w5"),
                ("pack", path, "out"),
                ("inspect", path),
            ),
        )
        yield _case(f"a destination {what}", lambda _: None, commands=(("pack", ".", path),))
