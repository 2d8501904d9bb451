"""From a bundle's graphs to engines inside the bundle, described and listed.

The graphs are those for TensorRT that `quantize` made, or the canonical ones of a float bundle.
Engines are written as the bundle itself is: all at once, so that whatever stops a build leaves the
bundle as it was.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from seq2edge.bundle import Bundle, BundleWriter
from seq2edge.bundle.engine_info import (
    EngineInfo,
    EngineSizes,
    Form,
    Library,
    read_engine_info,
    top_outputs,
    write_engine_info,
)
from seq2edge.bundle.manifest import EngineRecord, GraphRecord, Role, TensorRecord, utc_now
from seq2edge.errors import BundleError, OptionError
from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18
from seq2edge.export.passes.parser_operators import parser_of
from seq2edge.export.passes.scale_queries import ScaleQueries
from seq2edge.export.passes.split_heads import SplitHeads
from seq2edge.export.passes.top_logits import TopLogits
from seq2edge.export.tensorrt.check import check_new_engines
from seq2edge.export.tensorrt.engine import Engine, Profile, build_engine, decoder_profiles
from seq2edge.export.tensorrt.sizes import BuildSizes
from seq2edge.export.tensorrt.targets import Target, check, check_build, find_target, form_of
from seq2edge.export.tensorrt.timing_cache import TimingCache, default_file
from seq2edge.export.weights import WEIGHTS, WeightsWriter
from seq2edge.runtime.backends.engine_check import EngineVerdict
from seq2edge.runtime.backends.tensorrt_library import import_tensorrt

ENGINES = "engines"  # a folder of the bundle

Progress = Callable[[str, float], None]  # what is being done, and how much of all is done (0 to 1)

_DTYPES = {"Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Int64": "int64"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildReport:
    """A bundle with engines, which were there already, and what else there is to be said.

    `verdict` is that of this machine's device on new engines; where there is none although some
    are new, `unchecked` says why.
    """

    bundle: Bundle
    engines: tuple[EngineInfo, ...]
    reused: tuple[Role, ...]
    verdict: EngineVerdict | None
    unchecked: str
    remarks: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be built: checked against the bundle and the library that is installed."""

    bundle: Bundle
    target: Target
    sizes: BuildSizes
    library: Library
    release: str
    form: Form
    timing_cache: Path | None

    @property
    def records(self) -> tuple[GraphRecord, ...]:
        """The graphs that engines are made of."""
        wanted = "canonical" if self.bundle.manifest.precision == "float32" else "tensorrt"
        return tuple(g for g in self.bundle.manifest.graphs if g.target == wanted)


def plan_request(
    bundle: Bundle, target: str | None, sizes: BuildSizes, *, timing_cache: Path | None = None
) -> Request:
    """Check that it can be built here. `target` is `portable` or `here` where none is named.

    TensorRT's timings of kernels are kept in `timing_cache`, by default in the user's cache. Raises
    OptionError for a target or precision that cannot be, BundleError for a bundle without graphs
    for TensorRT, BackendError where no library is installed.
    """
    trt = import_tensorrt()
    library: Library = "tensorrt_rtx" if trt.__name__ == "tensorrt_rtx" else "tensorrt"
    release = str(trt.__version__)
    name = target or ("portable" if library == "tensorrt_rtx" else "here")
    found, precision = find_target(name), bundle.manifest.precision
    if found.name == "here" and library == "tensorrt_rtx":
        raise OptionError("here: TensorRT-RTX is installed, name what it builds for: see targets")
    if precision != "float32" and not any(g.target == "tensorrt" for g in bundle.manifest.graphs):
        raise BundleError(
            f"{bundle.path}: its {precision} graphs are for onnxruntime, TensorRT reads none of "
            "their operators; quantize the float bundle with --target tensorrt"
        )
    check(found, precision)
    check_build(found, library=library, release=release, machine=platform.machine())
    if timing_cache is not None and library == "tensorrt_rtx":
        raise OptionError("timing-cache: TensorRT-RTX times no kernels and has none; leave it out")
    if library == "tensorrt":
        timing_cache = timing_cache or default_file(library, release)
    return Request(
        bundle=bundle,
        target=found,
        sizes=sizes.fitted(bundle.manifest.dims),
        library=library,
        release=release,
        form=form_of(library, release),
        timing_cache=timing_cache,
    )


def build_bundle(request: Request, progress: Progress = lambda *_: None) -> BuildReport:
    """Build every engine that is not there yet, and add it to the bundle.

    New engines are checked where a device is that they can run on. Raises EngineError for a graph
    that the library does not take whole, or where a device answers otherwise than the model;
    KeyboardInterrupt stops the builder. The bundle is then as it was.
    """
    bundle, records = request.bundle, request.records
    timings = TimingCache(request.timing_cache) if request.timing_cache else None
    made: dict[Role, tuple[EngineInfo, bytes]] = {}
    kept: dict[Role, EngineInfo] = {}
    # On the bundle's disk: graphs of its size may be written there.
    with tempfile.TemporaryDirectory(dir=bundle.path.parent, prefix=".seq2edge-") as folder:
        for number, record in enumerate(records):
            show = functools.partial(_show, progress, record.role, number, len(records))
            show(0.0)
            there = _find(request, record)
            if there is not None:
                kept[record.role] = there
            else:
                made[record.role] = _build(request, record, Path(folder), timings, show)
        progress("write and check", 0.9)
        added = _add(request, made) if made else _Added(bundle=bundle)
    progress("write", 1.0)
    roles = [record.role for record in records]
    infos = [made[role][0] if role in made else kept[role] for role in roles]
    return BuildReport(
        bundle=added.bundle,
        engines=tuple(infos),
        reused=tuple(kept),
        verdict=added.verdict,
        unchecked=added.unchecked,
        remarks=tuple(timings.remarks) if timings else (),
    )


def _build(
    request: Request,
    record: GraphRecord,
    folder: Path,
    timings: TimingCache | None,
    progress: Callable[[float], None],
) -> tuple[EngineInfo, bytes]:
    """One engine, and what its sidecar says; `folder` is for what is needed meanwhile."""
    graph = _prepare(request, record, folder)
    begin = time.monotonic()
    engine = build_engine(
        graph,
        profiles_of(request, record.role),
        static=_static(request, record.role),
        capabilities=request.target.capabilities,
        timings=timings,
        progress=progress,
    )
    return _describe(request, record, engine, time.monotonic() - begin), engine.plan


def _show(progress: Progress, role: Role, number: int, count: int, part: float) -> None:
    progress(f"build {role}", 0.9 * (number + part) / count)


def profiles_of(request: Request, role: Role) -> tuple[Profile, ...]:
    """The profiles of an engine: an encoder has one, a decoder prefill and step."""
    sizes = request.sizes
    if role == "encoder":
        return (Profile(name=role, sizes={"batch": sizes.batch, "source": sizes.source}),)
    return decoder_profiles(
        batch=sizes.batch, beams=sizes.beams, source=sizes.source, new=sizes.prompt
    )


def _static(request: Request, role: Role) -> dict[str, int]:
    return {"capacity": request.sizes.capacity} if role == "decoder" else {}


def _prepare(request: Request, record: GraphRecord, folder: Path) -> Path:
    """The graph that the target's parser reads; in the bundle already, or written to `folder`."""
    bundle, top_k = request.bundle, _top_k(request, record.role)
    if record.target == "tensorrt" and request.form == "masked" and not top_k:
        return bundle.file(record.file)
    model = ir.load(bundle.file(record.file))
    if record.target == "canonical":
        LengthToMask()(model)
        ScaleQueries()(model)
        SplitHeads()(model)
    if top_k:
        TopLogits(top_k)(model)
    if request.form == "lowered":
        LowerToOpset18(parser_of(request.release))(model)
    place = folder / record.role
    place.mkdir()
    WeightsWriter(place / WEIGHTS).write([model])
    ir.save(model, place / f"{record.role}.onnx")
    return place / f"{record.role}.onnx"


def _top_k(request: Request, role: Role) -> int:
    return request.sizes.top_k or 0 if role == "decoder" else 0


def _digest(bundle: Bundle, record: GraphRecord) -> str:
    """Of the bundle's own graph and weights: what an engine is made from."""
    files = bundle.manifest.files
    text = files[record.file].sha256 + files[WEIGHTS].sha256
    return hashlib.sha256(text.encode()).hexdigest()


def _find(request: Request, graph: GraphRecord) -> EngineInfo | None:
    """An engine of this graph, these sizes and versions that the bundle has."""
    digest = _digest(request.bundle, graph)
    for record in request.bundle.manifest.engines:
        if record.target != request.target.name or record.role != graph.role:
            continue
        info = read_engine_info(request.bundle.file(record.sidecar))
        asked = (digest, _sizes(request), request.library, request.release, request.form)
        if (info.graph_sha256, info.sizes, info.library, info.release, info.form) == asked:
            return info
    return None


def _sizes(request: Request) -> EngineSizes:
    return EngineSizes(**dataclasses.asdict(request.sizes))


def _describe(request: Request, record: GraphRecord, engine: Engine, seconds: float) -> EngineInfo:
    report = engine.report
    profiles = profiles_of(request, record.role)
    parts = [report.profile(index) for index in range(len(profiles))]
    outputs = (*record.outputs, *top_outputs(_top_k(request, record.role)))
    return EngineInfo(
        library=request.library,
        release=request.release,
        target=request.target.name,
        role=record.role,
        form=request.form,
        precision=request.bundle.manifest.precision,
        sizes=_sizes(request),
        profiles=tuple(profile.name for profile in profiles),
        inputs=tuple(_tensor(b.name, b.dtype, record.inputs) for b in report.inputs),
        outputs=tuple(_tensor(b.name, b.dtype, outputs) for b in report.outputs),
        graph_sha256=_digest(request.bundle, record),
        plan_sha256=hashlib.sha256(engine.plan).hexdigest(),
        layers=len(report.layers),
        fused_attentions=tuple(part.fused_attentions for part in parts),
        cache_updates=tuple(part.cache_updates for part in parts),
        cache_copies=tuple(part.cache_copies for part in parts),
        products=dict(sorted(report.products.items())),
        build_seconds=round(seconds, 1),
        build_peak_bytes=_peak_bytes(),
        created=utc_now(),
    )


def _tensor(name: str, dtype: str, records: tuple[TensorRecord, ...]) -> TensorRecord:
    """The contract's record with the type that the engine has."""
    record = next(record for record in records if record.name == name)
    return dataclasses.replace(record, dtype=_DTYPES[dtype])  # type: ignore[arg-type]


def _peak_bytes() -> int:
    """The most memory that this process had so far."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Added:
    """A bundle that new engines were added to, and what the check of them gave."""

    bundle: Bundle
    verdict: EngineVerdict | None = None
    unchecked: str = ""


def _add(request: Request, made: dict[Role, tuple[EngineInfo, bytes]]) -> _Added:
    """The bundle with these engines, in the place of those for the same target."""
    bundle, name = request.bundle, request.target.name
    old = [r for r in bundle.manifest.engines if r.target == name and r.role in made]
    dropped = {file for record in old for file in (record.file, record.sidecar)}
    records = [r for r in bundle.manifest.engines if r not in old]
    with BundleWriter(bundle.path, overwrite=True) as writer:
        for file in bundle.manifest.files:
            if file not in dropped:
                _link(bundle.file(file), writer.path(file))
        for role, (info, plan) in made.items():
            file = f"{ENGINES}/{name}/{role}.plan"
            sidecar = f"{ENGINES}/{name}/{role}.json"
            writer.path(file).write_bytes(plan)
            write_engine_info(writer.path(sidecar), info)
            records.append(EngineRecord(file=file, target=name, role=role, sidecar=sidecar))
        manifest = dataclasses.replace(bundle.manifest, engines=tuple(records))
        verdict, unchecked = check_new_engines(request.target, bundle, writer.preview(manifest))
        finished = writer.finish(manifest)
    return _Added(bundle=finished, verdict=verdict, unchecked=unchecked)


def _link(source: Path, destination: Path) -> None:
    """The same file again where the disk can, else a copy."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
