"""Timings of kernels are kept between builds, and are never an error: with the builder's double."""

from __future__ import annotations

import inspect

import fake_builder
import pytest

from seq2edge.errors import BackendError, OptionError
from seq2edge.export.tensorrt import timing_cache as timing_module
from seq2edge.export.tensorrt.build import plan_request
from seq2edge.export.tensorrt.sizes import BuildSizes
from seq2edge.export.tensorrt.timing_cache import TimingCache, default_file

SIZES = BuildSizes(batch=(1, 1, 4), beams=2, source=(1, 8, 16), prompt=(1, 4, 8), capacity=32)
RELEASE = "10.16.2"


def test_a_second_build_times_nothing_again(library, bundle, build_here, tmp_path):
    """The file is the library's and the device's; nothing half-written is left beside it."""
    trt = library()
    report = build_here(bundle)
    assert report.remarks == ()
    assert "MatMul" in trt.timed
    assert len(trt.timed) == len(set(trt.timed)), "the decoder uses what the encoder's build timed"
    (file,) = (tmp_path / "cache" / "seq2edge" / "timings").iterdir()
    assert file.name == "tensorrt-10.16.2-Fake-GPU-8.6.timings"
    trt.timed.clear()
    assert build_here(bundle, capacity=40).remarks == ()
    assert trt.timed == []


def test_timings_of_another_device_are_refused_with_a_remark(library, bundle, build_here, tmp_path):
    """Kernels are timed again and take the place of the others; the engines are made."""
    file = tmp_path / "own.timings"
    library(device="Another GPU")
    build_here(bundle, file=file)
    trt = library()
    report = build_here(bundle, capacity=40, file=file)
    assert len(report.engines) == 2
    (remark,) = report.remarks
    fact = "refused by TensorRT, as of another release or device, or damaged"
    assert remark == f"timing cache {file}: {fact}; kernels are timed again"
    assert "MatMul" in trt.timed
    trt.timed.clear()
    assert build_here(bundle, capacity=48, file=file).remarks == ()
    assert trt.timed == []


@pytest.mark.parametrize("contents", [b"no timings at all", b"fake timings"])
def test_a_damaged_file_is_refused_with_a_remark(library, bundle, build_here, tmp_path, contents):
    """And replaced."""
    file = tmp_path / "own.timings"
    file.write_bytes(contents)
    library()
    (remark,) = build_here(bundle, file=file).remarks
    assert "or damaged; kernels are timed again" in remark
    assert file.read_bytes().startswith(fake_builder.MAGIC)


def test_a_file_that_cannot_be_used_costs_only_time(library, bundle, build_here, tmp_path):
    """A folder in its place, or a place that takes none: remarks, and engines."""
    library()
    report = build_here(bundle, file=tmp_path)
    assert len(report.engines) == 2
    assert "cannot be read (Is a directory)" in report.remarks[0]
    assert "cannot be written" in report.remarks[1]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    assert build_here(bundle, capacity=40, file=tmp_path / "a" / "new" / "folder").remarks == ()
    nowhere = tmp_path / "file"
    nowhere.write_bytes(b"")
    (read, written) = build_here(bundle, capacity=48, file=nowhere / "x").remarks
    assert "cannot be read (Not a directory)" in read
    assert "cannot be written" in written


def test_what_another_build_wrote_meanwhile_is_kept(library, tmp_path):
    """Both write the same file; those of another release are left out."""
    trt = library()
    file = tmp_path / "own.timings"
    config = fake_builder.BuilderConfig(trt, trt.ILogger())
    timings = TimingCache(file)
    timings.attach(config)
    config.timings.kernels.add("ours")
    file.write_bytes(fake_builder.TimingCache(RELEASE, trt.device, {"theirs"}).serialize())
    timings.save(config)
    found = config.create_timing_cache(file.read_bytes())
    assert found.kernels == {"ours", "theirs"}
    file.write_bytes(fake_builder.TimingCache("9", trt.device, {"old"}).serialize())
    timings.save(config)
    assert config.create_timing_cache(file.read_bytes()).kernels == {"ours", "theirs"}
    assert timings.remarks == []


def test_a_library_that_takes_none_is_remarked(library, tmp_path, monkeypatch):
    """The engine is built without."""
    trt = library()
    monkeypatch.setattr(fake_builder.BuilderConfig, "create_timing_cache", lambda *_: None)
    config = fake_builder.BuilderConfig(trt, None)
    timings = TimingCache(tmp_path / "x")
    timings.attach(config)
    timings.save(config)
    assert timings.remarks == [
        f"timing cache {tmp_path / 'x'}: TensorRT takes no timing cache; kernels are timed again"
    ]


def test_the_file_is_named_without_what_is_missing(library, monkeypatch, tmp_path):
    """Without cuda-bindings the device is the builder's to tell; without a home there is none."""
    library()

    def missing():
        raise BackendError("cuda-bindings: not usable here")

    monkeypatch.setattr(timing_module, "import_cuda", missing)
    name = default_file("tensorrt", "10.3.0")
    assert name == tmp_path / "cache" / "seq2edge" / "timings" / "tensorrt-10.3.0.timings"
    monkeypatch.setattr(timing_module, "cache_folder", lambda: None)
    assert default_file("tensorrt", "10.3.0") is None


def test_the_double_has_the_librarys_own_names():
    """TensorRT-RTX has the same classes, if without effect."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    for method in (
        trt.IBuilderConfig.set_timing_cache,
        trt.ITimingCache.combine,
        trt.ITimingCache.serialize,
    ):
        double = {"set_timing_cache": fake_builder.BuilderConfig}
        own = getattr(double.get(method.__name__, fake_builder.TimingCache), method.__name__)
        names = list(inspect.signature(own).parameters)
        told = method.__doc__.partition(")")[0].partition("(")[2]
        assert [part.partition(":")[0] for part in told.split(", ")] == names


def test_tensorrt_rtx_takes_no_file(library, bundle, tmp_path):
    """It times nothing: an option that does nothing is refused."""
    library(rtx=True)
    with pytest.raises(OptionError, match="timing-cache: TensorRT-RTX times no kernels"):
        plan_request(bundle, "rtx-ampere", SIZES, timing_cache=tmp_path / "x")
    assert plan_request(bundle, "rtx-ampere", SIZES).timing_cache is None
