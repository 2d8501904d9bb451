"""The command that lists what engines can be built for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from seq2edge.cli import main
from seq2edge.export.targets import TARGETS, table

HEAVY = {"onnx", "onnx_ir", "torch", "numpy", "onnxruntime", "tensorrt", "tensorrt_rtx"}


def test_targets_prints_the_table():
    """As the library makes it, on stdout alone."""
    result = CliRunner().invoke(main, ["targets"])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == table()
    assert result.stderr == ""


def test_targets_are_given_as_json():
    """Every fact of every target, with its source."""
    found = json.loads(CliRunner().invoke(main, ["targets", "--json"]).stdout)
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
