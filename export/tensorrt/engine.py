"""Engines from graphs, with TensorRT or TensorRT-RTX: one way for both, and no GPU needed for RTX.

The parser takes much in silence that makes another model. So a graph is checked before it
(`graph.py`), a warning that something is dropped is an error, and what was built is
read from the builder's own report (`report.py`).
Only TensorRT-RTX 1.7 has been run here.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from seq2edge.errors import EngineError, OptionError
from seq2edge.export.tensorrt.builder import run_builder
from seq2edge.export.tensorrt.errors import OURS, not_built, not_read
from seq2edge.export.tensorrt.graph import Axes, read_graph, shapes
from seq2edge.export.tensorrt.report import EngineReport, read_report
from seq2edge.export.tensorrt.timing_cache import TimingCache
from seq2edge.files.progress import PartProgress
from seq2edge.runtime.backends.tensorrt_library import import_tensorrt, process_logger

SYMBOLS = ("batch", "rows", "source", "new", "capacity")  # the graph contract's

Range = tuple[int, int, int]  # least, best, most

_DROPPED = re.compile(r"unused input|is unused|\bignor", re.IGNORECASE)
_BUILDING = threading.Lock()  # TensorRT keeps one logger for the whole process


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes that an engine is tuned for and limited to, by the graph contract's symbols."""

    name: str
    sizes: Mapping[str, Range]

    def __post_init__(self) -> None:
        """Raise OptionError for a range that nothing can have."""
        for symbol, (least, best, most) in self.sizes.items():
            if symbol not in SYMBOLS:
                raise OptionError(
                    f"profile {self.name}: {symbol!r} is unknown, known: {', '.join(SYMBOLS)}"
                )
            if not 1 <= least <= best <= most:
                raise OptionError(
                    f"profile {self.name}: {symbol} is {least}, {best}, {most}; "
                    "it needs 1 <= least <= best <= most"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A serialized engine, what is in it, and the library that alone can load it."""

    plan: bytes
    report: EngineReport
    library: str


def decoder_profiles(
    *, batch: Range, beams: int, source: Range, new: Range
) -> tuple[Profile, Profile]:
    """Prefill (`batch` rows, `new` tokens) and step (`batch` x `beams` rows, one token exactly)."""
    prefill = {"batch": batch, "rows": batch, "source": source, "new": new}
    rows = (batch[0], batch[1] * beams, batch[2] * beams)
    step = {"batch": batch, "rows": rows, "source": source, "new": (1, 1, 1)}
    return Profile(name="prefill", sizes=prefill), Profile(name="step", sizes=step)


def build_engine(
    graph: Path,
    profiles: Sequence[Profile],
    *,
    static: Mapping[str, int] | None = None,
    capabilities: Sequence[str] = (),
    timings: TimingCache | None = None,
    progress: PartProgress = lambda _: None,
) -> BuiltEngine:
    """Build an engine of a graph whose lengths are masks (`export/passes/length_to_mask.py`).

    `static` gives symbols one size for good; a cache that is updated in place needs its `capacity`.
    `capabilities` ("SM86") are what RTX builds for, all that it knows by default; `timings` are of
    kernels, for TensorRT alone. An interruption stops the builder, and KeyboardInterrupt is raised.
    Raises BackendError where no library is installed, OptionError for profiles that do not fit the
    graph, EngineError for a graph that the library does not take whole.
    """
    trt = import_tensorrt()
    model = read_graph(graph, static or {})
    inputs = dict(shapes(model.graph.input))
    _check_profiles(graph, profiles, inputs, static or {})
    with _BUILDING:
        log = process_logger(trt)
        log.lines.clear()
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = _parse(trt, log, graph, model, network)
        _let_attention_decompose(trt, network)
        config = _configure(trt, builder, profiles, inputs, capabilities, timings)
        plan = run_builder(trt, builder, network, config, progress)
        _refuse_dropped(graph, log)
        if plan is None:
            names = [profile.name for profile in profiles]
            raise not_built(graph, model, trt, log.error_lines(), names)
        del parser  # it owns the weights until here
        if timings is not None:
            timings.save(config)
        report = read_report([text for _, text in log.lines])
    library = f"{trt.__name__} {trt.__version__}"
    return BuiltEngine(plan=bytes(plan), report=report, library=library)


def _check_profiles(
    graph: Path,
    profiles: Sequence[Profile],
    inputs: Mapping[str, Axes],
    static: Mapping[str, int],
) -> None:
    """TensorRT takes profiles without a size or with sizes that contradict each other."""
    free = {axis for axes in inputs.values() for axis in axes if isinstance(axis, str)}
    if not profiles:
        raise OptionError(f"{graph}: needs a profile with {', '.join(sorted(free))}")
    for profile in profiles:
        missing = sorted(free - set(profile.sizes))
        if missing:
            raise OptionError(f"profile {profile.name}: {graph} needs {', '.join(missing)} too")
        twice = sorted(set(static) & set(profile.sizes))
        if twice:
            raise OptionError(f"profile {profile.name}: {', '.join(twice)} is given as static too")
        _check_relations({**{k: (v, v, v) for k, v in static.items()}, **profile.sizes}, profile)


def _check_relations(sizes: Mapping[str, Range], profile: Profile) -> None:
    """Rows are batch x beams, and the new tokens go into the cache."""
    for rows, batch in zip(sizes.get("rows", ()), sizes.get("batch", ()), strict=False):
        if rows % batch:
            raise OptionError(f"profile {profile.name}: {rows} rows are no multiple of {batch}")
    new, capacity = sizes.get("new", (1, 1, 1))[2], sizes.get("capacity", (0, 0, 0))[0]
    if "capacity" in sizes and new > capacity:
        raise OptionError(
            f"profile {profile.name}: {new} new tokens do not fit a capacity of {capacity}"
        )


def _parse(trt: Any, log: Any, graph: Path, model: onnx.ModelProto, network: Any) -> Any:
    """Fill the network; weights are read from the graph's folder."""
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString(), str(graph)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise not_read(graph, model, trt, errors)
    _refuse_dropped(graph, log)
    return parser


def _refuse_dropped(graph: Path, log: Any) -> None:
    dropped = [text for severity, text in log.lines if severity == "WARNING"]
    dropped = [text for text in dropped if _DROPPED.search(text)]
    if dropped:
        warnings = "; ".join(dropped)
        raise EngineError(f"{graph}: TensorRT would drop a part of it: {warnings}; {OURS}")


def _let_attention_decompose(trt: Any, network: Any) -> None:
    """Where no fused kernel fits (float32 prefill, tiny heads), products and a softmax are used.

    Without this the build fails there; where one fits it is used all the same.
    """
    kind = getattr(trt.LayerType, "ATTENTION_INPUT", None)  # not in older releases
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if kind is not None and layer.type == kind:
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def _configure(
    trt: Any,
    builder: Any,
    profiles: Sequence[Profile],
    inputs: Mapping[str, Axes],
    capabilities: Sequence[str],
    timings: TimingCache | None,
) -> Any:
    """The builder's configuration, with a profile of shapes for each of `profiles`."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if timings is not None:
        timings.attach(config)
    if capabilities:
        _choose_capabilities(trt, config, capabilities)
    for profile in profiles:
        made = builder.create_optimization_profile()
        for name, axes in inputs.items():
            if any(isinstance(axis, str) for axis in axes):
                _set_shape(trt, made, profile, name, axes)
        if config.add_optimization_profile(made) < 0:
            raise OptionError(f"profile {profile.name}: {trt.__name__} does not take it")
    return config


def _set_shape(trt: Any, made: Any, profile: Profile, name: str, axes: Axes) -> None:
    shapes = [_at(axes, profile, which) for which in range(3)]
    try:
        made.set_shape(name, *shapes)
    except (RuntimeError, ValueError) as error:
        least, _, most = shapes
        raise OptionError(
            f"profile {profile.name}: {trt.__name__} does not take {name} of {least} to {most} "
            f"({error}); ask for less"
        ) from error


def _at(axes: Axes, profile: Profile, which: int) -> tuple[int, ...]:
    """The shape of an input at the least, the best or the most of a profile."""
    return tuple(profile.sizes[a][which] if isinstance(a, str) else a for a in axes)


def _choose_capabilities(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    known = getattr(trt, "ComputeCapability", None)
    if known is None:
        raise OptionError(f"{trt.__name__}: builds for the GPU of this machine alone")
    names = [name for name in vars(known) if name.startswith("SM")]
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        if name not in names:
            raise OptionError(f"capability: {name!r} is unknown, known: {', '.join(sorted(names))}")
        config.set_compute_capability(getattr(known, name), index)
