"""The ONNX Runtime backend against the model itself, and every reason to refuse."""

from __future__ import annotations

import builtins
import dataclasses
import shutil
import types

import device_session
import fake_cuda
import numpy as np
import onnx
import onnxruntime
import pytest

from seq2edge.bundle import Bundle
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import BackendError, BundleError, CapacityError
from seq2edge.export.eager import EagerBackend
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.runtime import backend as backend_choice
from seq2edge.runtime.backend import all_logits, open_backend
from seq2edge.runtime.backends import onnxruntime as backend_module
from seq2edge.runtime.backends.onnxruntime import (
    OnnxRuntimeBackend,
    check_device,
    choose_target,
    import_onnxruntime,
    runs,
    sums_may_saturate,
)
from seq2edge.runtime.backends.onnxruntime_buffers import host_view
from seq2edge.runtime.backends.onnxruntime_cache import GROWTH
from seq2edge.runtime.parity import TOLERANCES

CLOSE = TOLERANCES["float32"].absolute
TARGETS = ("onnxruntime", "canonical")


def both(exported, name, target):
    """The same model as a bundle's graphs and in eager PyTorch."""
    _, folder, _ = exported(name)
    bundle = Bundle.open(folder / "bundle")
    graphs = OnnxRuntimeBackend(bundle, target=target, threads=1)
    return graphs, EagerBackend(load_checkpoint(folder / "checkpoint").model)


def opened(backends, rows, capacity=None, seed=0):
    """A cache of each backend, over the same random sources where there is an encoder."""
    caches = []
    for backend in backends:
        memory = None
        if (
            backend.model.dims.encoder
            if hasattr(backend, "model")
            else "encoder" in backend.sessions
        ):
            rng = np.random.default_rng(seed)
            lengths = rng.integers(3, 10, rows)
            memory = backend.encode(rng.integers(3, 90, (rows, int(lengths.max()))), lengths)
        caches.append(backend.start(memory, rows, capacity))
    return caches


def check_step(backends, caches, tokens, lengths):
    """One step on both gives the same logits and lengths."""
    found = [
        all_logits(b.step(tokens, lengths, c)).copy() for b, c in zip(backends, caches, strict=True)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=CLOSE)
    np.testing.assert_array_equal(caches[0].length, caches[1].length)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["t5", "bart", "llama", "mistral"])
def test_any_mixture_of_steps_gives_the_models_logits(exported, name, target):
    """Unequal prompts, single tokens, several tokens on a past, other orders and more rows."""
    backends = both(exported, name, target)
    caches = opened(backends, 2)
    rng = np.random.default_rng(1)

    def step(rows, lengths):
        tokens = rng.integers(3, 80, (rows, max(lengths)))
        check_step(backends, caches, tokens, np.array(lengths))

    step(2, [5, 3])
    step(2, [1, 1])
    step(2, [2, 4])  # a past and several new tokens
    for cache in caches:
        cache.reorder(np.array([1, 0]))
    step(2, [1, 1])
    for cache in caches:
        cache.reorder(np.array([0, 0, 0, 1, 1, 1]))
    step(6, [1] * 6)
    for cache in caches:
        cache.reorder(np.array([2, 0, 1, 5, 5, 3]))
    step(6, [1] * 6)
    step(6, [3, 1, 2, 2, 1, 3])


@pytest.mark.parametrize("name", ["t5", "bart", "llama", "mistral"])
def test_several_answers_of_a_row_are_those_of_single_steps(exported, name):
    """Behind prompts and pasts, taken back and taken again; the largest logits too."""
    ours, eager = both(exported, name, "onnxruntime")
    caches = opened((eager, ours), 1)
    rng = np.random.default_rng(3)
    assert ours.verifies
    assert not eager.verifies
    for new, positions in ((5, 5), (3, 3), (4, 2), (1, 1), (9, 9)):
        tokens = rng.integers(3, 80, (1, new))
        singles = np.concatenate(
            [eager.step(tokens[:, i : i + 1], np.array([1]), caches[0]) for i in range(new)]
        )[-positions:]
        for _ in range(2):
            answer = ours.step(tokens, np.array([new]), caches[1], positions)
            np.testing.assert_allclose(all_logits(answer), singles, atol=CLOSE)
            np.testing.assert_array_equal(answer.values.max(axis=1), answer.logits().max(axis=1))
            assert answer.ids.shape == (positions, 32)
            caches[1].rewind(int(caches[1].length[0]) - new)
        ours.step(tokens, np.array([new]), caches[1])
        np.testing.assert_array_equal(caches[0].length, caches[1].length)


def test_threads_rest_between_two_runs(exported):
    """As each session says; by default they would wait busily."""
    backend, _ = both(exported, "bart", "onnxruntime")
    assert backend.sessions
    for session in backend.sessions.values():
        key, value = backend_module.REST_BETWEEN_RUNS
        assert session.get_session_options().get_session_config_entry(key) == value


@pytest.mark.parametrize("target", TARGETS)
def test_an_unset_capacity_grows_and_keeps_what_was_seen(exported, target):
    """Past one and two doublings; T5 has no limit of its own."""
    backends = both(exported, "t5", target)
    caches = opened(backends, 2)
    rng = np.random.default_rng(2)
    check_step(backends, caches, rng.integers(3, 80, (2, GROWTH - 2)), np.array([GROWTH - 2, 9]))
    for _ in range(4):
        check_step(backends, caches, rng.integers(3, 80, (2, 1)), np.array([1, 1]))
    check_step(backends, caches, rng.integers(3, 80, (2, 2 * GROWTH)), np.array([2 * GROWTH, 1]))
    assert caches[0]._capacity == 4 * GROWTH


@pytest.mark.parametrize("target", TARGETS)
def test_a_set_capacity_is_filled_and_then_refuses(exported, target):
    """Exactly what was asked for fits, one token more does not, and the cache stays usable."""
    backend, _ = both(exported, "llama", target)
    cache = backend.start(None, 1, 6)
    backend.step(np.array([[5, 6, 7, 8, 9]]), np.array([5]), cache)
    with pytest.raises(CapacityError, match="7 tokens do not fit the 6 that were set"):
        backend.step(np.array([[5, 6]]), np.array([2]), cache)
    assert cache.length.tolist() == [5]
    backend.step(np.array([[5]]), np.array([1]), cache)
    with pytest.raises(CapacityError):
        backend.step(np.array([[5]]), np.array([1]), cache)


def test_memory_of_one_encoding_serves_all_beams(exported):
    """One copy of the cross-attention keys for four rows an input."""
    backend, _ = both(exported, "bart", "onnxruntime")
    memory = backend.encode(np.array([[5, 6, 7], [8, 9, 4]]), np.array([3, 2]))
    cache = backend.start(memory, 8, None)
    backend.step(np.full((8, 1), 2), np.ones(8, dtype=np.int64), cache)
    assert {value.shape()[0] for value in memory._given.values()} == {2}
    assert cache.length.shape == (8,)


def with_requirement(bundle, **releases):
    """The bundle as if its graphs needed these releases."""
    graphs = tuple(
        dataclasses.replace(g, requires={"onnxruntime": releases[g.target]})
        for g in bundle.manifest.graphs
    )
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, graphs=graphs))


@pytest.mark.parametrize(
    ("version", "target"),
    [("1.32.0", "onnxruntime"), ("1.23.2", "onnxruntime"), ("2.0.0+cu13", "onnxruntime")],
)
def test_the_fastest_graphs_that_a_release_runs_are_taken(exported, version, target):
    """By numbers, not by letters."""
    bundle = Bundle.open(exported("llama")[1] / "bundle")
    assert choose_target(bundle, version) == target
    assert runs(bundle, "canonical", version) == (version != "1.23.2")


def test_the_canonical_graphs_serve_where_the_others_do_not_run(exported):
    """The choice follows the recorded needs."""
    bundle = Bundle.open(exported("llama")[1] / "bundle")
    newer = with_requirement(bundle, canonical="1.32", onnxruntime="1.40")
    assert choose_target(newer, "1.32.1") == "canonical"


def test_a_bundle_of_canonical_graphs_alone_is_run(exported):
    """Such as an emulated one; and one for other targets alone says so."""
    bundle = Bundle.open(exported("bart")[1] / "bundle")

    def only(target):
        graphs = tuple(
            dataclasses.replace(graph, target=target)
            for graph in bundle.manifest.graphs
            if graph.target == "canonical"
        )
        return Bundle(
            path=bundle.path, manifest=dataclasses.replace(bundle.manifest, graphs=graphs)
        )

    assert choose_target(only("canonical"), "1.32.0") == "canonical"
    with pytest.raises(BackendError, match="holds graphs for tensorrt alone; quantize for onnx"):
        choose_target(only("tensorrt"), "1.32.0")


def test_a_release_that_runs_nothing_is_told_what_is_needed(exported):
    """The least that would do."""
    bundle = Bundle.open(exported("mistral")[1] / "bundle")
    with pytest.raises(BackendError, match=r"need onnxruntime 1\.31 or newer, 1\.23\.2 is"):
        choose_target(bundle, "1.23.2")
    future = with_requirement(bundle, canonical="99.0", onnxruntime="99.0")
    with pytest.raises(BackendError, match=r"need onnxruntime 99\.0"):
        OnnxRuntimeBackend(future)
    with pytest.raises(BackendError, match=r"canonical graphs need onnxruntime 99\.0"):
        OnnxRuntimeBackend(future, target="canonical")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["whisper", "trocr"])
def test_clips_and_images_are_encoded_few_at_a_time(exported, monkeypatch, name, target):
    """Each as alone, bit for bit, whatever is beside it; the memory goes on as any other."""
    bundle = Bundle.open(exported(name)[1] / "bundle")
    backend = OnnxRuntimeBackend(bundle, target=target)
    dims, rng = bundle.manifest.dims, np.random.default_rng(0)
    shape = backend.sessions["encoder"].get_inputs()[0].shape[1:]
    sources = rng.standard_normal((5, *shape)).astype(np.float32)
    lengths = np.full(5, dims.source_positions)
    monkeypatch.setattr(backend_module, "TOGETHER", 2 * dims.source_positions + 1)
    calls, run = [], onnxruntime.InferenceSession.run_with_iobinding

    def counted(session, binding):
        calls.append(session)
        return run(session, binding)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", counted)
    memory = backend.encode(sources, lengths)
    assert len(calls) == 3
    alone = [backend.encode(sources[i : i + 2], lengths[i : i + 2]) for i in (0, 2, 4)]
    expected = {
        name: np.concatenate([host_view(each.tensors[name]) for each in alone])
        for name in alone[0].tensors
    }
    cache = backend.start(memory, 5, None)
    cache.keep(np.array([4, 1]))
    cache.join(backend.start(backend.encode(sources[2:3], lengths[2:3]), 1, None))
    for part, array in memory._arrays().items():
        found = array[:3, :, : dims.source_positions]
        np.testing.assert_array_equal(found, expected[part][[4, 1, 2]])


def test_a_release_that_checks_no_graphs_makes_no_bundles(exported, monkeypatch, tmp_path):
    """It is said before anything is read or traced, by export and quantize."""
    _, folder, _ = exported("llama")
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    told = r"1\.23\.2 is installed, to make bundles takes 1\.31 or newer, which needs Python 3\.11"
    with pytest.raises(BackendError, match=told):
        export_checkpoint(tmp_path / "nothing", tmp_path / "bundle")
    with pytest.raises(BackendError, match=told):
        quantize_bundle(folder / "bundle", tmp_path / "bundle", "int8-dynamic")
    assert not any(tmp_path.iterdir())


def test_unknown_graphs_and_devices_are_refused_by_name(exported):
    """With what is known."""
    bundle = Bundle.open(exported("llama")[1] / "bundle")
    with pytest.raises(BackendError, match="no graphs for 'openvino'"):
        OnnxRuntimeBackend(bundle, target="openvino")
    with pytest.raises(BackendError, match="tensorrt is for cuda alone; leave it out for cpu"):
        OnnxRuntimeBackend(bundle, target="tensorrt")
    with pytest.raises(
        BackendError, match="device: 'tpu' is unknown, known: auto, tensorrt, cuda, cpu"
    ):
        open_backend(bundle, device="tpu")
    with pytest.raises(BackendError, match="device: 'tpu' is unknown"):
        check_device(onnxruntime, "tpu")


def test_a_damaged_graph_is_an_error_with_its_name(exported, tmp_path):
    """Of the bundle, or of the backend where the library refuses what we let pass."""
    folder = shutil.copytree(exported("gpt2")[1] / "bundle", tmp_path / "bundle")
    bundle, file = Bundle.open(folder), folder / "decoder.onnxruntime.onnx"
    model = onnx.load(file, load_external_data=False)
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(BundleError, match=r"decoder\.onnxruntime\.onnx: not a graph of seq2edge"):
        open_backend(bundle, device="cpu")
    for node in model.graph.node:
        if node.op_type == "Gelu":  # of floats, which this one does not take
            node.op_type = "Not"
            del node.attribute[:]
    file.write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match=r"decoder\.onnxruntime\.onnx: onnxruntime: "):
        open_backend(bundle, device="cpu")


@pytest.mark.parametrize("gpu", [True, False])
def test_cuda_is_refused_where_it_was_not_compiled_in(exported, monkeypatch, gpu):
    """And `auto` goes on to the CPU, saying why on a machine with a GPU."""
    monkeypatch.setattr(backend_choice, "driver_error", lambda: None if gpu else "none here")
    bundle = Bundle.open(exported("llama")[1] / "bundle")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BackendError, match=r"built without CUDA.*install seq2edge\[cuda\]"):
        open_backend(bundle, device="cuda")
    backend, reason = open_backend(bundle)
    assert backend.device == "cpu"
    assert ("cuda: not used, onnxruntime: built without" in reason) is gpu
    assert reason.endswith("cpu: works")


def fake_library(providers, got):
    """An onnxruntime whose sessions get `got` whatever they ask for."""
    session = types.SimpleNamespace(get_providers=lambda: [got])
    return types.SimpleNamespace(
        __version__="1.32.0",
        get_available_providers=lambda: providers,
        SessionOptions=onnxruntime.SessionOptions,
        InferenceSession=lambda *_, **__: session,
    )


def test_cuda_is_refused_without_a_driver(monkeypatch):
    """What is compiled in does not mean that it works."""

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(backend_choice.ctypes, "CDLL", missing)
    library = fake_library(["CUDAExecutionProvider", "CPUExecutionProvider"], "")
    with pytest.raises(BackendError, match=r"no NVIDIA driver here \(libcuda\.so\.1: cannot open"):
        check_device(library, "cuda")


def test_a_session_that_fell_back_to_the_cpu_is_refused(exported, monkeypatch):
    """ONNX Runtime says nothing when its CUDA libraries do not load; we do."""
    bundle = Bundle.open(exported("llama")[1] / "bundle")
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    library = fake_library(providers, "CPUExecutionProvider")
    monkeypatch.setattr(backend_module, "import_onnxruntime", lambda: library)
    monkeypatch.setattr(backend_module, "import_cuda", fake_cuda.FakeCuda)
    monkeypatch.setattr(backend_choice.ctypes, "CDLL", lambda name: name)
    with pytest.raises(BackendError, match="asked for CUDAExecutionProvider, got CPUExecution"):
        OnnxRuntimeBackend(bundle, device="cuda")
    library.get_available_providers = list
    with pytest.raises(BackendError, match=r"cuda: not used, .*; cpu: not used, .*built without"):
        open_backend(bundle)


def test_a_missing_library_names_the_extra(monkeypatch):
    """What to install, not a traceback."""
    original = builtins.__import__

    def without(name, *rest):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendError, match=r"install seq2edge\[cpu\] or seq2edge\[cuda\]"):
        import_onnxruntime()


@pytest.fixture
def cuda(monkeypatch):
    """A device that is no more than a double, with ONNX Runtime's."""
    double = fake_cuda.FakeCuda()
    device_session.install(monkeypatch, double)
    return double


def test_a_device_takes_the_graphs_that_run_there_whole(exported, cuda):
    """The fused operator has no float32 kernel there; products stay in float32."""
    bundle = Bundle.open(exported("llama")[1] / "bundle")
    backend = OnnxRuntimeBackend(bundle, device="cuda")
    assert backend.target == "canonical"
    session = backend.sessions["decoder"]
    ((provider, settings),) = session.asked
    (stream,) = cuda.streams
    assert (provider, settings["use_tf32"]) == ("CUDAExecutionProvider", "0")
    assert settings["user_compute_stream"] == str(stream)
    assert session.options.log_severity_level == 4  # what it would say is raised
    with pytest.raises(BackendError, match="onnxruntime is for the cpu alone; leave it out for cu"):
        OnnxRuntimeBackend(bundle, device="cuda", target="onnxruntime")
    with pytest.raises(BackendError, match=r"need onnxruntime 1\.31 or newer, 1\.30\.0 is"):
        choose_target(bundle, "1.30.0", "cuda")
    fused = tuple(graph for graph in bundle.manifest.graphs if graph.target == "onnxruntime")
    quantized = dataclasses.replace(bundle.manifest, graphs=fused)
    with pytest.raises(BackendError, match="they run on the cpu; for cuda take the float bundle"):
        choose_target(Bundle(path=bundle.path, manifest=quantized), "1.31.1", "cuda")


@pytest.mark.parametrize(
    ("role", "call"),
    [
        ("decoder", lambda b, c: b.step(np.array([[10**6]]), np.array([1]), c)),
        ("encoder", lambda b, _: b.encode(np.array([[10**6]]), np.array([1]))),
        ("encoder", lambda b, _: b.pool(np.array([[10**6]]), np.array([1]))),
    ],
    ids=["step", "encode", "pool"],
)
def test_a_call_that_fails_inside_names_the_node(exported, role, call):
    """What ONNX Runtime raises has no common base; here an id is none of the table's rows."""
    name = "bert" if call.__code__.co_names[0] == "pool" else "bart"
    backend = OnnxRuntimeBackend(Bundle.open(exported(name)[1] / "bundle"), threads=1)
    cache = None
    if role == "decoder":
        memory = backend.encode(np.array([[5, 6]]), np.array([2]))
        cache = backend.start(memory, 1, None)
    with pytest.raises(BackendError, match=rf"^onnxruntime: {role}, Gather\w* node \S+: .*verify"):
        call(backend, cache)


@pytest.mark.parametrize("length", [-1, 3])
def test_lengths_that_kernels_cannot_have_are_refused(exported, length):
    """They write where a length says, without asking."""
    lengths, ids = np.array([length]), np.array([[5, 6]])
    backend = OnnxRuntimeBackend(Bundle.open(exported("bart")[1] / "bundle"), threads=1)
    with pytest.raises(BackendError, match=f"source_length: {length}, it is 0 to 2"):
        backend.encode(ids, lengths)
    with pytest.raises(BackendError, match=f"source_length: {length}, it is 0 to 2"):
        backend.pool(ids, lengths)
    cache = backend.start(backend.encode(ids, np.array([2])), 1, None)
    with pytest.raises(BackendError, match=f"new_length: {length}, it is 0 to 2"):
        backend.step(ids, lengths, cache)


def test_clips_have_all_of_their_positions(exported):
    """The fused graphs read no lengths of theirs."""
    backend = OnnxRuntimeBackend(Bundle.open(exported("whisper")[1] / "bundle"), threads=1)
    dims = backend._dims
    positions = dims.source_positions
    features = np.zeros((1, *dims.source_shape), np.float32)
    with pytest.raises(
        BackendError, match=f"{positions - 1}, these graphs read all {positions} pos"
    ):
        backend.encode(features, np.array([positions - 1]))


@pytest.mark.parametrize(
    ("flags", "may"),
    [
        ("fpu avx2 avx512f", True),
        ("fpu avx2 avx_vnni", False),
        ("avx512_vnni fpu", False),
        ("amx_int8", False),
        ("", True),
    ],
)
def test_which_processors_add_products_exactly(tmp_path, flags, may):
    """By what Linux says of them; elsewhere nobody knows."""
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nvmx flags\t: amx_int8\nflags\t\t: {flags}\n")
    assert sums_may_saturate(file) is may
    assert sums_may_saturate(tmp_path / "nowhere")
