"""Engines are found, checked and opened, or refused with the reason and what to do."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import sys
import types

import fake_engines
import pytest

from seq2edge.bundle import Bundle
from seq2edge.bundle.engine_info import read_engine_info
from seq2edge.errors import BackendError, EngineError
from seq2edge.runtime.backend import BACKENDS, open_backend
from seq2edge.runtime.backends import device as device_module
from seq2edge.runtime.backends import engine as engine_module
from seq2edge.runtime.backends import tensorrt as backend_module
from seq2edge.runtime.backends.engine import check_release, find_engines
from seq2edge.runtime.backends.tensorrt import TensorRTBackend
from seq2edge.runtime.backends.tensorrt_library import import_tensorrt


@pytest.fixture
def copied(engines, tmp_path):
    """`copied(name)`: a bundle with engines whose files may be changed, sizes as they were."""

    def get(name="llama", **options):
        folder = tmp_path / f"copy-of-{name}"
        shutil.copytree(engines(name, **options).path, folder)
        return Bundle.open(folder, trust_engines=True)

    return get


def edited(bundle, **changes):
    """The same with other fields in the decoder's sidecar."""
    path = bundle.path / "engines" / "decoder.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(values), encoding="utf-8")
    return bundle


def with_records(bundle, *records):
    """The bundle with other engines in its manifest."""
    return dataclasses.replace(
        bundle, manifest=dataclasses.replace(bundle.manifest, engines=records)
    )


def test_a_bundle_without_engines_says_how_to_make_one(exported, machine):
    """Where tensorrt was asked for; `auto` does not even try."""
    bundle = Bundle.open(exported("llama")[1] / "bundle")
    with pytest.raises(BackendError, match=r"holds no engine; make one with `seq2edge build`"):
        open_backend(bundle, device="tensorrt")
    assert "tensorrt" not in open_backend(bundle, threads=1)[1]


def test_auto_takes_an_engine_that_works(machine, engines):
    """Before anything else; the reason says so."""
    backend, reason = open_backend(engines("llama"), threads=1)
    assert (backend.name, reason) == ("tensorrt", "tensorrt: works")
    assert backend.target == "fake"
    assert backend.capacity == fake_engines.SIZES.capacity


def test_auto_goes_on_where_no_engine_works(engines, make_machine):
    """And says what was wrong with it."""
    make_machine(release="2.0")
    backend, reason = open_backend(engines("llama"), threads=1)
    assert backend.name == "onnxruntime"
    assert "tensorrt: not used, " in reason
    assert "made by tensorrt 1.0, tensorrt 2.0 is installed" in reason
    assert reason.endswith("cpu: works")


def test_graphs_and_threads_are_for_onnxruntime(machine, engines):
    """What an engine cannot honour is refused; `auto` goes where it can be."""
    bundle = engines("llama")
    with pytest.raises(BackendError, match="graphs: for onnxruntime alone"):
        open_backend(bundle, device="tensorrt", graphs="canonical")
    with pytest.raises(BackendError, match="threads: for onnxruntime alone"):
        open_backend(bundle, device="tensorrt", threads=2)
    assert open_backend(bundle, graphs="canonical", threads=1)[0].name == "onnxruntime"


def test_another_release_is_refused(engines, make_machine):
    """A plan is only for the release that made it; the remedy is named."""
    make_machine(release="2.0")
    with pytest.raises(BackendError, match=r"decoder\.plan: made by tensorrt 1\.0, .*build it"):
        TensorRTBackend(engines("llama"))


def test_another_library_is_refused(engines):
    """The engine's own is asked for by name."""
    (found,) = find_engines(engines("llama")).values()
    trt = types.SimpleNamespace(__name__="tensorrt_rtx", __version__="1.0")
    with pytest.raises(BackendError, match=r"made by tensorrt 1\.0, tensorrt_rtx 1\.0 is"):
        check_release(found[0], trt)


def test_a_missing_library_names_the_extra(monkeypatch):
    """The one that made the engine."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"tensorrt_rtx: not installed; install seq2edge\[rtx\]"):
        import_tensorrt("tensorrt_rtx")
    with pytest.raises(BackendError, match=r"tensorrt: not installed; .* its JetPack"):
        import_tensorrt("tensorrt")


def test_a_missing_driver_is_told_before_the_library_is_used(monkeypatch, engines, machine):
    """TensorRT itself may crash without one."""
    monkeypatch.setattr(device_module, "driver_error", lambda: "libcuda.so.1: cannot open")
    monkeypatch.setattr(backend_module, "import_cuda", device_module.import_cuda)
    machine.trt.Runtime = None
    with pytest.raises(BackendError, match=r"no NVIDIA driver here \(libcuda\.so\.1: cannot open"):
        TensorRTBackend(engines("llama"))


def test_missing_bindings_name_the_extra(monkeypatch):
    """cuda-bindings comes with the extras."""
    monkeypatch.setattr(device_module, "driver_error", lambda: None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r"cuda-bindings: not usable .*seq2edge\[rtx\]"):
        device_module.import_cuda()


def test_no_driver_here_is_an_error_and_no_crash():
    """The real probe, on a machine that has none."""
    if device_module.driver_error() is None:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(BackendError, match="no NVIDIA driver here"):
        device_module.import_cuda()


def test_a_machine_without_a_device_is_told(engines, make_machine):
    """A driver alone is not enough."""
    make_machine(devices=0)
    with pytest.raises(BackendError, match=r"no device here, cudaErrorNoDevice .*nvidia-smi"):
        TensorRTBackend(engines("llama"))


def test_a_truncated_plan_is_refused_before_it_is_opened(machine, copied):
    """By its hash: the library might not come back from it."""
    bundle = copied()
    path = bundle.path / "engines" / "decoder.plan"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EngineError, match=r"decoder\.plan: .* SHA-256 .* damaged or truncated"):
        TensorRTBackend(bundle)
    assert not machine.trt.opened


def test_a_plan_that_the_library_does_not_open_is_told_with_its_log(machine, copied):
    """Such as one for another device, with TensorRT."""
    bundle = copied()
    path = bundle.path / "engines" / "decoder.plan"
    path.write_bytes(b"something else")
    edited(bundle, plan_sha256=engine_module.hashlib.sha256(b"something else").hexdigest())
    with pytest.raises(EngineError, match=r"1\.0 does not open it on Fake GPU \(magic tag"):
        TensorRTBackend(bundle)


def test_rtx_says_why_a_plan_is_not_for_a_device(make_machine, engines):
    """In its own words, made readable."""
    machine = make_machine(rtx=True)
    reasons = machine.trt.EngineInvalidityDiagnostics
    machine.trt.validity = (machine.trt.EngineValidity.INVALID, reasons.UNSUPPORTED_CC)
    with pytest.raises(EngineError, match=r"capability 8\.6 \(unsupported cc\); built for fake"):
        TensorRTBackend(engines("llama", library="tensorrt_rtx"))
    machine.trt.validity = (machine.trt.EngineValidity.SUBOPTIMAL, 0)
    TensorRTBackend(engines("llama", library="tensorrt_rtx"))


@pytest.mark.parametrize(
    "change",
    ["a tensor less", "a tensor more", "another type", "an output for an input", "fewer logits"],
)
def test_a_sidecar_of_another_engine_is_refused(machine, copied, change):
    """Addresses are bound by what it says."""
    bundle = copied()
    values = json.loads((bundle.path / "engines" / "decoder.json").read_text())
    inputs, outputs = values["inputs"], values["outputs"]
    if change == "a tensor less":
        inputs.pop()
    elif change == "a tensor more":
        inputs.append({**inputs[-1], "name": "past_key_9"})
    elif change == "another type":
        inputs[-1]["dtype"] = "float16"
    elif change == "fewer logits":
        outputs[0]["shape"][1] -= 1  # the engine would write behind them
    else:
        inputs.append(outputs.pop())
    with pytest.raises(EngineError, match="its sidecar is of another engine"):
        TensorRTBackend(edited(bundle, inputs=inputs, outputs=outputs))


def test_a_damaged_sidecar_is_an_engine_error(machine, copied):
    """So that `auto` goes on."""
    bundle = copied()
    edited(bundle, surprise=1)
    with pytest.raises(EngineError, match=r"decoder\.json: surprise: unknown key"):
        TensorRTBackend(bundle)
    assert open_backend(bundle, threads=1)[0].name == "onnxruntime"


def test_engines_must_be_complete(engines):
    """An encoder-decoder needs both."""
    bundle = engines("bart")
    decoder = next(record for record in bundle.manifest.engines if "decoder" in record.file)
    with pytest.raises(
        BackendError, match="there is decoder, kind encoder-decoder needs decoder and encoder"
    ):
        find_engines(with_records(bundle, decoder))


def test_the_first_target_that_works_here_is_taken(machine, copied):
    """A bundle may hold engines for several devices."""
    bundle = copied()
    folder = bundle.path / "engines"
    values = json.loads((folder / "decoder.json").read_text())
    (folder / "other.json").write_text(json.dumps({**values, "release": "9.9"}), encoding="utf-8")
    (record,) = bundle.manifest.engines
    other = dataclasses.replace(record, target="other", sidecar="engines/other.json")
    files = {**bundle.manifest.files, "engines/other.json": bundle.manifest.files[record.sidecar]}
    both = with_records(bundle, other, record)
    both = dataclasses.replace(both, manifest=dataclasses.replace(both.manifest, files=files))
    assert TensorRTBackend(both).target == "fake"
    machine.trt.__version__ = "8.8"
    with pytest.raises(BackendError, match=r"engine for other: .*9\.9.*; engine for fake: .*1\.0"):
        TensorRTBackend(both)


def test_caches_are_updated_in_place_all_or_none(machine, engines):
    """The library's own word counts, where it has one."""
    (found,) = find_engines(engines("llama")).values()
    cuda_device = device_module.Device(machine.cuda)
    opened = engine_module.OpenEngine(found[0], machine.trt, cuda_device)
    assert opened.in_place
    opened.engine.get_aliased_input_tensor = lambda _: None
    assert not opened._find_in_place()
    opened.engine.get_aliased_input_tensor = lambda name: (
        name.replace("present_", "past_") if name.endswith("0") else None
    )
    with pytest.raises(EngineError, match="only some caches in place"):
        opened._find_in_place()


REAL = {
    "Runtime": ("deserialize_cuda_engine", "get_engine_validity"),
    "ICudaEngine": (
        "num_io_tensors",
        "num_optimization_profiles",
        "device_memory_size_v2",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "get_tensor_shape",
        "get_aliased_input_tensor",
        "create_execution_context",
        "create_runtime_config",
    ),
    "IExecutionContext": (
        "set_optimization_profile_async",
        "set_device_memory",
        "set_input_shape",
        "set_tensor_address",
        "infer_shapes",
        "execute_async_v3",
    ),
    "IRuntimeConfig": (
        "set_execution_context_allocation_strategy",
        "create_runtime_cache",
        "set_runtime_cache",
        "cuda_graph_strategy",
    ),
    "IRuntimeCache": ("serialize", "deserialize"),
}


def test_the_doubles_have_what_the_real_classes_have_and_no_more():
    """So that the doubles cannot drift from the library."""
    trt = pytest.importorskip("tensorrt_rtx", reason="install seq2edge[rtx]")
    import fake_cuda
    import fake_tensorrt as fake

    double = fake.FakeTensorRT(fake_cuda.FakeCuda(), rtx=True)
    for name, kind in (
        ("Runtime", fake.RtxRuntime),
        ("ICudaEngine", fake.Engine),
        ("IExecutionContext", fake.Context),
        ("IRuntimeConfig", fake.RuntimeConfig),
        ("IRuntimeCache", fake.RuntimeCache),
    ):
        methods = {n for n in dir(kind) if not n.startswith("_") and callable(getattr(kind, n))}
        assert all(hasattr(getattr(trt, name), wanted) for wanted in REAL[name])
        assert methods <= set(REAL[name])
    for name in ("float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"):
        assert getattr(trt, name).name == getattr(double, name).name
    for name in ("TensorIOMode", "EngineValidity", "CudaGraphStrategy"):
        assert set(getattr(double, name).__members__) <= set(getattr(trt, name).__members__)
    strategy = "ExecutionContextAllocationStrategy"
    assert set(getattr(double, strategy).__members__) == set(getattr(trt, strategy).__members__)
    reasons = double.EngineInvalidityDiagnostics.__members__
    assert {n: int(v) for n, v in reasons.items()}.keys() <= set(
        trt.EngineInvalidityDiagnostics.__members__
    )


def test_the_project_calls_nothing_that_the_double_lacks():
    """Every function of CUDA that is named in the source exists in the real module too."""
    import re
    from pathlib import Path

    import fake_cuda
    from cuda.bindings import runtime

    source = Path(device_module.__file__).read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:make_)?cuda[A-Z]\w+", source)) - {"cudaGetError"}
    assert len(named) > 20
    assert not [
        name
        for name in named
        if not hasattr(fake_cuda.FakeCuda, name)
        and not any(
            hasattr(getattr(runtime, kind), name)
            for kind in ("cudaMemcpyKind", "cudaStreamCaptureMode", "cudaGraphNodeType")
        )
    ]
    assert not [
        name for name in vars(fake_cuda.FakeCuda) if "cuda" in name and not hasattr(runtime, name)
    ]


def test_the_sidecar_of_these_tests_is_the_engines_own(engines):
    """It says the sizes that the fake plan was made with."""
    bundle = engines("bart")
    info = read_engine_info(bundle.path / "engines" / "decoder.json")
    assert info.sizes == fake_engines.SIZES
    assert BACKENDS["tensorrt"].endswith(".tensorrt:TensorRTBackend")
