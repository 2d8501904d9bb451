"""Machines with a GPU that is not there."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import fake_cuda
import fake_engines
import fake_tensorrt
import pytest

from seq2edge.bundle import Bundle
from seq2edge.runtime.backends import engine as engine_module
from seq2edge.runtime.backends import tensorrt as backend_module
from seq2edge.runtime.backends.tensorrt import TensorRTBackend


@dataclasses.dataclass
class Machine:
    """A device, a library, and backends on them."""

    cuda: Any
    trt: Any

    def open(self, bundle: Bundle) -> TensorRTBackend:
        """The bundle's engines on this machine."""
        return TensorRTBackend(bundle)


@pytest.fixture
def make_machine(monkeypatch, tmp_path):
    """`make_machine(rtx=False, release="1.0", **cuda)`: makes the doubles be what is imported."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(*, rtx=False, release=fake_engines.RELEASE, **options):
        engine_module._OPEN.clear()
        machine = Machine(fake_cuda.FakeCuda(**options), None)
        machine.trt = fake_tensorrt.FakeTensorRT(machine.cuda, rtx=rtx, release=release)
        monkeypatch.setattr(backend_module, "import_cuda", lambda: machine.cuda)
        monkeypatch.setattr(backend_module, "import_tensorrt", lambda _: machine.trt)
        return machine

    yield make
    gc.collect()


@pytest.fixture
def machine(make_machine):
    """With TensorRT, whose steps we record ourselves."""
    return make_machine()


@pytest.fixture(scope="session")
def engines(exported, tmp_path_factory):
    """`engines(name, **options)` makes (once) that tiny model's bundle with fake engines."""
    made: dict[Any, Bundle] = {}

    def get(name, **options):
        key = (name, *sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(name) / "bundle"
            source = Bundle.open(exported(name)[1] / "bundle")
            made[key] = fake_engines.with_engines(source, folder, **options)
        return made[key]

    return get
