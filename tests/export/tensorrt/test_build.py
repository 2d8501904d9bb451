"""Engines inside bundles: built, described, kept; whatever stops a build changes nothing."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.util
import shutil

import pytest
from bundle_folders import tree

from seq2edge.bundle import Bundle
from seq2edge.bundle.engine_info import read_engine_info, top_outputs
from seq2edge.errors import BundleError, OptionError
from seq2edge.export.tensorrt import build as building
from seq2edge.export.tensorrt.build import build_bundle, plan_request
from seq2edge.export.tensorrt.sizes import BuildSizes
from seq2edge.quantize.pipeline import quantize_bundle

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx is not installed: pip install seq2edge[rtx]",
)

SIZES = BuildSizes(batch=(1, 1, 4), beams=2, source=(1, 8, 16), prompt=(1, 4, 8), capacity=32)
TARGET = "rtx-ampere"
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def made(exported, tmp_path_factory):
    """A bundle of that name in bfloat16, new at every call."""
    first = {}

    def get(name, folder):
        if name not in first:
            place = tmp_path_factory.mktemp(name) / "bf16"
            first[name] = quantize_bundle(exported(name)[1] / "bundle", place, "bf16").bundle
        return _copy(first[name], folder)

    return get


def _copy(bundle, folder):
    shutil.copytree(bundle.path, folder)
    return Bundle.open(folder)


def request_of(bundle, sizes=SIZES):
    """To build for one GPU."""
    return plan_request(bundle, TARGET, sizes)


def test_engines_are_added_and_described(made, tmp_path):
    """Files, sidecars and manifest agree; the old files are as they were; fused and in place."""
    bundle = made("bart", tmp_path / "bundle")
    before = tree(bundle.path)
    stages = []
    report = build_bundle(request_of(bundle), lambda *found: stages.append(found))
    opened = Bundle.open(bundle.path, hashes=True)
    assert opened.manifest == report.bundle.manifest
    assert {name: tree(bundle.path)[name] for name in before if name != "manifest.json"} == {
        name: digest for name, digest in before.items() if name != "manifest.json"
    }
    records = {record.role: record for record in opened.manifest.engines}
    assert set(records) == {"encoder", "decoder"}
    for info in report.engines:
        record = records[info.role]
        assert read_engine_info(opened.file(record.sidecar)) == info
        plan = opened.file(record.file).read_bytes()
        assert hashlib.sha256(plan).hexdigest() == info.plan_sha256
        assert (info.target, record.target) == (TARGET, TARGET)
        assert (info.form, info.precision, info.library) == ("masked", "bf16", "tensorrt_rtx")
        assert info.build_peak_bytes > 2**26
    decoder = report.engines[1]
    layers = opened.manifest.dims.decoder.layers
    assert decoder.profiles == ("prefill", "step")
    assert decoder.fused_attentions[1] > 0  # tiny heads: not all have a fused kernel
    assert decoder.cache_updates == (2 * layers, 2 * layers)
    assert decoder.cache_copies == (0, 0)
    assert {tensor.dtype for tensor in decoder.inputs} == {"int64", "bfloat16"}
    names = {tensor.name: tensor for tensor in decoder.outputs}
    assert names["logits"].dtype == "float32"
    assert names["present_key_0"].shape == ("rows", 4, "capacity", 8)
    assert decoder.sizes.top_k == 16
    assert set(top_outputs(16)) < set(decoder.outputs)
    parts = [part for _, part in stages]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.0, 1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_is_there_is_kept(made, tmp_path, monkeypatch):
    """Of the same graph, sizes, target and versions; others are built anew, in its place."""
    bundle = build_bundle(request_of(made("gpt2", tmp_path / "bundle"))).bundle
    before = tree(bundle.path)
    with monkeypatch.context() as patch:
        patch.setattr(building, "build_engine", None)  # nothing may be built
        report = build_bundle(request_of(bundle))
    assert report.reused == ("decoder",)
    assert tree(bundle.path) == before
    larger = dataclasses.replace(SIZES, capacity=48)
    report = build_bundle(request_of(bundle, larger))
    assert report.reused == ()
    assert report.engines[0].sizes.capacity == 48
    assert len(report.bundle.manifest.engines) == 1
    assert tree(bundle.path).keys() == before.keys()
    alone = build_bundle(request_of(bundle, dataclasses.replace(larger, top_k=0)))
    assert alone.reused == ()
    outputs = {tensor.name for tensor in alone.engines[0].outputs}
    assert (alone.engines[0].sizes.top_k, outputs & {"log_sum_exp", "top_ids"}) == (0, set())
    other = build_bundle(plan_request(report.bundle, "rtx-ada", larger)).bundle
    assert {record.target for record in other.manifest.engines} == {TARGET, "rtx-ada"}


def test_a_float_bundle_is_built_from_its_canonical_graphs(exported, tmp_path):
    """In float32, without an encoder's graph being changed in the bundle."""
    bundle = _copy(exported("bert")[2].bundle, tmp_path / "bundle")
    report = build_bundle(request_of(bundle))
    (info,) = report.engines
    assert (info.role, info.precision, info.profiles) == ("encoder", "float32", ("encoder",))
    assert set(info.products) == {"Float x Float"}


def test_the_lowered_form_is_built_where_the_parser_is_old(made, tmp_path):
    """The same inputs and outputs, the caches copied instead of updated."""
    bundle = made("llama", tmp_path / "bundle")
    request = dataclasses.replace(request_of(bundle), form="lowered")
    lowered = dataclasses.replace(request, release="10.3.0")
    graph = building._prepare(lowered, lowered.records[0], tmp_path)
    assert graph.parent == tmp_path / "decoder"
    (info,) = build_bundle(lowered).engines
    assert info.form == "lowered"
    assert min(info.cache_copies) > 0
    (masked,) = build_bundle(request_of(bundle)).engines
    assert {t.name: t for t in info.inputs} == {t.name: t for t in masked.inputs}


@pytest.mark.parametrize(
    ("place", "error", "raised", "message"),
    [
        ("build_engine", KeyboardInterrupt(), KeyboardInterrupt, None),
        ("_link", FULL, BundleError, "free some space"),
        ("_prepare", FULL, BundleError, "free some space"),
    ],
)
def test_whatever_stops_a_build_leaves_the_bundle_as_it_was(
    made, tmp_path, monkeypatch, place, error, raised, message
):
    """Ctrl-C between two engines, or a disk that is full when they or their graphs are written."""
    bundle = made("bart", tmp_path / "bundle")
    before = tree(bundle.path)
    original = getattr(building, place)
    calls = []

    def stop(*arguments, **more):
        calls.append(arguments)
        if len(calls) == 2:
            raise error
        return original(*arguments, **more)

    monkeypatch.setattr(building, place, stop)
    with pytest.raises(raised, match=message):
        build_bundle(request_of(bundle))
    assert tree(bundle.path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_cannot_be_built_is_refused(made, exported, tmp_path):
    """Before anything is done, with what would work."""
    small = quantize_bundle(exported("gpt2")[1] / "bundle", tmp_path / "x", "int8-weight").bundle
    with pytest.raises(BundleError, match=r"are for onnxruntime, .* with --target tensorrt"):
        plan_request(small, TARGET, SIZES)
    bundle = made("gpt2", tmp_path / "bundle")
    for target, message in (
        ("rtx-turing", "capability 7.5 has no bf16; use fp16"),
        ("thor-jetpack7.2", "an engine for a Jetson is built on it"),
        ("here", "TensorRT-RTX is installed, name what it builds for"),
        ("x", "target: 'x' is unknown"),
    ):
        with pytest.raises(OptionError, match=message):
            plan_request(bundle, target, SIZES)
    assert plan_request(bundle, None, SIZES).target.name == "portable"
