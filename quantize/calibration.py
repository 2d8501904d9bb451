"""Running a float bundle on a user's examples and looking inside its graphs.

The model decodes every example itself, through the runtime's own loop. Then its graphs, with the
tensors of interest as further outputs, read what it read and wrote: one row at a time, so that no
padding is seen, and all positions of a sequence at once, which gives the values of every step.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.bundle import Bundle
from seq2edge.bundle.contract import PAST
from seq2edge.bundle.engine_info import LAST_POSITIONS, SEGMENTS
from seq2edge.bundle.graph_check import checked_graph
from seq2edge.bundle.manifest import GraphFlavour, Role
from seq2edge.errors import BackendError, InputError
from seq2edge.evaluation.answers import ids_of
from seq2edge.evaluation.examples import Example
from seq2edge.export.stored_graph import load_graph
from seq2edge.files.progress import PartProgress
from seq2edge.runtime.backend import encoder_feed
from seq2edge.runtime.backends.onnxruntime import import_onnxruntime
from seq2edge.runtime.model import Model, load

TARGET: GraphFlavour = "onnxruntime"
LONGEST = 384  # tokens of one text that are read
NEW_TOKENS = 48  # that the model writes, at most
MIN_POSITIONS = 64  # that every graph must have read
BATCH = 8  # examples decoded at a time

Feed = dict[str, NDArray[Any]]
TensorKey: TypeAlias = tuple[Role, str]  # a graph, a tensor's name in it
OnTensor = Callable[[Role, str, NDArray[Any]], None]  # a graph, a tensor's name, its values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """What one example made the graphs read: the source, and the decoder's tokens.

    `positions` are those that the encoder gives the source, 0 where there is none.
    """

    source: tuple[int, ...] | Path | None
    positions: int
    tokens: tuple[int, ...] = ()


class Calibration:
    """A float bundle with examples that it has decoded.

    Memory is bounded by the longest example, whatever their number; clips and images are read again
    each time. `language` is a multilingual speech model's. Raises InputError for examples that the
    model cannot read, or too few of them.
    """

    def __init__(
        self,
        bundle: Bundle,
        examples: Sequence[Example],
        *,
        language: str | None = None,
        threads: int | None = None,
        progress: PartProgress = lambda _: None,
    ) -> None:
        self.bundle = bundle
        self.threads = threads
        self._model = load(bundle.path, device="cpu", threads=threads, graphs=TARGET)
        self.traces: list[Trace] = []
        for start in range(0, len(examples), BATCH):
            self.traces += _decode(self._model, examples[start : start + BATCH], language)
            progress(min(1.0, (start + BATCH) / len(examples)))
        for role, count in self.positions.items():
            if count < MIN_POSITIONS:
                raise InputError(
                    f"calibration: {len(examples)} examples give the {role} {count} positions, "
                    f"at least {MIN_POSITIONS} are needed; give more or longer ones"
                )

    @property
    def positions(self) -> dict[Role, int]:
        """How many positions each graph reads in all."""
        dims = self._model.dims
        counts: dict[Role, int] = {}
        if dims.encoder is not None:
            counts["encoder"] = sum(trace.positions for trace in self.traces)
        if dims.decoder is not None:
            counts["decoder"] = sum(len(trace.tokens) for trace in self.traces)
        return counts

    def observe(
        self,
        names: Mapping[Role, Sequence[str]],
        on_tensor: OnTensor,
        progress: PartProgress = lambda _: None,
        *,
        target: GraphFlavour = TARGET,
        largest: bool = False,
    ) -> None:
        """Hand over the named tensors of every example, (1, positions, ...), as they are computed.

        `largest` hands over the largest absolute value alone, (), which the graph itself finds.
        """
        sessions = {
            graph.role: InstrumentedSession(
                self,
                graph.role,
                load_graph(checked_graph(self.bundle, graph)),
                names.get(graph.role, ()),
                outputs=graph.role == "encoder",
                largest=largest,
            )
            for graph in self.bundle.manifest.graphs
            if graph.target == target
        }
        for number, trace in enumerate(self.traces, start=1):
            memory: Feed = {}
            if "encoder" in sessions:
                memory = sessions["encoder"].run(self.source(trace), on_tensor)
            if "decoder" in sessions:
                sessions["decoder"].run(memory | self.tokens(trace, target), on_tensor)
            progress(number / len(self.traces))

    def source(self, trace: Trace) -> Feed:
        """What the encoder reads of an example."""
        assert trace.source is not None
        dims, length = self._model.dims, np.array([trace.positions])
        if isinstance(trace.source, tuple):
            ids = np.array([trace.source])
            return {"input_ids": ids, "source_length": length, SEGMENTS: np.zeros_like(ids)}
        signal = self._model.signal(trace.source)[None]
        lengths = length if dims.samples is None else np.array([signal.shape[1]])
        feed, _ = encoder_feed(dims, signal, lengths)
        return feed

    def tokens(self, trace: Trace, target: GraphFlavour = TARGET) -> Feed:
        """What a decoder reads of it beside the encoder's memory, all positions at once."""
        length = len(trace.tokens)
        sizes = {"rows": 1, "capacity": length}
        inputs = self.bundle.graph("decoder", target).inputs
        pasts = [put for put in inputs if put.name.startswith(PAST)]
        shapes = {
            past.name: [sizes[axis] if isinstance(axis, str) else axis for axis in past.shape]
            for past in pasts
        }
        return {
            "input_ids": np.array([trace.tokens]),
            "new_length": np.array([length]),
            "cache_length": np.array([0]),
            LAST_POSITIONS: np.array([1]),
            "source_length": np.array([trace.positions]),
            **{name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()},
        }


def names_by_role(keys: Iterable[TensorKey]) -> dict[Role, list[str]]:
    """The tensors of each graph, for `Calibration.observe`."""
    names: dict[Role, list[str]] = defaultdict(list)
    for role, name in keys:
        names[role].append(name)
    return names


def _decode(model: Model, examples: Sequence[Example], language: str | None) -> Iterator[Trace]:
    """Let the model write what it will after each example: greedily, else with its settings."""
    options = model.options.greedy()
    if model.dims.reads_signal:
        if model.dims.task == "transcribe":
            options = options.replace(decoder_prompt=model.speech_prompt(language, "transcribe"))
        start = model.start_tokens(options)
        options = options.replace(max_length=len(start) + NEW_TOKENS)
        files = [Path(str(example.input)) for example in examples]
        signals = [model.signal(file) for file in files]
        generated = model.signal_ids(signals, options)
        for file, signal, sequences in zip(files, signals, generated, strict=True):
            positions = model.dims.source_positions or int(model.dims.positions_of(len(signal)))
            yield Trace(source=file, positions=positions, tokens=(*start, *sequences[0].ids))
        return
    texts = [
        tuple(ids_of(model, example, new_tokens=NEW_TOKENS, longest=LONGEST))
        for example in examples
    ]
    if model.dims.decoder is None:
        yield from (Trace(source=ids, positions=len(ids)) for ids in texts)
        return
    alone = model.dims.encoder is None
    options = model.with_target_language(options, None)
    start = () if alone else model.start_tokens(options)
    options = options.replace(max_length=max(map(len, texts if alone else [start])) + NEW_TOKENS)
    for ids, sequences in zip(texts, model.generate_ids(texts, options), strict=True):
        written = sequences[0].ids
        if alone:
            yield Trace(source=None, positions=0, tokens=(*ids, *written))
        else:
            yield Trace(source=ids, positions=len(ids), tokens=(*start, *written))


class InstrumentedSession:
    """A graph whose inner tensors can be looked at while it reads a calibration's examples.

    `outputs`: its own outputs come back from `run` too. The graph is changed.
    """

    def __init__(
        self,
        calibration: Calibration,
        role: Role,
        model: ir.Model,
        names: Sequence[str] = (),
        *,
        outputs: bool = False,
        largest: bool = False,
    ) -> None:
        self._role = role
        self._names = list(names)
        own = [str(output.name) for output in model.graph.outputs]
        values = {str(v.name): v for node in model.graph for v in node.outputs}
        self._fetched = [f"{name}.largest" if largest else name for name in names]
        for name in names:
            values[name].type = values[name].type or ir.TensorType(ir.DataType.FLOAT)
            if largest:
                model.graph.outputs.append(_largest(model.graph, values[name]))
            elif name not in own:
                model.graph.outputs.append(values[name])
        self._outputs = own if outputs else []
        graph = ir.to_proto(model).SerializeToString()
        self._session = _open(graph, calibration.bundle.path, calibration.threads)
        self._inputs = {put.name for put in self._session.get_inputs()}

    def run(self, feed: Feed, on_tensor: OnTensor = lambda *_: None) -> Feed:
        """Hand over the named tensors; the graph's own outputs come back, if there are to be."""
        feed = {name: values for name, values in feed.items() if name in self._inputs}
        if not self._outputs and not self._names:
            return {}
        fetched = self._session.run([*self._outputs, *self._fetched], feed)
        for name, values in zip(self._names, fetched[len(self._outputs) :], strict=True):
            on_tensor(self._role, name, values)
        return dict(zip(self._outputs, fetched, strict=False))


def _largest(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The largest absolute value, a number."""
    size = ir.node("Abs", [value])
    maximum = ir.node("ReduceMax", [size.outputs[0]], {"keepdims": 0})
    graph.extend([size, maximum])
    output = maximum.outputs[0]
    output.name, output.type = f"{value.name}.largest", ir.TensorType(ir.DataType.FLOAT)
    output.shape = ir.Shape([])
    return output


def _open(graph: bytes, folder: Path, threads: int | None) -> Any:
    """A session over a graph in memory whose weights lie in `folder`."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3  # that caches are copied here is as it should be
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.fspath(folder)
    )
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise BackendError(f"{folder}: onnxruntime: {error}") from error
