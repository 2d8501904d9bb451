"""The lowered graphs answer as the canonical ones do, with operators that old parsers read."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny_models
from lowering import model_of, value_of

from seq2edge.bundle import Bundle
from seq2edge.errors import ExportError
from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18
from seq2edge.export.passes.parser_operators import PARSERS, find_parser
from seq2edge.runtime import parity
from seq2edge.runtime.backend import all_logits
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from seq2edge.runtime.model import Model

# What TensorRT 10.3 reads of any family, written out: a change of the list is seen here.
READ = set(
    "Add And Cast Concat Conv Cos Div Equal Erf Exp Expand Gather GatherND Gemm Greater"
    " GreaterOrEqual LayerNormalization Less LessOrEqual MatMul Max Min Mul Neg Not Pad Pow Range"
    " ReduceMean ReduceSum Relu Reshape ScatterND Shape Sigmoid Sin Softmax Softplus Split Sqrt"
    " Slice Squeeze Sub Tanh Transpose Unsqueeze Where".split()
)


class LoweredBackend(OnnxRuntimeBackend):
    """Runs a bundle's canonical graphs after both passes."""

    def __init__(self, bundle, folder):
        self.folder = folder
        super().__init__(bundle, target="canonical", threads=1)

    def _open(self, bundle, graph, threads):
        path = self.folder / graph.file
        ir.save(lowered(bundle.file(graph.file)), path, external_data=f"{graph.role}.data")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def lowered(path):
    """The graph of that file after both passes."""
    model = ir.load(path)
    LengthToMask()(model)
    LowerToOpset18()(model)
    return model


@pytest.fixture
def opened(exported, tmp_path):
    """Opens a tiny model's bundle with its canonical and its lowered backend."""

    def get(name):
        bundle = Bundle.open(exported(name)[1] / "bundle")
        canonical = OnnxRuntimeBackend(bundle, target="canonical", threads=1)
        return bundle, canonical, LoweredBackend(bundle, tmp_path)

    return get


def edge(values):
    """Names, types and axes of a graph's inputs or outputs."""
    return [(v.name, v.dtype, [str(axis) for axis in v.shape]) for v in values]


@pytest.mark.parametrize("name", [*tiny_models.ALL, *tiny_models.FOREIGN])
def test_old_parsers_read_every_family(exported, name, tmp_path):
    """Opset 18, valid, listed operators in the listed form, and the contract as it was."""
    for path in (exported(name)[1] / "bundle").glob("*coder.onnx"):
        model = lowered(path)
        ir.save(model, tmp_path / path.name, external_data=f"{path.stem}.data")
        onnx.checker.check_model(tmp_path / path.name, full_check=True)
        assert dict(model.opset_imports) == {"": 18}
        canonical = ir.load(path).graph
        assert edge(model.graph.inputs) == edge(canonical.inputs)
        assert edge(model.graph.outputs) == edge(canonical.outputs)
        for node in model.graph:
            assert node.op_type in READ
            assert "reduction" not in node.attributes
            if node.op_type in ("Squeeze", "Unsqueeze", "ReduceMean", "ReduceSum"):
                assert node.inputs[1].is_initializer()
            assert all(len(v.shape) <= 4 for v in node.outputs), f"{node.name} has five axes"
            assert all(v.dtype is not None for v in node.outputs)


@pytest.mark.parametrize("name", [*tiny_models.ALL, *tiny_models.FOREIGN])
def test_lowered_graphs_answer_as_the_canonical_ones(opened, name):
    """Unequal rows, prefill, steps with two beams an input: the same tokens and logits."""
    bundle, canonical, low = opened(name)
    options = bundle.manifest.generation or {}
    start = options.get("decoder_start_token_id")
    inputs = parity.make_inputs(bundle.manifest.dims, () if start is None else (start,), seed=5)
    if positions := bundle.manifest.dims.source_positions:
        inputs["source_length"] = np.array([2 * positions // 5])
    found = parity.replay(low, parity.record(canonical, inputs))
    assert found.max_absolute < 2e-5
    assert found.tokens_equal == found.tokens_compared


@pytest.mark.parametrize("name", [*tiny_models.GENERATORS, *tiny_models.FOREIGN])
@pytest.mark.parametrize("beams", [1, 4])
def test_the_decode_loop_gives_the_same_sequences(opened, name, beams):
    """Greedy and beam search of a batch of unequal lengths."""
    bundle, *backends = opened(name)
    dims, found = bundle.manifest.dims, []
    for backend in backends:
        model = Model(bundle, backend)
        options = model.options.replace(
            max_new_tokens=20, max_length=None, eos_token_id=(), num_beams=beams
        )
        rng = np.random.default_rng(3)
        if dims.samples:
            signals = [rng.standard_normal(n, dtype=np.float32) for n in (9000, 2000, 895)]
            found.append(model.transcribe_ids(signals, options))
        elif dims.source_shape:
            decode = model.read_ids if dims.image else model.transcribe_ids
            signals = rng.standard_normal((2, *dims.source_shape), dtype=np.float32)
            found.append(decode(signals, options))
        else:
            prompts = [rng.integers(3, tiny_models.VOCAB - 16, n).tolist() for n in (7, 40, 9)]
            found.append(model.generate_ids(prompts, options))
    wanted, low = ([s for sequences in each for s in sequences] for each in found)
    assert [s.ids for s in low] == [s.ids for s in wanted]
    assert [s.score for s in low] == pytest.approx([s.score for s in wanted], abs=1e-4)


@pytest.mark.parametrize("name", ["t5", "bart", "mistral", "qwen3"])
def test_several_tokens_go_onto_pasts_of_unequal_lengths(opened, name):
    """A prompt in pieces: padding of short rows is written over, and never seen."""
    bundle, *backends = opened(name)
    rng = np.random.default_rng(4)
    pieces = [
        (rng.integers(3, 80, (3, new)), np.array(lengths))
        for new, lengths in ((5, [5, 2, 4]), (4, [1, 4, 2]), (1, [1, 1, 1]))
    ]
    logits = []
    for backend in backends:
        memory = None
        if bundle.manifest.dims.encoder is not None:
            memory = backend.encode(
                np.array([[5, 6, 7], [8, 9, 0], [3, 0, 0]]), np.array([3, 2, 1])
            )
        cache = backend.start(memory, 3, 16)
        logits.append([all_logits(backend.step(*piece, cache)).copy() for piece in pieces])
    np.testing.assert_allclose(logits[1], logits[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["bart", "llama", "t5"])
def test_layers_share_what_is_the_same(exported, name):
    """Places in the cache, angles and folded masks are made once a graph."""
    model = lowered(exported(name)[1] / "bundle" / "decoder.onnx")
    scatters = [node for node in model.graph if node.op_type == "ScatterND"]
    assert len(scatters) == 4
    assert len({node.inputs[1] for node in scatters}) == 1
    masks = {n.inputs[1] for n in model.graph if _is_masked_score(n)}
    assert len(masks) == 1 + (name != "llama")


def _is_masked_score(node):
    readers = [reader.op_type for reader in node.outputs[0].consumers()]
    return node.op_type == "Add" and readers == ["Softmax"]


@pytest.mark.parametrize(
    ("operator", "dtype", "message"),
    [
        ("Swish", ir.DataType.FLOAT, r"TensorRT 10\.3 does not read it, Swish of float$"),
        ("Sigmoid", ir.DataType.DOUBLE, "Sigmoid of double"),
        ("Relu", ir.DataType.BOOL, "Relu of bool"),
        ("Sqrt", ir.DataType.INT64, "Sqrt of int64"),
    ],
)
def test_what_the_parser_does_not_read_is_an_error(operator, dtype, message):
    """By the operator, or by the type of its data."""
    x = value_of("x", ("n",), dtype)
    model = model_of(ir.node(operator, [x], name="it"), [x], [(("n",), dtype)])
    with pytest.raises(ExportError, match=message):
        LowerToOpset18()(model)


def test_operators_of_other_domains_are_an_error():
    """A parser knows the standard ones alone."""
    x = value_of("x", ("n",), ir.DataType.FLOAT)
    node = ir.node("Relu", [x], domain="com.microsoft", name="it")
    with pytest.raises(ExportError, match="does not read it"):
        LowerToOpset18()(model_of(node, [x], [(("n",), ir.DataType.FLOAT)]))


@pytest.mark.parametrize(
    ("kind", "scale", "attributes", "opset"),
    [
        (ir.DataType.INT8, ir.DataType.FLOAT, {"axis": 1}, 18),
        (ir.DataType.INT8, ir.DataType.FLOAT16, {"axis": 1}, 19),
        (ir.DataType.INT4, ir.DataType.FLOAT16, {"axis": 0, "block_size": 2}, 21),
    ],
)
def test_quantized_weights_say_which_opset_they_need(kind, scale, attributes, opset):
    """Scales in half precision came with 19, blocks and 4 bits with 21."""
    scales = (2, 4) if "block_size" in attributes else (4,)
    inputs = [value_of("q", (4, 4), kind), value_of("s", scales, scale)]
    node = ir.node("DequantizeLinear", inputs, attributes, name="weight")
    model = model_of(node, inputs, [((4, 4), scale)])
    if opset > 18:
        with pytest.raises(ExportError, match=f"needs opset {opset}, TensorRT 9 reads up to 18"):
            LowerToOpset18(dataclasses.replace(PARSERS["10.3"], release="9", opset=18))(model)
    LowerToOpset18()(model)
    assert model.opset_imports[""] == opset
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


@pytest.mark.parametrize(
    ("release", "known"),
    [("10.0.1", "10.3"), ("10.3.0.30", "10.3"), ("10.9", "10.3"), ("10.13.3", "10.13")],
)
def test_a_release_has_the_parser_known_before_it(release, known):
    """The newest that is not newer; 10.9 is older than 10.13."""
    assert find_parser(release) is PARSERS[known]


def test_a_newer_parser_reads_what_an_older_one_does():
    """Operators came, none went; what the masked form needs is in neither."""
    old, new = PARSERS["10.3"].operators, PARSERS["10.13"].operators
    assert old.items() < new.items()
    assert not {"Attention", "TensorScatter", "RMSNormalization", "RotaryEmbedding"} & set(new)
