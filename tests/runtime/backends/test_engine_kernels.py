"""What TensorRT-RTX compiled is kept from one process to the next, and never an error."""

from __future__ import annotations

import gc
import inspect
import os

import fake_engines
import fake_tensorrt
import numpy as np
import pytest

from seq2edge.runtime.backends import engine as engine_module
from seq2edge.runtime.backends.tensorrt import TensorRTBackend

FAKE = fake_tensorrt.RuntimeCache.MAGIC


@pytest.fixture
def bundle(engines):
    """With engines of TensorRT-RTX."""
    return engines("bart", library="tensorrt_rtx")


def files(tmp_path):
    """What was kept, by name."""
    return sorted((tmp_path / "cache" / "seq2edge" / "kernels").glob("*"))


def encode(bundle, length):
    """Open the bundle as a new process would, and encode a source of that length."""
    engine_module._OPEN.clear()
    backend = TensorRTBackend(bundle)
    backend.encode(np.full((1, length), 5), np.array([length]))
    del backend
    gc.collect()


def test_the_next_process_compiles_nothing_again(make_machine, bundle, tmp_path):
    """What the check compiled, and what was compiled after it; a file for each engine."""
    trt = make_machine(rtx=True).trt
    encode(bundle, 9)
    assert len(trt.compiled) == len(set(trt.compiled)) > 3
    names = [path.name for path in files(tmp_path)]
    hashes = sorted(
        engine_module.read_engine_info(bundle.file(record.sidecar)).plan_sha256[:16]
        for record in bundle.manifest.engines
    )
    release = fake_engines.RELEASE
    assert names == [f"tensorrt_rtx-{release}-Fake-GPU-8.6-{found}.kernels" for found in hashes]
    trt.compiled.clear()
    encode(bundle, 9)
    assert trt.compiled == []
    encode(bundle, 30)
    assert len(trt.compiled) == 1
    trt.compiled.clear()
    encode(bundle, 30)
    assert trt.compiled == []


def test_what_the_check_compiled_is_kept_at_once(make_machine, bundle, tmp_path):
    """A process that is killed drops nothing."""
    make_machine(rtx=True)
    backend = TensorRTBackend(bundle)
    assert len(files(tmp_path)) == 2
    assert backend.capacity == fake_engines.SIZES.capacity


@pytest.mark.parametrize("contents", [b"", b"no kernels", FAKE + b'["1.0", "Another GPU", []]'])
def test_kernels_that_the_library_refuses_are_compiled_again(
    make_machine, bundle, tmp_path, contents
):
    """Damaged, or of another device; what is compiled takes their place."""
    trt = make_machine(rtx=True).trt
    encode(bundle, 9)
    for path in files(tmp_path):
        path.write_bytes(contents)
    trt.compiled.clear()
    encode(bundle, 9)
    assert len(trt.compiled) == 1, "the engines passed before, and only the source is encoded"
    trt.compiled.clear()
    encode(bundle, 9)
    assert trt.compiled == []


def test_a_folder_that_cannot_be_used_only_costs_compiling(make_machine, bundle, monkeypatch):
    """Nothing is kept, and nothing fails."""
    trt = make_machine(rtx=True).trt
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    for _ in range(2):
        encode(bundle, 9)
        assert len(trt.compiled) > 3
        trt.compiled.clear()


def test_errors_at_the_end_of_a_process_are_none(make_machine, bundle, tmp_path, monkeypatch):
    """The driver may be gone by then."""
    make_machine(rtx=True)
    backend = TensorRTBackend(bundle)

    def gone(_):
        raise RuntimeError("no context")

    monkeypatch.setattr(fake_tensorrt.RuntimeCache, "serialize", gone)
    del backend
    gc.collect()
    assert len(files(tmp_path)) == 2, "those that the check compiled"


def test_tensorrt_compiles_none(machine, engines, tmp_path):
    """Its plans hold the kernels."""
    encode(engines("bart"), 9)
    assert machine.trt.compiled == []
    assert files(tmp_path) == []


def test_the_double_has_the_librarys_own_names():
    """Of what is called, with its parameters."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    for real, double, method in (
        (trt.IRuntimeCache, fake_tensorrt.RuntimeCache, "serialize"),
        (trt.IRuntimeCache, fake_tensorrt.RuntimeCache, "deserialize"),
        (trt.IRuntimeConfig, fake_tensorrt.RuntimeConfig, "create_runtime_cache"),
        (trt.IRuntimeConfig, fake_tensorrt.RuntimeConfig, "set_runtime_cache"),
    ):
        told = getattr(real, method).__doc__.partition(")")[0].partition("(")[2]
        names = [part.partition(":")[0] for part in told.split(", ")]
        assert names == list(inspect.signature(getattr(double, method)).parameters), method
