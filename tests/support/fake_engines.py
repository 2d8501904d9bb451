"""Bundles with engines that `fake_tensorrt` runs, made of exported bundles' canonical graphs."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil

import fake_tensorrt
import onnx_ir as ir

from seq2edge.bundle import BundleWriter
from seq2edge.bundle.engine_info import PROFILES, EngineInfo, EngineSizes, write_engine_info
from seq2edge.bundle.manifest import EngineRecord, TensorRecord
from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18
from seq2edge.export.passes.top_logits import TopLogits
from seq2edge.quantize.passes.half_precision import HalfPrecisionWeights, ToHalfPrecision

RELEASE = "1.0"
SIZES = EngineSizes(
    batch=(1, 2, 3), beams=4, source=(1, 16, 40), prompt=(1, 4, 8), capacity=40, top_k=0
)
CHOOSING = dataclasses.replace(SIZES, top_k=16)  # on the device
NAMES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16", ir.DataType.INT64: "int64"}


def with_engines(
    source, folder, *, sizes=SIZES, form="masked", library="tensorrt", precision="float32"
):
    """A copy of a bundle with an engine for each of its roles."""
    manifest = source.manifest
    if positions := manifest.dims.source_positions:
        sizes = dataclasses.replace(sizes, source=(positions,) * 3)
    with BundleWriter(folder) as writer:
        for name in manifest.files:
            shutil.copyfile(source.file(name), writer.path(name))
        records = []
        for graph in manifest.graphs:
            if graph.target != "canonical":
                continue
            plan, info = make_engine(
                source.file(graph.file), graph.role, sizes, form, library, precision
            )
            file, sidecar = f"engines/{graph.role}.plan", f"engines/{graph.role}.json"
            writer.path(file).write_bytes(plan)
            write_engine_info(writer.path(sidecar), info)
            records.append(
                EngineRecord(file=file, target=info.target, role=graph.role, sidecar=sidecar)
            )
        finished = writer.finish(dataclasses.replace(manifest, engines=tuple(records)))
    return dataclasses.replace(finished, trust_engines=True)


def make_engine(path, role, sizes, form, library, precision):
    """A fake plan of a canonical graph and what its sidecar says."""
    model = ir.external_data.load_to_model(ir.load(path))
    LengthToMask()(model)
    if precision == "fp16":
        ToHalfPrecision(HalfPrecisionWeights(ir.DataType.FLOAT16))(model)
    if role == "decoder" and sizes.top_k:
        TopLogits(sizes.top_k)(model)
    if form == "lowered":
        LowerToOpset18()(model)
    inputs, outputs = (
        tuple(record(v) for v in vs) for vs in (model.graph.inputs, model.graph.outputs)
    )
    plan = fake_tensorrt.make_plan(
        ir.to_proto(model),
        [ranges(inputs, sizes, profile) for profile in PROFILES[role]],
        in_place=role == "decoder" and form == "masked",
        release=RELEASE,
    )
    count = len(PROFILES[role])
    info = EngineInfo(
        library=library,
        release=RELEASE,
        target="fake",
        role=role,
        form=form,
        precision=precision,
        sizes=sizes,
        profiles=PROFILES[role],
        inputs=inputs,
        outputs=outputs,
        graph_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        layers=1,
        fused_attentions=(0,) * count,
        cache_updates=(0,) * count,
        cache_copies=(0,) * count,
        products={},
        build_seconds=0.0,
        build_peak_bytes=None,
        created="2026-01-31T23:59:59Z",
    )
    return plan, info


def record(value):
    """An input or output as the sidecar has it."""
    shape = tuple(axis if isinstance(axis, int) else axis.value for axis in value.shape)
    return TensorRecord(name=value.name, dtype=NAMES[value.dtype], shape=shape)


def ranges(inputs, sizes, profile):
    """Least, best and most shape of every input in a profile."""
    rows = tuple(n * (1 if i == 0 else sizes.beams) for i, n in enumerate(sizes.batch))
    axes = {
        "batch": sizes.batch,
        "rows": rows if profile == "step" else sizes.batch,
        "source": sizes.source,
        "new": (1, 1, 1) if profile == "step" else sizes.prompt,
        "capacity": (sizes.capacity,) * 3,
    }
    return {
        tensor.name: [
            [axes[a][i] if isinstance(a, str) else a for a in tensor.shape] for i in range(3)
        ]
        for tensor in inputs
    }
