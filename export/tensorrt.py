"""Engines of TensorRT, one code path for `tensorrt` and `tensorrt_rtx`.

Builds need no GPU with `tensorrt_rtx`. What a graph says is what is built, or an error: networks
are strongly typed, and a remark of the parser or builder that something is ignored fails the build.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import onnx

from seq2edge.errors import BackendError, ExportError, OptionError

LIBRARIES = ("tensorrt", "tensorrt_rtx")
IGNORED = re.compile(r"unused input|ignor|not supported|will be dropped", re.IGNORECASE)
HARMLESS = re.compile(r"logger passed into", re.IGNORECASE)  # there is one logger a process

Range: TypeAlias = tuple[int, int, int]  # least, usual and largest size of an axis
Profile: TypeAlias = Mapping[str, Range]  # by the graph's axis names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A kernel of an engine: name, kind, the types that it reads, and its tactic."""

    name: str
    kind: str
    types: tuple[str, ...]
    tactic: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """A serialized engine and the builder's report of it."""

    data: bytes
    layers: tuple[Layer, ...]

    @property
    def integer_products(self) -> tuple[Layer, ...]:
        """Products of integer weights: in integers, or fused with their conversion."""
        return tuple(
            layer
            for layer in self.layers
            if (layer.kind == "gemm" and "Int8" in layer.types)
            or (layer.kind == "runtime_fusion" and "CastMulCast" in layer.name)
        )

    def products(self, kind: str) -> tuple[Layer, ...]:
        """Products of float weights of that type: Float, Half or BFloat16."""
        return tuple(x for x in self.layers if x.kind == "gemm" and kind in x.types)

    @property
    def attentions(self) -> tuple[Layer, ...]:
        """Fused attention kernels, of all profiles."""
        return tuple(x for x in self.layers if re.search("mha|attn|attention", x.kind + x.tactic))

    @property
    def cache_updates(self) -> tuple[Layer, ...]:
        """Writes of keys and values into their cache, in place."""
        return tuple(x for x in self.layers if "kv_cache" in x.kind.lower() or "KVCache" in x.name)


def build_engine(
    graph: Path, profiles: Sequence[Profile], *, capabilities: Sequence[str] = ()
) -> Engine:
    """Build an engine of an ONNX file with a range for each symbolic axis, by profile.

    `capabilities` are names such as SM86, for `tensorrt_rtx`; none builds for all that it knows.
    Raises OptionError for profiles that do not fit the graph, ExportError for a graph that does
    not parse, is not built as it says, or not at all, and BackendError without the library.
    """
    trt = import_tensorrt()
    shapes = _shapes(graph)
    for profile in profiles:
        _check_profile(graph, shapes, profile)
    log = _logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(os.fspath(graph))
    if not parsed or not network.num_outputs:
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise ExportError(f"{graph}: TensorRT does not parse it: {'; '.join(reasons) or 'empty'}")
    _refuse_ignored(graph, log)
    _decompose_attention(trt, network)
    config = _config(trt, builder, shapes, profiles, capabilities)
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise ExportError(f"{graph}: TensorRT does not build it: {log.worst()}")
    _refuse_ignored(graph, log)
    return Engine(data=bytes(data), layers=tuple(_layers(log.lines)))


def import_tensorrt() -> Any:
    """The library, or a BackendError that says what to install."""
    for name in LIBRARIES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise BackendError("tensorrt: not installed; install seq2edge[rtx], or JetPack's own package")


def _shapes(graph: Path) -> dict[str, tuple[int | str, ...]]:
    """The inputs' shapes; the file is checked to be a graph first."""
    try:
        onnx.checker.check_model(os.fspath(graph))
        model = onnx.load(os.fspath(graph), load_external_data=False)
    except Exception as error:  # protobuf's, the checker's, the system's
        reason = str(error).strip().splitlines() or ["empty"]
        raise ExportError(f"{graph}: not an ONNX graph: {reason[0]}") from error
    return {
        value.name: tuple(
            axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
    }


def _check_profile(
    graph: Path, shapes: Mapping[str, tuple[int | str, ...]], profile: Profile
) -> None:
    symbols = {axis for shape in shapes.values() for axis in shape if isinstance(axis, str)}
    if symbols != set(profile):
        raise OptionError(
            f"{graph}: profile names {', '.join(sorted(profile))}; "
            f"the graph's axes are {', '.join(sorted(symbols))}"
        )
    for name, (least, usual, largest) in profile.items():
        if not 1 <= least <= usual <= largest:
            raise OptionError(f"profile: {name} {least}, {usual}, {largest} do not rise from 1")


def _config(
    trt: Any,
    builder: Any,
    shapes: Mapping[str, tuple[int | str, ...]],
    profiles: Sequence[Profile],
    capabilities: Sequence[str],
) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if capabilities:
        if not hasattr(trt, "ComputeCapability"):
            raise OptionError("capabilities: full TensorRT builds for the GPU at hand alone")
        config.num_compute_capabilities = len(capabilities)
        for i, name in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), i)
    for ranges in profiles:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            if any(isinstance(axis, str) for axis in shape):
                sizes = [[ranges[a][i] if isinstance(a, str) else a for a in shape] for i in (0, 1, 2)]
                profile.set_shape(name, *sizes)
        if config.add_optimization_profile(profile) < 0:
            raise OptionError("profile: TensorRT does not take it")
    return config


def _decompose_attention(trt: Any, network: Any) -> None:
    """Let the builder split float32 attentions, of which it has no fused form for prompts."""
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


class _Log:
    """What the library says, by severity."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def worst(self) -> str:
        """The last error."""
        errors = [text for severity, text in self.lines if severity.endswith("ERROR")]
        return errors[-1] if errors else "it does not say why"


_LOG = _Log()
_LOGGER: list[Any] = []


def _logger(trt: Any) -> Any:
    """The one logger that the library takes in a process, emptied."""
    if not _LOGGER:

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            """Keeps what it is told."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.lines = _LOG.lines
                self.worst = _LOG.worst

            def log(self, severity: Any, message: str) -> None:
                """Called by the library."""
                self.lines.append((severity.name, message))

        _LOGGER.append(Logger())
    _LOG.lines.clear()
    return _LOGGER[0]


def _refuse_ignored(graph: Path, log: _Log) -> None:
    for severity, text in log.lines:
        if severity == "WARNING" and IGNORED.search(text) and not HARMLESS.search(text):
            raise ExportError(f"{graph}: TensorRT would leave something out: {text}")


def _layers(lines: Sequence[tuple[str, str]]) -> list[Layer]:
    """The engine's report, which the builder logs at its end."""
    found = []
    for _, text in lines:
        for line in text.splitlines():
            kind = re.search(r"LayerType: (\w+)", line)
            if not line.startswith("Name: ") or kind is None:
                continue
            reads = line.split("Outputs:")[0]
            tactic = re.search(r"TacticName: ([^,]*)", line)
            found.append(
                Layer(
                    name=line[6:].split(", ")[0],
                    kind=kind[1],
                    types=tuple(re.findall(r"Datatype: (\w+)", reads)),
                    tactic=tactic[1] if tactic else "",
                )
            )
    return found
