"""`seq2edge quantize` from outside."""

from __future__ import annotations

import json
import re

from command_line import call
from speaking import sentences

from seq2edge.bundle import Bundle
from seq2edge.evaluation.metrics import METRICS
from seq2edge.quantize.recipes import RANGE_METHODS, RECIPES


def test_quantize_writes_a_bundle_and_a_verdict(bundles, tmp_path):
    """Figures of both, a sentence, the place; as JSON too. The result is a bundle like others."""
    texts = tmp_path / "texts.txt"
    texts.write_text("w5 w6\nw7 w8 w9\n")
    small = tmp_path / "small"
    arguments = ["quantize", bundles("bart"), "-r", "int8-weight", "--threads", 1]
    result = call(*arguments, "-o", small, "--evaluation", texts)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["float32", "quantized"]
    assert lines[-2].startswith("int8-weight ")
    assert lines[-2].endswith("on the examples given")
    assert lines[-1].startswith(str(small))
    assert call("verify", small).exit_code == 0
    assert "int8-weight" in call("inspect", small).stdout
    assert call("run", small, "w5 w6").exit_code == 0
    values = json.loads(call(*arguments, "-o", small, "--overwrite", "--json").stdout)
    assert values["unit"] == "tokens"
    assert values["quantized"]["bytes"] == Bundle.open(small).size


def test_quantize_for_tensorrt_is_judged_by_emulation(bundles, tmp_path):
    """Size and answers are told; what only an engine can show is left open."""
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{example.input}\n" for example in sentences(20)))
    arguments = ["quantize", bundles("bart"), "-r", "int8-static", "--target", "tensorrt"]
    arguments += ["--calibration", texts, "--evaluation", texts, "--threads", 1]
    result = call(*arguments, "-o", tmp_path / "small")
    assert result.exit_code == 0, result.stderr
    assert "does not run here, its answers are emulated" in result.stdout
    rows = {line[:20].strip(): line[20:].split() for line in result.stdout.splitlines()}
    assert rows["load, s"] == rows["tokens/s, batch 8"] == ["-", "-"]
    assert float(rows["size, MB"][1]) < float(rows["size, MB"][0])
    verified = call("verify", tmp_path / "small")
    assert verified.exit_code == 0
    assert "an engine has to be built for tensorrt on the device first" in verified.stdout


def test_quantize_finds_a_recipe_by_itself(bundles, tmp_path):
    """Every trial in a table, the verdict on the chosen one, and a report beside the bundle."""
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{example.input}\n" for example in sentences(20)))
    arguments = ["quantize", bundles("bart"), "-r", "auto", "--budget", "agreement-100"]
    arguments += ["--calibration", texts, "--evaluation", texts, "--threads", 1]
    result = call(*arguments, "-o", tmp_path / "small", "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    chosen = [trial for trial in values["search"]["trials"] if trial["chosen"]]
    assert len(chosen) == 1
    assert Bundle.open(tmp_path / "small").manifest.precision == chosen[0]["recipe"]
    assert values["report"] == str(tmp_path / "small.html")
    assert (tmp_path / "small.html").read_text().startswith("<!doctype html>")
    for recipe in ("float32", "int8-weight", "int4-weight", "int8-dynamic", "int8-static"):
        assert recipe in result.stderr


def test_quantize_names_every_recipe(bundles):
    """In its help, which cannot import them."""
    text = re.sub(r"-\n\s+", "-", call("quantize", "--help").stdout)
    assert all(name in text for name in (*RECIPES, "auto"))
    assert all(name in text for name in (*RANGE_METHODS, *METRICS, "agreement"))


def test_quantize_refuses_what_it_cannot_use(bundles, tmp_path):
    """In a line each, with nothing written."""
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "few.txt").write_text("w5 w6\n")
    few = ["--calibration", tmp_path / "few.txt", "--evaluation", tmp_path / "few.txt"]
    auto = ["-r", "auto", *few, "--budget"]
    for extra, message in (
        (["-r", "auto"], "auto needs a --budget, such as wer+0.5"),
        (["-r", "int8-weight", "--budget", "wer+1"], "--budget is for --recipe auto"),
        (["-r", "int8-weight", "--report", "r.html"], "--report is for --recipe auto"),
        (["-r", "int8-weight", "--metric", "wer"], "--metric is measured on --evaluation"),
        ([*auto, "wer+1", "--target", "tensorrt"], "where nothing for tensorrt runs"),
    ):
        result = call("quantize", bundles("bart"), "-o", tmp_path / "x", *extra)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
    for extra, message in (
        ([*auto, "chrf+1"], "larger values of chrf are better; write chrf-1"),
        ([*auto, "chrf-1"], "at least 64 are needed"),
        (["-r", "int8-static"], "int8-static for onnxruntime needs examples"),
        (["-r", "fp16", "--target", "onnxruntime"], "fp16 is not made for 'onnxruntime'"),
        (["-r", "int8-weight", "--smoothing", "0.5"], "smoothing: int8-weight has no 8-bit inputs"),
        (["-r", "int8-static", "--ranges", "x"], "ranges: 'x' is unknown, known: min-max"),
        (["-r", "int8-weight", "--int8-cache"], "8-bit caches need examples, they show how large"),
    ):
        result = call("quantize", bundles("bart"), "-o", tmp_path / "x", *extra)
        assert result.exit_code == 1, (extra, result.stderr)
        assert message in result.stderr
    for extra, message in (
        (["-r", "int3"], "recipe: 'int3' is unknown"),
        (["-r", "int8-weight", "--evaluation", tmp_path / "empty.txt"], "holds no text"),
        (["-r", "int4-weight", "--calibration", tmp_path / "few.txt"], "at least 64 are needed"),
        (
            ["-r", "int8-weight", "--calibration", tmp_path / "few.txt"],
            "onnxruntime uses none",
        ),
        (["-r", "int4-weight", "--calibration", tmp_path], "a folder, this model reads text"),
        (["-r", "int8-weight", "--evaluation", tmp_path / "few.txt", "--metric", "rouge"], "known"),
    ):
        result = call("quantize", bundles("bart"), "-o", tmp_path / "x", *extra)
        assert result.exit_code == 1
        assert message in result.stderr
    assert not (tmp_path / "x").exists()
