"""What engines can be built for, and what is refused with a way out."""

from __future__ import annotations

import importlib.util

import pytest

from seq2edge.errors import OptionError
from seq2edge.export.tensorrt.targets import (
    MEASURED,
    PRECISIONS,
    READ,
    TARGETS,
    check,
    check_build,
    find_target,
    graph_form,
    table,
)

NAMES = """
    xavier-jetpack5.1 orin-jetpack5.1 orin-jetpack6.0 orin-jetpack6.1 orin-jetpack6.2
    thor-jetpack7.0 thor-jetpack7.1 orin-jetpack7.2 thor-jetpack7.2 orin-jetpack7.2.2
    thor-jetpack7.2.2 rtx-turing rtx-ampere-8.0 rtx-ampere rtx-ada rtx-blackwell portable here
""".split()
TOO_OLD = ["xavier-jetpack5.1", "orin-jetpack5.1", "orin-jetpack6.0"]
ON_BOARD = {"library": "tensorrt", "machine": "aarch64"}


def test_the_names_are_a_contract():
    """They stand in scripts and in manifests of engines."""
    assert list(TARGETS) == NAMES
    assert [target.name for target in TARGETS.values()] == NAMES


@pytest.mark.parametrize(
    ("name", "release", "capability", "form", "built"),
    [
        ("orin-jetpack6.1", "10.3", "8.7", "lowered", "on the device"),
        ("orin-jetpack6.2", "10.3", "8.7", "lowered", "on the device"),
        ("thor-jetpack7.1", "10.13.3", "11.0", "lowered", "on the device"),
        ("orin-jetpack7.2", "10.16.2", "8.7", "masked", "on the device"),
        ("thor-jetpack7.2.2", "11.4.1", "11.0", "masked", "on the device"),
        ("rtx-ada", "1.7.1", "8.9", "masked", "anywhere"),
        ("xavier-jetpack5.1", "8.5.2", "7.2", None, "on the device"),
        ("here", "", "", None, "on the device"),
    ],
)
def test_each_target_has_its_release_and_form(name, release, capability, form, built):
    """Parsers read the masked form from 10.15 on."""
    target = find_target(name)
    assert (target.release, target.capability) == (release, capability)
    assert (target.form, target.built) == (form, built)


def test_an_unknown_target_lists_the_known():
    """A typing error is seen at once."""
    with pytest.raises(OptionError, match=r"'orin' is unknown, known: xavier.*, here$"):
        find_target("orin")


def test_every_fact_has_a_source():
    """Measured for RTX, read for Jetsons; no fact of a Jetson was measured."""
    for target in TARGETS.values():
        assert set(target.sources) == {
            "release", "cuda", "capability", "precisions", "form", "built"
        }  # fmt: skip
        assert set(target.sources.values()) <= {MEASURED, READ}
        assert (MEASURED in target.sources.values()) == (target.library == "tensorrt_rtx")
        assert set(target.precisions) <= set(PRECISIONS)
    assert TARGETS["rtx-ampere"].sources["precisions"] == MEASURED
    assert TARGETS["rtx-blackwell"].sources["precisions"] == READ


@pytest.mark.parametrize(
    ("library", "release", "form"),
    [
        ("tensorrt", "10.0.1", "lowered"),
        ("tensorrt", "10.14.1", "lowered"),
        ("tensorrt", "10.15.1", "masked"),
        ("tensorrt", "11.4.1", "masked"),
        ("tensorrt_rtx", "1.7.1", "masked"),
    ],
)
def test_the_form_follows_from_the_release(library, release, form):
    """10.14 reads Attention, and not yet what else the masked form has."""
    assert graph_form(library, release) == form


def test_a_release_before_10_has_no_form():
    """Weak typing and 32-bit integers would make another model."""
    with pytest.raises(OptionError, match=r"tensorrt 8\.6\.2: has neither strong typing"):
        graph_form("tensorrt", "8.6.2")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TOO_OLD])
def test_what_a_target_has_is_let_pass(name):
    """fp16 everywhere."""
    target = find_target(name)
    assert "fp16" in target.precisions
    for precision in target.precisions:
        check(target, precision)


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("orin-jetpack6.2", "fp8", r"8\.7 has no fp8; use int8-static or fp16$"),
        ("orin-jetpack7.2", "fp4", "no fp4; use int4-weight or int8-static or fp16$"),
        ("orin-jetpack7.2", "bf16", "no bf16; use fp16$"),
        ("rtx-turing", "int4-weight", r"7\.5 has no int4-weight; use int8-static or fp16$"),
        ("rtx-turing", "int8-weight", "no int8-weight; use int8-static or fp16$"),
        ("rtx-turing", "bf16", "no bf16; use fp16$"),
        ("portable", "fp8", r"8\.0 8\.6 8\.9 12\.0 has no fp8; use int8-static or fp16$"),
        ("rtx-ada", "fp4", "no fp4; use int4-weight or int8-static or fp16$"),
        ("rtx-ada", "int2", "precision: 'int2' is unknown, known: float32, fp16"),
    ],
)
def test_what_a_gpu_cannot_do_is_refused(name, precision, message):
    """With what it can do instead."""
    with pytest.raises(OptionError, match=message):
        check(find_target(name), precision)


@pytest.mark.parametrize("name", TOO_OLD)
def test_a_release_that_is_too_old_is_refused(name):
    """Whatever the precision; a Xavier has no newer JetPack, an Orin has."""
    remedy = "run on the CPU with onnxruntime" if "xavier" in name else "update to JetPack 6.1, or"
    target = find_target(name)
    with pytest.raises(OptionError, match=f"{name}: .*{remedy}"):
        check(target, "fp16")
    with pytest.raises(OptionError, match=remedy):
        check_build(target, release=target.release, **ON_BOARD)


@pytest.mark.parametrize(
    ("name", "installed", "message"),
    [
        (
            "orin-jetpack6.2",
            ("tensorrt", "10.3.0", "x86_64"),
            "built on it, this is x86_64; copy the bundle to the board",
        ),
        ("orin-jetpack6.2", ("tensorrt_rtx", "1.7.1", "x86_64"), "built on it, this is x86_64"),
        (
            "orin-jetpack6.2",
            ("tensorrt_rtx", "1.7.1", "aarch64"),
            r"RTX makes no engine for a Jetson; build on the board with the TensorRT 10\.3",
        ),
        (
            "orin-jetpack6.2",
            ("tensorrt", "10.30.1", "aarch64"),
            r"has TensorRT 10\.3, 10\.30\.1 is installed; build for the JetPack that is on",
        ),
        (
            "rtx-ada",
            ("tensorrt", "10.13.3", "x86_64"),
            r"by TensorRT-RTX, tensorrt 10\.13\.3 is installed; install seq2edge\[rtx\]",
        ),
    ],
)
def test_a_library_that_cannot_build_it_is_refused(name, installed, message):
    """With where to go instead."""
    library, release, machine = installed
    with pytest.raises(OptionError, match=message):
        check_build(find_target(name), library=library, release=release, machine=machine)


def test_a_library_that_can_build_it_is_let_pass():
    """The board's own TensorRT, RTX on any machine, and here whatever is there."""
    check_build(find_target("orin-jetpack6.2"), release="10.3.0.30", **ON_BOARD)
    check_build(find_target("thor-jetpack7.1"), release="10.13.3", **ON_BOARD)
    check_build(find_target("here"), release="10.13.3", **ON_BOARD)
    for name in ("rtx-turing", "portable", "here"):
        check_build(find_target(name), library="tensorrt_rtx", release="1.7.1", machine="x86_64")


def test_capabilities_are_those_that_the_builder_knows():
    """One for a generation; none where the library builds for all or for this machine."""
    found = {name: target.capabilities for name, target in TARGETS.items() if target.capabilities}
    assert found == {
        "rtx-turing": ("SM75",),
        "rtx-ampere-8.0": ("SM80",),
        "rtx-ampere": ("SM86",),
        "rtx-ada": ("SM89",),
        "rtx-blackwell": ("SM120",),
    }
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install seq2edge[rtx]")
    import tensorrt_rtx

    for (capability,) in found.values():
        assert hasattr(tensorrt_rtx.ComputeCapability, capability)


def test_the_table_is_aligned_and_whole():
    """Every target once, every column at one place, and the reasons below."""
    lines = table()
    rows = lines[1 : len(TARGETS) + 1]
    assert [row.split()[0] for row in rows] == NAMES
    for heading in ("TensorRT", "CUDA", "capability", "graphs", "built", "precisions"):
        start = lines[0].index(heading)
        assert {row[start - 1] for row in rows} == {" "}
        assert " " not in {row[start] for row in rows}
    assert len([line for line in lines if "has neither strong typing" in line]) == len(TOO_OLD)
    assert max(map(len, lines[: len(rows) + 1])) < 160
