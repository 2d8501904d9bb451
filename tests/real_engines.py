"""Bundles with real engines, built with the library that is installed."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil

import onnx_ir as ir

from seq2edge.bundle import BundleWriter
from seq2edge.engine_info import EngineInfo, EngineSizes, write_engine_info
from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.tensorrt import Profile, build_engine, decoder_profiles
from seq2edge.manifest import EngineRecord, TensorRecord

SIZES = EngineSizes(batch=(1, 2, 3), beams=4, source=(1, 16, 40), prompt=(1, 4, 8), capacity=40)
NAMES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16", ir.DataType.INT64: "int64"}


def with_engines(source, folder, *, capabilities=(), sizes=SIZES):
    """A copy of a float32 bundle with an engine of each of its canonical graphs."""
    manifest, work = source.manifest, folder.parent / "masked"
    work.mkdir()
    if manifest.dims.mels:
        sizes = dataclasses.replace(sizes, source=(manifest.dims.frames // 2,) * 3)
    with BundleWriter(folder) as writer:
        for name in manifest.files:
            shutil.copyfile(source.file(name), writer.path(name))
        records = []
        for graph in manifest.graphs:
            if graph.target != "canonical":
                continue
            model = ir.load(source.file(graph.file))
            LengthToMask()(model)
            path = work / f"{graph.role}.onnx"
            ir.save(model, path, external_data=f"{graph.role}.data")
            plan, info = build(path, model.graph, graph.role, sizes, capabilities)
            file, sidecar = f"engines/{graph.role}.plan", f"engines/{graph.role}.json"
            writer.path(file).write_bytes(plan)
            write_engine_info(writer.path(sidecar), info)
            records.append(EngineRecord(file=file, target=info.target, sidecar=sidecar))
        return writer.finish(dataclasses.replace(manifest, engines=tuple(records)))


def build(path, graph, role, sizes, capabilities):
    """A plan, and the sidecar that describes it."""
    static = {}
    if role == "decoder":
        ranges = {"batch": sizes.batch, "source": sizes.source, "new": sizes.prompt}
        profiles = list(decoder_profiles(beams=sizes.beams, **ranges))
        static = {"capacity": sizes.capacity}
    else:
        axes = {"batch": sizes.batch, "source": sizes.source}
        profiles = [Profile(name="encoder", sizes=axes)]
    engine = build_engine(path, profiles, static=static, capabilities=capabilities)
    library, release = engine.library.split()
    parts = [engine.report.profile(i) for i in range(len(profiles))]
    info = EngineInfo(
        library=library,
        release=release,
        target="here",
        role=role,
        form="masked",
        precision="float32",
        sizes=sizes,
        profiles=tuple(profile.name for profile in profiles),
        inputs=tuple(map(record, graph.inputs)),
        outputs=tuple(map(record, graph.outputs)),
        graph_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        plan_sha256=hashlib.sha256(engine.plan).hexdigest(),
        layers=len(engine.report.layers),
        fused_attentions=tuple(part.fused_attentions for part in parts),
        cache_updates=tuple(part.cache_updates for part in parts),
        products=dict(engine.report.products),
        build_seconds=0.0,
        build_peak_bytes=None,
        created="2026-01-31T23:59:59Z",
    )
    return engine.plan, info


def record(value):
    """An input or output as the sidecar has it."""
    shape = tuple(axis if isinstance(axis, int) else axis.value for axis in value.shape)
    return TensorRecord(name=value.name, dtype=NAMES[value.dtype], shape=shape)
