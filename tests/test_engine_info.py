"""An engine's sidecar: closed, and read back as it was written."""

from __future__ import annotations

import dataclasses
import json

import pytest

from seq2edge.engine_info import EngineInfo, EngineSizes, read_engine_info
from seq2edge.errors import BundleError
from seq2edge.manifest import TensorRecord

INFO = EngineInfo(
    library="tensorrt_rtx",
    release="1.7.1.116",
    target="rtx-ampere",
    role="decoder",
    form="masked",
    precision="fp16",
    sizes=EngineSizes(
        batch=(1, 1, 8), beams=4, source=(1, 64, 512), prompt=(1, 32, 128), capacity=256
    ),
    profiles=("prefill", "step"),
    inputs=(TensorRecord(name="input_ids", dtype="int64", shape=("rows", "new")),),
    outputs=(TensorRecord(name="logits", dtype="float32", shape=("rows", 97)),),
    graph_sha256="0" * 64,
    plan_sha256="1" * 64,
    layers=12,
    fused_attentions=(4, 4),
    cache_updates=(4, 4),
    cache_copies=(0, 0),
    products={"Half x Half": 20},
    build_seconds=2.5,
    build_peak_bytes=None,
    created="2026-01-31T23:59:59Z",
)


def test_it_is_read_as_it_was_written(tmp_path):
    """All of it."""
    path = tmp_path / "decoder.json"
    path.write_bytes(INFO.to_bytes())
    assert read_engine_info(path) == INFO


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(more=1), "more: unknown key with the value 1"),
        (lambda values: values.pop("layers"), "layers"),
        (lambda values: values.update(form="folded"), "form: expected"),
        (lambda values: values["sizes"].update(batch=[1, 8]), r"batch: \[1, 8\] is no range"),
        (lambda values: values.update(plan_sha256="x"), "plan_sha256: expected 64 lower-case"),
    ],
)
def test_anything_else_is_refused(tmp_path, change, message):
    """With the file and the place."""
    values = json.loads(INFO.to_bytes())
    change(values)
    path = tmp_path / "decoder.json"
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=message) as found:
        read_engine_info(path)
    assert str(path) in str(found.value)


def test_a_missing_or_broken_file_is_refused(tmp_path):
    """By its name."""
    with pytest.raises(BundleError, match=r"none\.json: No such file"):
        read_engine_info(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(BundleError, match=r"broken\.json: not valid JSON"):
        read_engine_info(tmp_path / "broken.json")


def test_numbers_that_are_none_are_not_written():
    """They could not be read back."""
    with pytest.raises(BundleError, match="a value is not JSON"):
        dataclasses.replace(INFO, build_seconds=float("nan")).to_bytes()
