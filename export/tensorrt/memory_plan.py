"""What building a bundle's engines takes, and running them, told before either.

Arithmetic from the sizes of weights, the dims and what the engines are built for; no TensorRT.
Caches are exact. The builder's peak was measured with TensorRT-RTX 1.7.1, whose builder uses no
GPU, in builds of four models, and checked on others (`benchmarks/build_memory.py`, docs/building.md
has the table). For TensorRT itself, whose builder also times kernels on the GPU, it is an
assumption, and marked so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2edge.bundle import Bundle
from seq2edge.bundle.engine_info import EngineSizes, Form
from seq2edge.bundle.graph_check import checked_graph
from seq2edge.bundle.manifest import Role
from seq2edge.errors import BundleError
from seq2edge.evaluation.tables import aligned
from seq2edge.export.tensorrt.graph_sizes import GraphSizes, read_sizes
from seq2edge.export.tensorrt.sizes import BuildSizes, engine_graphs, fitted_sizes
from seq2edge.export.tensorrt.targets import Target
from seq2edge.model.dims import Dims, StackDims

# The builder's peak in bytes, by least squares of relative errors over builds of the models that
# the benchmark marks as fitted, in several sizes. Half of the base is Python with its libraries,
# the rest the builder of a graph without weights.
BUILDER = 295_000_000
# What it holds of a graph's weights: the mapped file, and what is made of them on the way.
SOURCE_COPIES = 1.8
# And of the weights as the engine keeps them: inside it and serialized.
ENGINE_COPIES = 1.6
NODE = 210_000  # a node of the graph in a profile: its layers, kernels tried and the log
KERNEL = 20_000  # of that, in the engine

# A process that runs or builds on a GPU, before it holds a model. Not measured: NVIDIA's forum
# names about 600 MiB for the loaded libraries (forums.developer.nvidia.com/t/56741).
GPU_PROCESS = 600 * 2**20

# Activations, as the builder states them; the estimate is the most that was seen of each part.
WORKSPACE = 8 * 2**20  # what products and attention of any size reserve
LAYER_WIDTHS = 5  # a layer's residual, query, key, value and result of attention at once
OWN_MASK = 9  # bytes of a position beside the mask of the cache itself: int64 and boolean
SOURCE_MASK = 3  # the mask of the source, so many times
LOGIT, LOG_SUM_EXP, TOP_LOGIT = 4, 4, 12  # bytes; the last is a logit and its token
SCORES = 2  # before and after the softmax, where no kernel computes the whole attention

BOARDS = (4, 8, 16, 32, 64)  # GiB of a board, which CPU and GPU share
SYSTEM_BASE, SYSTEM_PART = 3 * 2**29, 16  # 1.5 GiB and a sixteenth; an assumption
MB = 10**6
YES = {True: "yes", False: "no"}
MEASURED = (
    "building: measured with TensorRT-RTX 1.7.1; running: never measured; "
    "on boards 1.5 GiB and a sixteenth are left to the system"
)
ASSUMED = (
    "never measured with TensorRT: what TensorRT-RTX takes, and room for weights and tensors on "
    "the GPU; on boards 1.5 GiB and a sixteenth are left to the system"
)


def system_share(board: int) -> int:
    """Bytes of a board of so many GiB that are left to firmware, Linux and its desktop.

    Not measured on a board; take the desktop down and look at `free` for your own figure.
    """
    return SYSTEM_BASE + board * 2**30 // SYSTEM_PART


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphPlan:
    """One engine, in bytes: the graph's weights, the engine, the builder's peak, its activations.

    `activations` are those of every profile together.
    """

    role: Role
    form: Form
    weights: int
    engine: int
    build_peak: int
    activations: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """All engines of a bundle, in bytes.

    `caches` are the decoder's own keys and values in all `cache_sets` (two where beams are
    reordered from one into the other), `cross` the source's, `outputs` the logits and what tokens
    are chosen from. `measured` tells whether the builder's peak rests on measurements.
    """

    target: str
    measured: bool
    graphs: tuple[GraphPlan, ...]
    cache_sets: int
    caches: int
    cross: int
    outputs: int

    @property
    def build_peak(self) -> int:
        """The most that one process needs to build all, the engines built before in its hands."""
        before, peaks = 0, [0]
        for graph in self.graphs:
            peaks.append(graph.build_peak + before)
            before += graph.engine
        return max(peaks)

    @property
    def engines(self) -> int:
        """All engines together."""
        return sum(graph.engine for graph in self.graphs)

    @property
    def activations(self) -> int:
        """Of all engines and profiles, each with its own."""
        return sum(graph.activations for graph in self.graphs)

    @property
    def run_peak(self) -> int:
        """A process that runs the engines, or is loading the last of them from a whole file."""
        working = self.caches + self.cross + self.outputs + self.activations
        loading = max((graph.engine for graph in self.graphs), default=0)
        return GPU_PROCESS + self.engines + max(working, loading)

    def fits_build(self, board: int) -> bool:
        """Whether all is built on a board of so many GiB beside its system."""
        return self.build_peak <= board * 2**30 - system_share(board)

    def fits_run(self, board: int) -> bool:
        """Whether it runs there."""
        return self.run_peak <= board * 2**30 - system_share(board)

    def values(self) -> dict[str, Any]:
        """Plain JSON values, with the totals and the boards."""
        totals = {name: getattr(self, name) for name in ("build_peak", "run_peak")}
        boards = {
            str(board): {"build": self.fits_build(board), "run": self.fits_run(board)}
            for board in BOARDS
        }
        return {**dataclasses.asdict(self), **totals, "boards": boards}

    def table(self) -> list[str]:
        """The same for people, in MB."""
        rows: list[tuple[str, ...]] = [("", "form", "weights", "engine", "building")]
        for graph in self.graphs:
            sizes = (graph.weights, graph.engine, graph.build_peak)
            rows.append((graph.role, graph.form, *map(_mb, sizes)))
        rows.append(("all", "", "", _mb(self.engines), _mb(self.build_peak)))
        lines = aligned(rows)
        caches = "caches" if self.cache_sets == 1 else f"{self.cache_sets} sets of caches"
        parts = {
            "process": GPU_PROCESS,
            "engines": self.engines,
            caches: self.caches,
            "source's keys and values": self.cross,
            "activations": self.activations,
            "outputs": self.outputs,
        }
        shares = ", ".join(f"{name} {_mb(size)}" for name, size in parts.items() if size)
        lines += ["", f"running, in MB: {_mb(self.run_peak)} ({shares})", ""]
        boards = [
            ("board, GB", *(str(board) for board in BOARDS)),
            ("builds", *(YES[self.fits_build(board)] for board in BOARDS)),
            ("runs", *(YES[self.fits_run(board)] for board in BOARDS)),
        ]
        return [*lines, *aligned(boards), "", MEASURED if self.measured else ASSUMED]


def plan_memory(
    bundle: Bundle,
    sizes: BuildSizes,
    graphs: Mapping[Role, Path] | None = None,
    *,
    target: Target,
) -> MemoryPlan:
    """What building and running engines of a bundle takes.

    `graphs` are the files that engines are built of, by default the bundle's own: those for
    TensorRT, or the canonical ones of a float bundle. Raises BundleError where there are none, and
    EngineError for a file that is no graph.
    """
    dims = bundle.manifest.dims
    fitted = fitted_sizes(sizes, bundle.manifest)
    records = engine_graphs(bundle.manifest)
    if not graphs and not records:
        raise BundleError(
            f"{bundle.path}: has no tensorrt graphs to build engines of; quantize the float "
            "bundle with --target tensorrt"
        )
    paths = graphs or {record.role: checked_graph(bundle, record) for record in records}
    graph_sizes = {role: read_sizes(path) for role, path in paths.items()}
    form = target.form or "masked"
    float_bytes = graph_sizes["decoder"].float_bytes if "decoder" in graph_sizes else 4
    work = _Work(dims=dims, sizes=fitted, form=form, float_bytes=float_bytes)
    measured = target.library == "tensorrt_rtx"
    return MemoryPlan(
        target=target.name,
        measured=measured,
        graphs=tuple(
            _graph_plan(role, graph_sizes[role], work, measured=measured) for role in graph_sizes
        ),
        cache_sets=2 if fitted.beams > 1 and dims.decoder is not None else 1,
        caches=work.caches(work.rows) * (2 if fitted.beams > 1 else 1),
        cross=work.cross(),
        outputs=work.outputs(),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """Bytes of what flows through the engines, at the most that they are built for."""

    dims: Dims
    sizes: EngineSizes
    form: Form
    float_bytes: int

    @property
    def batch(self) -> int:
        return self.sizes.batch[2]

    @property
    def rows(self) -> int:
        return self.batch * self.sizes.beams

    @property
    def source(self) -> int:
        return self.sizes.source[2]

    def caches(self, rows: int) -> int:
        """One set of what the decoder's layers keep."""
        return sum(self._kept()) * rows * self.sizes.capacity * self.float_bytes

    def _kept(self) -> list[int]:
        """Numbers of a token that each layer keeps."""
        stack = self.dims.decoder
        layers = stack.caches(self.dims.width) if stack is not None else []
        return [sum(heads * size for heads, size in kept.values()) for kept in layers]

    def cross(self) -> int:
        """The source's keys and values, which all beams share."""
        if self.dims.encoder is None:
            return 0
        return self._pairs(self.batch, self.source) * _layers(self.dims.decoder)

    def outputs(self) -> int:
        """Logits, and the largest of them with their tokens and the sum of all."""
        if self.dims.decoder is None:
            return 0
        top_k = self.sizes.top_k
        # A row: float32 logits of the vocabulary; k of them again, with int64 ids; one float32.
        top = top_k * TOP_LOGIT + LOG_SUM_EXP if top_k else 0
        return self.rows * (self.dims.vocab * LOGIT + top)

    def _pairs(self, rows: int, length: int) -> int:
        """Keys and values of one layer."""
        stack = self.dims.decoder
        if stack is None:
            return 0
        # key and value, each (rows, kv_heads, length, head_dim)
        return 2 * rows * stack.key_width * length * self.float_bytes

    @property
    def _unfused(self) -> bool:
        """Only half precision has kernels for the attention of many queries."""
        return self.float_bytes == 4

    def encoder(self) -> int:
        """Activations: a layer's, and the decoder's keys and values, made as one product."""
        stack = self.dims.encoder
        assert stack is not None
        # Numbers for each pair of positions, (source, source): a bias per head, the same for every
        # input; and without a fused kernel the scores of (batch, heads), before and after softmax.
        scores = _bias(stack) + SCORES * self.batch * stack.heads * self._unfused
        positions = scores * self.source**2 * self.float_bytes
        # cross(): all layers' keys and values leave the one product that makes them side by side,
        # before they are split into the engine's outputs.
        return WORKSPACE + self._layer(stack, self.batch * self.source) + positions + self.cross()

    def prefill(self) -> int:
        """Activations of the profile that reads prompts: a row for each input."""
        return self._decoder(self.batch, self.sizes.prompt[2], unfused=self._unfused)

    def step(self) -> int:
        """Activations of the profile for one token."""
        copies = 0
        if self.form == "lowered":  # no cache is updated in place
            copies = max(self._kept()) * self.rows * self.sizes.capacity * self.float_bytes
        return self._decoder(self.rows, 1, unfused=False) + copies

    def _decoder(self, rows: int, new: int, *, unfused: bool) -> int:
        """Activations of a profile with so many rows and new tokens for each."""
        stack = self.dims.decoder
        assert stack is not None
        # Bytes of a pair (new token, cached key). Always: its position as int64 and whether it is
        # allowed (OWN_MASK), and the additive mask, one number. With a relative bias one number
        # per head more. Without a fused kernel the scores of every head, twice.
        scores = SCORES * stack.heads * self.float_bytes * unfused
        own = OWN_MASK + self.float_bytes * (1 + _bias(stack)) + scores
        own *= rows * new * self.sizes.capacity
        # The last token's logits, as the product gives them and as float32 for the output.
        logits = rows * self.dims.vocab * (LOGIT + self.float_bytes)
        layer = self._layer(stack, rows * new)
        # Of a pair (new token, source position): the source's mask, in three forms, and scores.
        source = self._source(rows, new, SOURCE_MASK * self.float_bytes + scores)
        return WORKSPACE + layer + logits + own + source

    def _source(self, rows: int, new: int, position: int) -> int:
        """What is seen of the source: its masks and scores, and copies of its keys and values.

        Room is made for the most rows of the least batch in each input of the most. A source of one
        length is copied for all layers at once; of others a step has up to half of the layers'
        copies, a prefill those of one.
        """
        if self.dims.encoder is None:
            return 0
        least, _, most = self.sizes.batch
        # Beams are folded into the length axis, (batch, beams * new, width). Axes are free, so the
        # engine reserves the largest of each: `most` inputs with the rows per input that the
        # smallest batch would give.
        queries = most * math.ceil(rows / least) * new
        copies = self.cross()  # of all layers
        if self.sizes.source[0] < self.source:
            copies //= 2 if new == 1 else _layers(self.dims.decoder)
        return queries * self.source * position + copies

    def _layer(self, stack: StackDims, tokens: int) -> int:
        # A token in one layer: five vectors of the wider of both widths (residual, query, key,
        # value, attention's result), and the feed-forward between its products, gate and up.
        width = max(self.dims.width, stack.query_width)
        hidden = stack.hidden * (2 if stack.gated else 1)
        return tokens * (LAYER_WIDTHS * width + hidden) * self.float_bytes


def _layers(stack: StackDims | None) -> int:
    return 0 if stack is None else stack.layers


def _bias(stack: StackDims) -> int:
    """Heads that have a bias of their own for every pair of positions."""
    return stack.heads if stack.positions == "relative" else 0


def _graph_plan(role: Role, graph: GraphSizes, work: _Work, *, measured: bool) -> GraphPlan:
    """The sizes of one engine and of building it."""
    kept = graph.weights + graph.repeated
    profiles = 1
    if role == "encoder":
        activations = largest = work.encoder()
    else:
        profiles = 2
        kept += _second_copy(graph, work)
        widened = _widened_head(graph, work)
        parts = work.prefill() + widened, work.step() + widened
        activations, largest = sum(parts), max(parts)
    nodes = graph.nodes * profiles  # every profile has kernels of its own
    # A builder without a graph; the weights as read and on the way to the engine's form; that form,
    # in the engine and serialized; what it keeps of every node while it tries kernels.
    peak = BUILDER + int(SOURCE_COPIES * graph.weights + ENGINE_COPIES * kept) + NODE * nodes
    if not measured:  # the weights and one profile's tensors on the GPU, whose memory is the same
        tensors = work.cross() + (work.caches(work.rows) if role == "decoder" else 0)
        peak += GPU_PROCESS + kept + largest + tensors
    return GraphPlan(
        role=role,
        form=work.form,
        weights=graph.weights,
        engine=kept + KERNEL * nodes,
        build_peak=peak,
        activations=activations,
    )


def _second_copy(graph: GraphSizes, work: _Work) -> int:
    """What prefill and step may not share: for one batch alone kernels want weights in other forms.

    Seen in some engines, not in all.
    """
    least, _, most = work.sizes.batch
    return graph.weights - graph.tables if least == most else 0


def _widened_head(graph: GraphSizes, work: _Work) -> int:
    """An integer LM head, which an engine for a single row writes out as floats at every call."""
    return graph.integer_head * work.float_bytes if work.rows == 1 else 0


def _mb(size: int) -> str:
    return f"{size / MB:.0f}"
