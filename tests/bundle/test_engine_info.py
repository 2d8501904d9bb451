"""The sidecar of an engine: round trips, and everything that is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from seq2edge.bundle.engine_info import (
    LARGEST,
    EngineInfo,
    EngineSizes,
    read_engine_info,
    top_outputs,
    write_engine_info,
)
from seq2edge.bundle.manifest import TensorRecord
from seq2edge.errors import BundleError

SIZES = EngineSizes(
    batch=(1, 2, 8), beams=4, source=(1, 64, 512), prompt=(1, 32, 128), capacity=256, top_k=16
)
INFO = EngineInfo(
    library="tensorrt_rtx",
    release="1.7.1.116",
    target="rtx-ampere",
    role="decoder",
    form="masked",
    precision="fp16",
    sizes=SIZES,
    profiles=("prefill", "step"),
    inputs=(TensorRecord(name="input_ids", dtype="int64", shape=("rows", "new")),),
    outputs=(TensorRecord(name="logits", dtype="float32", shape=("rows", 100)), *top_outputs(16)),
    graph_sha256="0" * 64,
    plan_sha256="f" * 64,
    layers=120,
    fused_attentions=(12, 12),
    cache_updates=(12, 12),
    cache_copies=(0, 0),
    products={"Half x Half": 60},
    build_seconds=17.5,
    build_peak_bytes=None,
    created="2026-01-31T23:59:59Z",
)


def test_what_is_written_is_read_back(tmp_path):
    """Equal records, and rows derived from batch and beams."""
    path = tmp_path / "decoder.json"
    write_engine_info(path, INFO)
    assert read_engine_info(path) == INFO
    assert INFO.sizes.rows == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "surprise: unknown key"),
        ({"library": "tensorrt 10"}, r"library: expected one of 'tensorrt', 'tensorrt_rtx'"),
        ({"format": 1}, "format 1, this version reads 2; build it again"),
        ({"format": 3}, "format 3, this version reads 2; build it again"),
        (
            {"profiles": ["step", "prefill"]},
            "profiles: step, prefill; the decoder has prefill, step",
        ),
        ({"role": "encoder"}, "profiles: prefill, step; the encoder has encoder"),
        ({"cache_updates": [12]}, "cache_updates: needs a number for each of prefill, step"),
        ({"plan_sha256": "f"}, "plan_sha256: expected 64 lower-case"),
        ({"build_seconds": "long"}, "build_seconds: expected a number"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path, change, message):
    """Unknown keys, values outside the grammar, and parts that contradict each other."""
    path = tmp_path / "decoder.json"
    path.write_text(json.dumps({**json.loads(INFO.to_bytes()), **change}), encoding="utf-8")
    with pytest.raises(BundleError, match=message) as caught:
        read_engine_info(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(EngineInfo)])
def test_a_missing_key_is_refused(key):
    """Every field is part of the format."""
    values = json.loads(INFO.to_bytes())
    del values[key]
    with pytest.raises(BundleError, match=f"{key}: missing"):
        EngineInfo.from_bytes(json.dumps(values).encode(), "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": (1, 2)}, r"batch: \[1, 2\] is no range"),
        ({"source": (4, 2, 8)}, r"source: \[4, 2, 8\] is no range"),
        ({"prompt": (0, 1, 2)}, "prompt: .* is no range"),
        ({"beams": 0}, "beams 0, capacity 256"),
        ({"top_k": -1}, "top_k: -1, it is 0 or more"),
        ({"capacity": 0}, "beams 4, capacity 0"),
    ],
)
def test_sizes_that_nothing_can_have_are_refused(change, message):
    """The same checks when it is made and when it is read."""
    with pytest.raises(BundleError, match=message):
        dataclasses.replace(SIZES, **change)


@pytest.mark.parametrize("top_k", [0, 8])
def test_outputs_and_top_k_say_the_same(top_k):
    """Which logits a decoder's engine gives apart; an encoder gives none."""
    with pytest.raises(BundleError, match=rf"outputs: log_sum_exp .*; top_k {top_k} means .*lo"):
        dataclasses.replace(INFO, sizes=dataclasses.replace(SIZES, top_k=top_k))
    with pytest.raises(BundleError, match="outputs: logits alone; top_k 16 means log_sum_exp"):
        dataclasses.replace(INFO, outputs=INFO.outputs[:1])
    one = ((0,),) * 3
    counts = dict(zip(("fused_attentions", "cache_updates", "cache_copies"), one, strict=True))
    encoder = {"role": "encoder", "profiles": ("encoder",), **counts}
    dataclasses.replace(INFO, outputs=INFO.outputs[:1], **encoder)
    with pytest.raises(BundleError, match="means logits alone"):
        dataclasses.replace(INFO, **encoder)


def test_what_would_not_be_read_back_is_not_written(tmp_path):
    """A NaN, and a file that is no sidecar at all."""
    with pytest.raises(BundleError, match="a value is not JSON"):
        dataclasses.replace(INFO, build_seconds=float("nan")).to_bytes()
    path = tmp_path / "decoder.json"
    path.write_bytes(b" " * (LARGEST + 1))
    with pytest.raises(BundleError, match="this describes no engine"):
        read_engine_info(path)
    with pytest.raises(BundleError, match="No such file"):
        read_engine_info(tmp_path / "none.json")
