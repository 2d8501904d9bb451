"""The commands that list what engines can be built for, and build them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from command_line import call

from seq2edge.export.tensorrt.targets import TARGETS, table
from seq2edge.quantize.pipeline import quantize_bundle

HEAVY = {"onnx", "onnx_ir", "torch", "numpy", "onnxruntime", "tensorrt", "tensorrt_rtx"}


def test_targets_prints_the_table():
    """As the library makes it, on stdout alone."""
    result = call("targets")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == table()
    assert result.stderr == ""


def test_targets_are_given_as_json():
    """Every fact of every target, with its source."""
    found = json.loads(call("targets", "--json").stdout)
    assert [target["name"] for target in found] == list(TARGETS)
    orin = next(target for target in found if target["name"] == "orin-jetpack6.2")
    assert (orin["release"], orin["form"], orin["refused"]) == ("10.3", "lowered", "")
    assert orin["precisions"] == list(TARGETS["orin-jetpack6.2"].precisions)
    assert orin["sources"]["precisions"] == "NVIDIA's documents"


@pytest.mark.parametrize("arguments", [["targets"], ["targets", "--help"], ["--help"]])
def test_it_answers_without_anything_heavy(arguments):
    """Nothing that takes long to load, or that a board may lack."""
    program = (
        "import sys\nfrom seq2edge.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\nprint('LOADED', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split("LOADED")[1].split()}
    assert not loaded & HEAVY


def test_build_tells_what_stands_in_each_engine(exported, tmp_path, monkeypatch):
    """Layers, products, attentions and caches by profile; as JSON too, when it was built before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: seq2edge[rtx]")
    bundle = quantize_bundle(exported("gpt2")[1] / "bundle", tmp_path / "small", "bf16").bundle
    arguments = ["build", str(bundle.path), "--target", "rtx-ampere"]
    arguments += ["--batch", "1:2", "--beams", "2", "--capacity", "32", "--prompt", "1:8"]
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("decoder for rtx-ampere, bf16, masked: ")
    assert "BFloat16 x BFloat16" in lines[1]
    assert lines[2] == "  gives the 16 largest logits to choose from"
    assert [line.split(":")[0] for line in lines[3:5]] == ["  prefill", "  step"]
    assert all("4 caches updated in place, 0 copied" in line for line in lines[3:5])
    result = call(*arguments, "--json")
    values = json.loads(result.stdout)
    assert values["bundle"] == str(bundle.path)
    assert values["engines"][0]["sizes"]["batch"] == [1, 1, 2]
    result = call(*arguments, "--top-k", "0")
    assert result.stdout.splitlines()[2] == "  gives all logits"


def test_a_plan_is_told_for_any_target_on_any_machine(exported):
    """Memory to build and to run, and what fits; nothing is built."""
    source = exported("gpt2")[1] / "bundle"
    before = sorted(path.name for path in source.iterdir())
    arguments = ["build", str(source), "--plan", "--target", "orin-jetpack6.2"]
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "decoder" in result.stdout
    assert "board, GB" in result.stdout
    values = json.loads(call(*arguments, "--json").stdout)
    assert values["target"] == "orin-jetpack6.2"
    assert sorted(path.name for path in source.iterdir()) == before
    refused = call("build", str(source), "--plan", "--target", "x")
    assert "target: 'x' is unknown" in refused.stderr


def test_build_refuses_sizes_and_targets_in_a_line(exported):
    """Without a traceback, and with the bundle as it was."""
    bundle = str(exported("gpt2")[1] / "bundle")
    for extra, message in (
        (["--batch", "x"], "range: 'x' is none, give 8, 1:8 or least:best:most"),
        (["--top-k", "-1"], "top_k: -1, give 0, or 2 to 3840"),
        (["--capacity", "16"], "prompt: 128 tokens do not fit a capacity of 16"),
        (["--plan", "--timing-cache", "x"], "timing-cache: --plan builds nothing"),
        (["--target", "jetson"], "target: 'jetson' is unknown, known: xavier-jetpack5.1"),
    ):
        result = call("build", bundle, *extra)
        assert result.exit_code == 1
        assert message in result.stderr
