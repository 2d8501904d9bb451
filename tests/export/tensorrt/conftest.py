"""A machine on which TensorRT builds and runs engines, without a GPU."""

from __future__ import annotations

import gc
import shutil

import fake_builder
import fake_cuda
import pytest

from seq2edge.bundle import Bundle
from seq2edge.export.tensorrt import build as building
from seq2edge.export.tensorrt import engine as tensorrt_module
from seq2edge.export.tensorrt import timing_cache as timing_module
from seq2edge.export.tensorrt.build import build_bundle, plan_request
from seq2edge.export.tensorrt.sizes import BuildSizes
from seq2edge.runtime.backends import engine as engine_module
from seq2edge.runtime.backends import tensorrt as backend_module


@pytest.fixture(scope="package", autouse=True)
def own_cache(tmp_path_factory):
    """What is built here is not noted in the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def library(monkeypatch, tmp_path):
    """`library(release=..., device=...)` makes the doubles be what is installed; TensorRT's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def install(**options):
        engine_module._OPEN.clear()
        cuda = fake_cuda.FakeCuda()
        trt = fake_builder.BuildingTensorRT(cuda, **options)
        for module in (building, tensorrt_module, backend_module):
            monkeypatch.setattr(module, "import_tensorrt", lambda *_: trt)
        for module in (timing_module, backend_module):
            monkeypatch.setattr(module, "import_cuda", lambda: cuda)
        return trt

    yield install
    gc.collect()


@pytest.fixture
def bundle(exported, tmp_path):
    """A float bundle with an encoder and a decoder, which can be built in."""
    folder = tmp_path / "bundle"
    shutil.copytree(exported("bart")[1] / "bundle", folder)
    return Bundle.open(folder)


@pytest.fixture
def build_here():
    """`build_here(bundle, capacity=32, file=None)`: builds for this machine, and its report."""

    def build(bundle, *, capacity=32, file=None):
        sizes = BuildSizes(
            batch=(1, 1, 4), beams=2, source=(1, 8, 16), prompt=(1, 4, 8), capacity=capacity
        )
        request = plan_request(Bundle.open(bundle.path), "here", sizes, timing_cache=file)
        return build_bundle(request)

    return build
