"""One weights file for several graphs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from seq2edge.export.weights import ALIGNMENT, INLINE_BYTES, WeightsWriter


def model(*tensors):
    """A graph with these initializers and nothing else."""
    values = [
        ir.Value(
            name=t.name, shape=ir.Shape(t.shape.numpy()), type=ir.TensorType(t.dtype), const_value=t
        )
        for t in tensors
    ]
    graph = ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 24}, name="g")
    return ir.Model(graph, ir_version=10)


def written(graph, name):
    """Where a tensor was put."""
    return graph.graph.initializers[name].const_value


def test_tensors_of_the_same_memory_are_written_once(tmp_path):
    """Whatever they are called, in whichever graph; equal but separate ones are two."""
    table = np.arange(1024, dtype=np.float32)
    one, two = model(ir.tensor(table, name="a")), model(ir.tensor(table, name="b"))
    three = model(ir.tensor(table.copy(), name="c"))
    WeightsWriter(tmp_path / "weights.data").write([one, two, three])
    assert written(one, "a").offset == written(two, "b").offset == 0
    assert written(three, "c").offset == ALIGNMENT
    assert (tmp_path / "weights.data").stat().st_size == 2 * ALIGNMENT
    for graph, name in ((one, "a"), (two, "b"), (three, "c")):
        np.testing.assert_array_equal(written(graph, name).numpy(), table)


def test_views_with_other_strides_are_other_tensors(tmp_path):
    """A transposed view of the same memory holds other bytes."""
    table = np.arange(1024, dtype=np.float32).reshape(32, 32)
    graph = model(ir.tensor(table, name="a"), ir.Tensor(table.T, name="b"))
    WeightsWriter(tmp_path / "weights.data").write([graph])
    np.testing.assert_array_equal(written(graph, "b").numpy(), table.T)
    assert written(graph, "b").offset != written(graph, "a").offset


def test_small_tensors_stay_in_the_graph(tmp_path):
    """Shape inference reads those."""
    small = np.zeros(INLINE_BYTES // 4, dtype=np.float32)
    graph = model(ir.tensor(small, name="small"))
    WeightsWriter(tmp_path / "weights.data").write([graph])
    assert isinstance(written(graph, "small"), ir.Tensor)
    assert (tmp_path / "weights.data").stat().st_size == 0


def test_a_lazy_tensor_is_computed_once_and_counted(tmp_path):
    """Progress tells bytes; two graphs with one lazy tensor share it."""
    calls, sizes = [], []
    table = np.ones(1000, dtype=np.float32)

    def make():
        calls.append(1)
        return ir.Tensor(table, name="lazy")

    lazy = ir.LazyTensor(make, ir.DataType.FLOAT, ir.Shape([1000]), name="lazy")
    one, two = model(lazy), model(lazy)
    WeightsWriter(tmp_path / "weights.data", sizes.append).write([one, two])
    assert sizes == [4000]
    assert len(calls) == 1
    assert written(one, "lazy").offset == written(two, "lazy").offset == 0


def test_layers_that_share_their_weights_are_written_once(exported):
    """The bundle of an ALBERT is no larger than its checkpoint."""
    model, folder, _ = exported("albert-embedding")
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert model.config.num_hidden_layers == 3
    assert (folder / "bundle" / "weights.data").stat().st_size < size
