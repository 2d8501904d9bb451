"""From a bundle's graphs to engines inside the bundle, described and listed.

The graphs are those for TensorRT that `quantize` made, or the canonical ones of a float bundle.
Engines are written as the bundle itself is: all at once, so that whatever stops a build leaves the
bundle as it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import resource
import shutil
import sys
import time
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
from seq2edge.bundle.graph_check import checked_graph
from seq2edge.bundle.manifest import EngineRecord, GraphRecord, Role, TensorRecord, utc_now
from seq2edge.errors import (
    BackendError,
    BundleError,
    EngineError,
    ForeignEngineError,
    OptionError,
)
from seq2edge.export.passes.drop_alignment import DropAlignment
from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18
from seq2edge.export.passes.parser_operators import find_parser
from seq2edge.export.passes.scale_queries import ScaleQueries
from seq2edge.export.passes.split_heads import SplitHeads
from seq2edge.export.passes.top_logits import TopLogits
from seq2edge.export.stored_graph import load_graph
from seq2edge.export.tensorrt.engine import BuiltEngine, Profile, build_engine, decoder_profiles
from seq2edge.export.tensorrt.sizes import BuildSizes, engine_graphs, fitted_sizes
from seq2edge.export.tensorrt.targets import Target, check, check_build, find_target, graph_form
from seq2edge.export.tensorrt.timing_cache import TimingCache, default_file
from seq2edge.export.weights import WEIGHTS, WeightsWriter
from seq2edge.files.progress import Progress
from seq2edge.files.storage import FileRecord, file_errors
from seq2edge.files.workspace import workspace
from seq2edge.runtime.backends.engine_check import EngineVerdict
from seq2edge.runtime.backends.engine_trust import built_here, note_built
from seq2edge.runtime.backends.tensorrt import check_engines
from seq2edge.runtime.backends.tensorrt_library import import_tensorrt

ENGINES = "engines"  # a folder of the bundle


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
class BuildRequest:
    """What is to be built: checked against the bundle and the library that is installed."""

    bundle: Bundle
    target: Target
    sizes: EngineSizes
    library: Library
    release: str
    form: Form
    timing_cache: Path | None

    @property
    def records(self) -> tuple[GraphRecord, ...]:
        """The graphs that engines are made of."""
        return engine_graphs(self.bundle.manifest)

    def top_k(self, role: Role) -> int:
        """How many of a row's largest logits the engine gives; an encoder has none."""
        return self.sizes.top_k if role == "decoder" else 0


def plan_request(
    bundle: Bundle, target: str | None, sizes: BuildSizes, *, timing_cache: Path | None = None
) -> BuildRequest:
    """Check that it can be built here. `target` is `portable` or `here` where none is named.

    TensorRT's timings of kernels are kept in `timing_cache`, by default in the user's cache. Raises
    OptionError for a target or precision that cannot be, BundleError for a bundle without graphs
    for TensorRT, BackendError where no library is installed.
    """
    if bundle.manifest.dims.samples is not None:
        raise BundleError(
            f"{bundle.path}: reads samples, for which no engines are built; it runs on the cpu"
        )
    trt = import_tensorrt()
    library: Library = "tensorrt_rtx" if trt.__name__ == "tensorrt_rtx" else "tensorrt"
    release = str(trt.__version__)
    name = target or ("portable" if library == "tensorrt_rtx" else "here")
    chosen, precision = find_target(name), bundle.manifest.precision
    if chosen.name == "here" and library == "tensorrt_rtx":
        raise OptionError("here: TensorRT-RTX is installed, name what it builds for: see targets")
    if precision != "float32" and not engine_graphs(bundle.manifest):
        raise BundleError(
            f"{bundle.path}: its {precision} graphs are for onnxruntime, TensorRT reads none of "
            "their operators; quantize the float bundle with --target tensorrt"
        )
    check(chosen, precision)
    check_build(chosen, library=library, release=release, machine=platform.machine())
    if timing_cache is not None and library == "tensorrt_rtx":
        raise OptionError("timing-cache: TensorRT-RTX times no kernels and has none; leave it out")
    if library == "tensorrt":
        timing_cache = timing_cache or default_file(library, release)
    return BuildRequest(
        bundle=bundle,
        target=chosen,
        sizes=fitted_sizes(sizes, bundle.manifest),
        library=library,
        release=release,
        form=graph_form(library, release),
        timing_cache=timing_cache,
    )


def build_bundle(request: BuildRequest, progress: Progress = lambda *_: None) -> BuildReport:
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
    with file_errors(bundle.path), workspace(bundle.path.parent) as folder:
        for number, record in enumerate(records):

            def show(part: float, role: Role = record.role, number: int = number) -> None:
                progress(f"build {role}", 0.9 * (number + part) / len(records))

            show(0.0)
            there = _find(request, record)
            if there is not None:
                kept[record.role] = there
                continue
            graph = _prepare(request, record, folder)
            begin = time.monotonic()
            engine = build_engine(
                graph,
                make_profiles(request.sizes, record.role),
                static={"capacity": request.sizes.capacity} if record.role == "decoder" else {},
                capabilities=request.target.capabilities,
                timings=timings,
                progress=show,
            )
            info = _describe(request, record, engine, time.monotonic() - begin)
            made[record.role] = info, engine.plan
        progress("write and check", 0.9)
        finished, verdict, unchecked = _add(request, made) if made else (bundle, None, "")
    progress("write", 1.0)
    remarks = [*timings.remarks] if timings else []
    remarks += _note_built(finished, [info for info, _ in made.values()])
    roles = [record.role for record in records]
    return BuildReport(
        bundle=finished,
        engines=tuple(made[role][0] if role in made else kept[role] for role in roles),
        reused=tuple(kept),
        verdict=verdict,
        unchecked=unchecked,
        remarks=tuple(remarks),
    )


def _note_built(bundle: Bundle, engines: list[EngineInfo]) -> list[str]:
    """Note that these engines were built here; a remark where they could not be."""
    for info in engines:
        if reason := note_built(info.plan_sha256, str(bundle.path)):
            return [f"not noted as built here ({reason}); run them with --trust-engines"]
    return []


def make_profiles(sizes: EngineSizes, role: Role) -> tuple[Profile, ...]:
    """The profiles of an engine: an encoder has one, a decoder prefill and step."""
    if role == "encoder":
        return (Profile(name=role, sizes={"batch": sizes.batch, "source": sizes.source}),)
    return decoder_profiles(
        batch=sizes.batch, beams=sizes.beams, source=sizes.source, new=sizes.prompt
    )


def _prepare(request: BuildRequest, record: GraphRecord, folder: Path) -> Path:
    """The graph that the target's parser reads; in the bundle already, or written to `folder`."""
    bundle, top_k = request.bundle, request.top_k(record.role)
    source = checked_graph(bundle, record)
    if record.target == "tensorrt" and request.form == "masked" and not top_k:
        return source
    model = load_graph(source)
    if record.target == "canonical":
        DropAlignment()(model)
        LengthToMask()(model)
        ScaleQueries()(model)
        SplitHeads()(model)
    if top_k:
        TopLogits(top_k)(model)
    if request.form == "lowered":
        LowerToOpset18(find_parser(request.release))(model)
    place = folder / record.role
    place.mkdir()
    WeightsWriter(place / WEIGHTS).write([model])
    ir.save(model, place / f"{record.role}.onnx")
    return place / f"{record.role}.onnx"


def _digest(bundle: Bundle, record: GraphRecord) -> str:
    """Of the bundle's own graph and weights: what an engine is made from."""
    files = bundle.manifest.files
    text = files[record.file].sha256 + files[WEIGHTS].sha256
    return hashlib.sha256(text.encode()).hexdigest()


def _find(request: BuildRequest, graph: GraphRecord) -> EngineInfo | None:
    """An engine of this graph, these sizes and versions that the bundle has, and we may open."""
    digest = _digest(request.bundle, graph)
    for record in request.bundle.manifest.engines:
        if record.target != request.target.name or record.role != graph.role:
            continue
        info = read_engine_info(request.bundle.file(record.sidecar))
        if request.bundle.manifest.files[record.file].sha256 != info.plan_sha256:
            continue
        if not (request.bundle.trust_engines or built_here(info.plan_sha256)):
            continue  # a stranger's, which the check would open
        needed = (digest, request.sizes, request.library, request.release, request.form)
        if (info.graph_sha256, info.sizes, info.library, info.release, info.form) == needed:
            return info
    return None


def _describe(
    request: BuildRequest, record: GraphRecord, engine: BuiltEngine, seconds: float
) -> EngineInfo:
    """What the sidecar says of an engine, mostly read from the builder's report."""
    report = engine.report
    profiles = make_profiles(request.sizes, record.role)
    parts = [report.profile(index) for index in range(len(profiles))]
    outputs = (*record.outputs, *top_outputs(request.top_k(record.role)))
    return EngineInfo(
        library=request.library,
        release=request.release,
        target=request.target.name,
        role=record.role,
        form=request.form,
        precision=request.bundle.manifest.precision,
        sizes=request.sizes,
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


def _add(
    request: BuildRequest, made: dict[Role, tuple[EngineInfo, bytes]]
) -> tuple[Bundle, EngineVerdict | None, str]:
    """The bundle with these engines, in the place of those for the same target.

    And what the device said to them, or why it was not asked.
    """
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
        verdict, unchecked = _check_new_engines(request.target, bundle, writer.preview(manifest))
        finished = writer.finish(manifest)
    return finished, verdict, unchecked


def _check_new_engines(
    target: Target, old: Bundle, new: Bundle
) -> tuple[EngineVerdict | None, str]:
    """What the device says to a target's engines, or why it was not asked.

    `new` is a preview of the bundle with them, `old` what it would take the place of. Raises
    EngineError where an engine answers otherwise than the model, or does not open on the device
    that it was built on.
    """
    # A preview is not hashed; that an engine passed is noted for the reference that it passed with.
    files = {**new.manifest.files, **_same(old, new)}
    manifest = dataclasses.replace(new.manifest, files=files)
    # Built here, all of this target: now, or before (`_find`).
    staged = dataclasses.replace(new, manifest=manifest, trust_engines=True)
    try:
        verdict = check_engines(staged, target.name)
    except BackendError as error:
        return None, str(error).partition(";")[0]  # without the remedy, for who wants to run here
    except EngineError as error:
        message = str(error).replace(str(new.path), str(old.path))
        if isinstance(error, ForeignEngineError) and target.built == "anywhere":
            return None, message.partition(";")[0]
        raise EngineError(f"{message}; the bundle is as it was") from error
    if not verdict.passed:
        raise EngineError(
            f"{old.path}: its engines for {target.name} answer otherwise than the model on "
            f"{verdict.device}, {verdict.parity.figures}; the bundle is as it was, build from a "
            "larger precision"
        )
    return verdict, ""


def _same(old: Bundle, new: Bundle) -> dict[str, FileRecord]:
    """Records of the files that both have."""
    engines = {file for e in new.manifest.engines for file in (e.file, e.sidecar)}
    both = set(old.manifest.files) & set(new.manifest.files) - engines
    return {name: old.manifest.files[name] for name in both}


def _link(source: Path, destination: Path) -> None:
    """The same file again where the disk can, else a copy."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
