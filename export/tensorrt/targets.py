"""What engines can be built for: devices, their TensorRT, what they compute, where to build.

A table as data. Each fact says where it is from: measured here with TensorRT-RTX, which builds
without a GPU, or read in NVIDIA's documents; nothing in it was executed on a Jetson. "?" is a
release that no document named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from seq2edge.bundle.engine_info import Form, Library
from seq2edge.errors import OptionError
from seq2edge.evaluation.tables import aligned

Place: TypeAlias = Literal["on the device", "anywhere"]

MEASURED = "measured here with TensorRT-RTX 1.7.1"
READ = "NVIDIA's documents"

# The first release that is strongly typed and has 64-bit integers, and the first whose parser
# reads every operator of the masked form: older ones need passes/lower_to_opset18.py.
OLDEST_RELEASE, MASKED_RELEASE = (10,), (10, 15)

HALF, INT8, INT4 = ("float32", "fp16"), ("int8-static", "int8-weight"), ("int4-weight",)
PRECISIONS = (*HALF, "bf16", *INT8, *INT4, "fp8", "fp4")
XAVIER = (*HALF, "int8-static")
TURING = XAVIER  # it has integer products, and no kernel that reads narrow weights
ORIN = (*HALF, *INT8, *INT4)
AMPERE = (*HALF, "bf16", *INT8, *INT4)
ADA = (*AMPERE, "fp8")
BLACKWELL = (*ADA, "fp4")

# What to take instead, the nearest first.
_INSTEAD = {
    "fp4": ("int4-weight", "int8-static", "fp16"),
    "fp8": ("int8-static", "fp16"),
    "int4-weight": ("int8-weight", "int8-static", "fp16"),
    "int8-weight": ("int8-static", "fp16"),
    "bf16": ("fp16",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One thing to build for.

    `release` is the TensorRT that runs the engine and `capability` the GPU's compute capability;
    both are empty where they are those of this machine. `sources` says for each fact where it is
    from. Where `refused` is not empty nothing can be built, and it says why and what would help.
    """

    name: str
    device: str
    library: Library
    release: str
    cuda: str
    capability: str
    precisions: tuple[str, ...]
    form: Form | None
    built: Place
    sources: Mapping[str, str]
    refused: str = ""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What `engine.py` is to build for; nothing where the library chooses."""
        named = self.library == "tensorrt_rtx" and self.capability.count(".") == 1
        return (f"SM{self.capability.replace('.', '')}",) if named else ()


def graph_form(library: Library, release: str) -> Form:
    """The graphs that the parser of this release reads; raises OptionError for one too old."""
    if library == "tensorrt_rtx":
        return "masked"
    version = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    if version < OLDEST_RELEASE:
        raise OptionError(
            f"tensorrt {release}: has neither strong typing nor 64-bit integers; update to 10.3, "
            "or run on the CPU with onnxruntime"
        )
    return "masked" if version >= MASKED_RELEASE else "lowered"


def _sources(measured: Iterable[str]) -> dict[str, str]:
    facts = ("release", "cuda", "capability", "precisions", "form", "built")
    return {fact: MEASURED if fact in measured else READ for fact in facts}


def _jetson(
    device: str, jetpack: str, release: str, cuda: str, precisions: tuple[str, ...]
) -> Target:
    """A Jetson's row: built on the device alone, nothing of it measured."""
    capability = {"Xavier": "7.2", "Orin": "8.7", "Thor": "11.0"}[device]
    too_old = release.startswith("8.")
    refused = (
        f"TensorRT {release} has neither strong typing nor 64-bit integers; "
        + ("run on the CPU" if device == "Xavier" else "update to JetPack 6.1, or run on the CPU")
        + " with onnxruntime"
    )
    return Target(
        name=f"{device.lower()}-jetpack{jetpack}",
        device=f"Jetson {device}, JetPack {jetpack}",
        library="tensorrt",
        release=release,
        cuda=cuda,
        capability=capability,
        precisions=precisions,
        form=None if too_old else graph_form("tensorrt", release),
        built="on the device",
        sources=_sources(()),
        refused=refused if too_old else "",
    )


def _rtx(name: str, device: str, capability: str, precisions: tuple[str, ...]) -> Target:
    """A GPU's row for TensorRT-RTX, which builds on any machine."""
    # Engines were built for all, but only for these two the kernels of every precision looked at.
    facts = ("release", "capability", "form", "built")
    measured = (*facts, "precisions") if capability in ("7.5", "8.6") else facts
    return Target(
        name=name,
        device=device,
        library="tensorrt_rtx",
        release="1.7.1",
        cuda="13",
        capability=capability,
        precisions=precisions,
        form=graph_form("tensorrt_rtx", "1.7.1"),
        built="anywhere",
        sources=_sources(measured),
    )


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        _jetson("Xavier", "5.1", "8.5.2", "11.4", XAVIER),
        _jetson("Orin", "5.1", "8.5.2", "11.4", ORIN),
        _jetson("Orin", "6.0", "8.6.2", "12.2", ORIN),
        _jetson("Orin", "6.1", "10.3", "12.6", ORIN),
        _jetson("Orin", "6.2", "10.3", "12.6", ORIN),
        _jetson("Thor", "7.0", "10.13", "13.0", BLACKWELL),
        _jetson("Thor", "7.1", "10.13.3", "13.0", BLACKWELL),
        _jetson("Orin", "7.2", "10.16.2", "13.2", ORIN),
        _jetson("Thor", "7.2", "10.16.2", "13.2", BLACKWELL),
        _jetson("Orin", "7.2.2", "11.4.1", "?", ORIN),
        _jetson("Thor", "7.2.2", "11.4.1", "?", BLACKWELL),
        _rtx("rtx-turing", "RTX 20, T4", "7.5", TURING),
        _rtx("rtx-ampere-8.0", "A100, A30", "8.0", AMPERE),
        _rtx("rtx-ampere", "RTX 30, A10, A40", "8.6", AMPERE),
        _rtx("rtx-ada", "RTX 40, L4, L40", "8.9", ADA),
        _rtx("rtx-blackwell", "RTX 50", "12.0", BLACKWELL),
        _rtx("portable", "every RTX but Turing", "8.0 8.6 8.9 12.0", AMPERE),
        Target(
            name="here",
            device="this machine's GPU",
            library="tensorrt",
            release="",
            cuda="",
            capability="",
            precisions=PRECISIONS,  # what it has is seen when it is built
            form=None,
            built="on the device",
            sources=_sources(()),
        ),
    )
}


def find_target(name: str) -> Target:
    """The target of that name. Raises OptionError naming the known ones."""
    if name not in TARGETS:
        raise OptionError(f"target: {name!r} is unknown, known: {', '.join(TARGETS)}")
    return TARGETS[name]


def check(target: Target, precision: str) -> None:
    """Raise OptionError for what cannot work on the device, saying what would."""
    if precision not in PRECISIONS:
        raise OptionError(f"precision: {precision!r} is unknown, known: {', '.join(PRECISIONS)}")
    if target.refused:
        raise OptionError(f"{target.name}: {target.refused}")
    if precision in target.precisions:
        return
    instead = [name for name in _INSTEAD[precision] if name in target.precisions]
    raise OptionError(
        f"{target.name}: compute capability {target.capability} has no {precision}; "
        f"use {' or '.join(instead)}"
    )


def check_build(target: Target, *, library: str, release: str, machine: str) -> None:
    """Raise OptionError where the installed library cannot build for the target.

    `library` and `release` are what is installed, `machine` as `platform.machine()` has it.
    """
    if target.refused:
        raise OptionError(f"{target.name}: {target.refused}")
    if target.name == "here":
        return
    if target.library == "tensorrt_rtx":
        if library != "tensorrt_rtx":
            raise OptionError(
                f"{target.name}: is built by TensorRT-RTX, {library} {release} is installed; "
                "install seq2edge[rtx], or build for here"
            )
        return
    if machine != "aarch64":
        raise OptionError(
            f"{target.name}: an engine for a Jetson is built on it, this is {machine}; "
            "copy the bundle to the board and build it there"
        )
    if library != "tensorrt":
        raise OptionError(
            f"{target.name}: TensorRT-RTX makes no engine for a Jetson; "
            f"build on the board with the TensorRT {target.release} of its JetPack"
        )
    parts = target.release.split(".")
    if release.split(".")[: len(parts)] != parts:
        raise OptionError(
            f"{target.name}: has TensorRT {target.release}, {release} is installed; "
            "build for the JetPack that is on the board, or for here"
        )


def table() -> list[str]:
    """The targets as aligned lines of text, and below them why nothing is built for some."""
    head = ("target", "TensorRT", "CUDA", "capability", "graphs", "built", "precisions")
    rows = [head, *(_row(target) for target in TARGETS.values())]
    lines = aligned(rows, left=len(head))
    refused = [f"{t.name}: {t.refused}" for t in TARGETS.values() if t.refused]
    return [*lines, "", *refused, f"RTX: {MEASURED}, fp8 and fp4 read. Jetson: {READ}."]


def _row(target: Target) -> tuple[str, ...]:
    release = {"tensorrt": "", "tensorrt_rtx": "RTX "}[target.library] + target.release
    form = target.form or ("none" if target.refused else "")
    precisions = "as the GPU has" if target.name == "here" else " ".join(target.precisions)
    built = "nowhere" if target.refused else target.built
    cells = (target.name, release, target.cuda, target.capability, form, built, precisions)
    return tuple(cell or "installed" for cell in cells)
