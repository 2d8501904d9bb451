"""What building and running take: caches exactly, the builder within 25 % of a real build."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tied_graphs import write_graph, write_integers

from seq2edge.errors import BundleError
from seq2edge.export.tensorrt.memory_plan import (
    BOARDS,
    GPU_PROCESS,
    OWN_MASK,
    WORKSPACE,
    plan_memory,
    system_share,
)
from seq2edge.export.tensorrt.sizes import BuildSizes
from seq2edge.export.tensorrt.targets import TARGETS
from seq2edge.model.dims import Dims, StackDims

SIZES = BuildSizes(batch=(1, 1, 3), beams=4, source=(1, 8, 20), prompt=(1, 8, 16), capacity=32)
STACK = StackDims(layers=5, heads=8, kv_heads=2, head_dim=16, hidden=96, activation="gelu")
DIMS = Dims(width=64, vocab=50, encoder=STACK, decoder=STACK)
RTX, PORTABLE = TARGETS["rtx-ampere"], TARGETS["portable"]
JETSON = TARGETS["orin-jetpack7.2"]


@pytest.fixture
def graphs(tmp_path):
    """An encoder's and a decoder's file."""
    return {role: write_graph(tmp_path / f"{role}.onnx") for role in ("encoder", "decoder")}


@pytest.fixture
def bundle(tmp_path, make_bundle, make_manifest):
    """A float bundle with these dims; its own graphs are no graphs."""
    manifest = make_manifest(
        dims=DIMS, audio=None, speech=None, precision="float32", quantization=None
    )
    return make_bundle(tmp_path / "bundle", manifest)


def plan(bundle, graphs, target=RTX, **changes):
    """The plan of these files for changed sizes."""
    return plan_memory(bundle, dataclasses.replace(SIZES, **changes), graphs, target=target)


def test_caches_are_exact(bundle, graphs):
    """Rows x key heads x capacity x head_dim, keys and values, layers, float16, two sets."""
    found = plan(bundle, graphs)
    assert found.cache_sets == 2
    assert found.caches == 2 * (12 * 2 * 32 * 16) * 2 * 5 * 2
    assert found.cross == (3 * 2 * 20 * 16) * 2 * 5 * 2
    assert found.outputs == 12 * (50 * 4 + 16 * 12 + 4)
    assert plan(bundle, graphs, top_k=0).outputs == 12 * 50 * 4


def test_one_beam_needs_one_set_of_caches(bundle, graphs):
    """Nothing is reordered."""
    found = plan(bundle, graphs, beams=1)
    assert found.cache_sets == 1
    assert found.caches == (3 * 2 * 32 * 16) * 2 * 5 * 2


def test_float32_caches_are_twice_as_large(bundle, graphs, tmp_path):
    """The type is the graph's."""
    wide = {role: write_graph(tmp_path / "wide.onnx", dtype=np.float32) for role in graphs}
    assert plan(bundle, wide).caches == 2 * plan(bundle, graphs).caches
    assert plan(bundle, wide).cross == 2 * plan(bundle, graphs).cross


def test_sizes_are_those_that_fit_the_model(bundle, graphs, make_manifest):
    """A cache is no longer than the model has positions."""
    stack = dataclasses.replace(STACK, max_positions=24)
    manifest = dataclasses.replace(
        bundle.manifest, dims=Dims(width=64, vocab=50, encoder=stack, decoder=stack)
    )
    short = dataclasses.replace(bundle, manifest=manifest)
    assert plan(short, graphs).caches == plan(bundle, graphs, capacity=24).caches
    assert plan(short, graphs).caches < plan(bundle, graphs).caches


@pytest.mark.parametrize("target", [RTX, JETSON], ids=lambda target: target.name)
@pytest.mark.parametrize(
    "changes",
    [
        {"batch": (1, 1, 4)},
        {"beams": 5},
        {"source": (1, 8, 21)},
        {"prompt": (1, 8, 17)},
        {"capacity": 33},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_more_of_any_size_takes_more(bundle, graphs, changes, target):
    """Running always; building where the builder uses the GPU, and never less."""
    small, large = plan(bundle, graphs, target), plan(bundle, graphs, target, **changes)
    assert large.activations + large.caches > small.activations + small.caches
    assert large.run_peak > small.run_peak
    assert large.build_peak >= small.build_peak
    if target is JETSON:
        assert large.build_peak > small.build_peak


def test_more_weights_take_more(bundle, graphs, tmp_path):
    """Of the engine and of the builder."""
    larger = {role: write_graph(tmp_path / "larger.onnx", layers=5) for role in graphs}
    for small, large in zip(plan(bundle, graphs).graphs, plan(bundle, larger).graphs, strict=True):
        assert large.weights == small.weights + 64 * 64 * 2
        assert large.engine > small.engine
        assert large.build_peak > small.build_peak


def test_engines_built_before_are_held_while_the_next_is_built(bundle, graphs):
    """The peak of all is the decoder's and the encoder's engine."""
    found = plan(bundle, graphs)
    encoder, decoder = found.graphs
    assert found.build_peak == decoder.build_peak + encoder.engine
    assert found.engines == encoder.engine + decoder.engine


def test_a_batch_of_one_size_may_keep_weights_twice(bundle, graphs):
    """In the decoder, whose two profiles then may want them in other forms; the table not."""
    found = plan(bundle, graphs, batch=(1, 1, 1))
    assert found.graphs[1].engine == plan(bundle, graphs).graphs[1].engine + 4 * 64 * 64 * 2
    assert found.graphs[0].engine == plan(bundle, graphs).graphs[0].engine


def test_a_range_of_batches_makes_room_for_all_of_them(bundle, graphs):
    """The source's mask has the most rows of the least batch in each input: 3 x 3, or 3 x 1."""
    wide, narrow = (plan(bundle, graphs, batch=b, beams=1).graphs[1] for b in ((1, 3, 3), (3,) * 3))
    prefill, step = (3 * 3 - 3 * 1) * 16 * 20 * 3 * 2, (3 * 3 - 3 * 1) * 20 * 3 * 2
    assert wide.activations - narrow.activations == prefill + step


def test_an_integer_head_is_widened_for_a_single_row(bundle, tmp_path):
    """In both profiles; with two rows possible in neither."""
    graphs = {"decoder": write_integers(tmp_path / "integers.onnx", vocab=50, width=64)}
    one = plan(bundle, graphs, batch=(1, 1, 1), beams=1).graphs[0]
    even = {"decoder": write_graph(tmp_path / "floats.onnx", vocab=50)}
    floats = plan(bundle, even, batch=(1, 1, 1), beams=1).graphs[0]
    assert one.activations - floats.activations == 2 * 50 * 64 * 2
    two = [plan(bundle, g, batch=(1, 1, 2), beams=1).graphs[0] for g in (graphs, even)]
    assert two[0].activations == two[1].activations


def test_a_source_of_one_length_is_copied_for_all_layers_at_once(bundle, graphs):
    """Otherwise for one of the five in a prefill, and for half of them in a step."""
    fixed, free = (plan(bundle, graphs, source=s).graphs[1] for s in ((20,) * 3, (1, 8, 20)))
    one_layer = 2 * 3 * 32 * 20 * 2
    assert fixed.activations - free.activations == (4 + 2.5) * one_layer


def test_float32_prefill_holds_the_scores_of_its_attention(bundle, tmp_path):
    """No kernel computes it whole: twice the scores of every head, of the cache and the source."""
    half, wide = (
        plan(
            bundle,
            {"decoder": write_graph(tmp_path / "graph.onnx", dtype=dtype)},
            prompt=(1, 1, 1),
        )
        for dtype in (np.float16, np.float32)
    )
    scores = 2 * 8 * 4 * (3 * 32 + 3 * 3 * 20)
    others = 2 * (half.graphs[0].activations - 2 * WORKSPACE)
    exact = others - OWN_MASK * 15 * 32 - 50 * 15 * 4
    assert wide.graphs[0].activations - 2 * WORKSPACE == exact + scores


def test_loading_the_largest_engine_may_take_more_than_running(bundle, graphs, tmp_path):
    """It is read as a whole file before its caches are there."""
    small = {"decoder": write_graph(tmp_path / "large.onnx", width=4096, layers=1)}
    found = plan(bundle, small, batch=(1, 1, 1), beams=1)
    assert found.caches + found.activations + found.cross + found.outputs < found.engines
    assert found.run_peak == GPU_PROCESS + 2 * found.engines


def test_boards_that_are_too_small_are_told(bundle, graphs):
    """Against what is left beside the system, for building and for running apart."""
    small = plan(bundle, graphs)
    assert all(small.fits_build(board) and small.fits_run(board) for board in BOARDS)
    large = plan(bundle, graphs, capacity=1_000_000)
    assert large.caches == 15_360_000_000
    assert [large.fits_run(board) for board in BOARDS] == [False, False, False, True, True]
    assert all(large.fits_build(board) for board in BOARDS), "RTX builds without these"
    jetson = plan(bundle, graphs, JETSON, capacity=1_000_000)
    assert [jetson.fits_build(board) for board in BOARDS] == [False, False, True, True, True]


def test_the_system_has_its_share():
    """A board of 8 GB leaves 6, one of 64 leaves 58.5."""
    assert [(board * 2**30 - system_share(board)) / 2**30 for board in (8, 64)] == [6.0, 58.5]


def test_without_measurements_more_room_is_left_and_that_is_said(bundle, graphs):
    """TensorRT's builder was never measured: GPU process, weights and tensors come on top."""
    rtx, jetson = plan(bundle, graphs), plan(bundle, graphs, JETSON)
    assert (rtx.measured, jetson.measured) == (True, False)
    assert jetson.build_peak > rtx.build_peak + GPU_PROCESS
    assert "measured with TensorRT-RTX" in rtx.table()[-1]
    assert jetson.table()[-1].startswith("never measured")
    assert plan(bundle, graphs, PORTABLE).build_peak == rtx.build_peak, "one code for all of them"


def test_the_table_and_the_values_hold_the_totals(bundle, graphs):
    """The same figures for people and programs."""
    found = plan(bundle, graphs)
    values = json.loads(json.dumps(found.values()))
    assert values["build_peak"] == found.build_peak
    assert values["run_peak"] == found.run_peak
    assert values["boards"]["8"] == {"build": True, "run": True}
    assert [graph["role"] for graph in values["graphs"]] == ["encoder", "decoder"]
    text = "\n".join(found.table())
    assert re.search(rf"^all .* {found.build_peak / 1e6:.0f}$", text, re.MULTILINE)
    assert f"running, in MB: {found.run_peak / 1e6:.0f} (" in text
    assert re.search(r"^builds +yes +yes +yes +yes +yes$", text, re.MULTILINE)
    assert "2 sets of caches" in text


def test_a_lowered_graph_copies_a_cache(bundle, graphs):
    """No operator updates it in place."""
    masked, lowered = (plan(bundle, graphs, TARGETS[f"orin-jetpack{v}"]) for v in ("7.2", "6.2"))
    assert (masked.graphs[1].form, lowered.graphs[1].form) == ("masked", "lowered")
    assert lowered.graphs[1].activations > masked.graphs[1].activations


def test_the_bundles_own_graphs_are_the_default(bundle):
    """The canonical ones of a float bundle, which are none here."""
    with pytest.raises(BundleError, match=r"encoder\.onnx: inputs differ from those of the dims"):
        plan(bundle, None)


def test_a_bundle_for_onnxruntime_is_an_error(tmp_path, make_bundle, make_manifest):
    """It has nothing that engines are built of."""
    manifest = make_manifest(dims=DIMS, audio=None, speech=None)
    with pytest.raises(BundleError, match="has no tensorrt graphs to build engines of; quantize"):
        plan(make_bundle(tmp_path / "other", manifest), None)


def test_the_plan_needs_neither_torch_nor_tensorrt():
    """It is asked before anything is installed for building."""
    code = "import sys, seq2edge.export.tensorrt.memory_plan; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "onnx_ir", "tensorrt", "tensorrt_rtx"}


BUILD = """
import re, sys
from pathlib import Path
from seq2edge.export.tensorrt.engine import Profile, build_engine
profile = Profile(name="encode", sizes={"batch": (1, 1, 3), "source": (1, 8, 20)})
engine = build_engine(Path(sys.argv[1]), [profile], capabilities=("SM86",))
status = Path("/proc/self/status").read_text()
print(len(engine.plan), int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx is not installed: pip install seq2edge[rtx]",
)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc: not Linux")
def test_a_real_build_takes_what_was_told(bundle, tmp_path):
    """120 MB of weights, an odd vocabulary: engine and peak of a fresh process within 25 %."""
    graph = write_graph(tmp_path / "encoder.onnx", vocab=40_001, width=1024, layers=20)
    told = plan(bundle, {"encoder": graph}).graphs[0]
    assert told.weights > 120e6
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(graph)], capture_output=True, text=True, check=True
    )
    engine, peak = map(int, done.stdout.split())
    assert told.engine == pytest.approx(engine, rel=0.25)
    assert told.build_peak == pytest.approx(peak, rel=0.25)
