"""The commands for whole bundles: verify, inspect, pack and unpack."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from command_line import call


def test_verify_inspect_pack_and_unpack(bundles, tmp_path):
    """From the folder to one file and back, and the same answers after."""
    bundle = bundles("bart")
    verified = call("verify", bundle)
    assert verified.exit_code == 0
    assert verified.stdout.count("equal: largest error") == 2
    assert "files: " in call("verify", bundle, "--no-run").stdout
    shown = call("inspect", bundle)
    assert "bart, encoder-decoder, made to generate" in shown.stdout
    assert json.loads(call("inspect", bundle, "--json").stdout)["family"] == "bart"
    assert call("pack", bundle, tmp_path / "b.s2e").exit_code == 0
    assert call("pack", bundle, tmp_path / "b.s2e").exit_code == 1
    assert call("unpack", tmp_path / "b.s2e", tmp_path / "copy").exit_code == 0
    assert call("run", tmp_path / "copy", "w5").stdout == call("run", bundle, "w5").stdout


def test_verify_fails_where_answers_differ(bundles, tmp_path, monkeypatch):
    """Exit code 1 and the figures."""
    from seq2edge.runtime import parity

    monkeypatch.setattr(parity, "ERROR_MULTIPLE", 0.0)
    result = call("verify", bundles("bart"))
    assert result.exit_code == 1
    assert "DIFFERENT: largest error" in result.stdout
    assert "does not give what was recorded" in result.stderr


def test_a_reader_that_goes_away_is_no_error(bundles):
    """`seq2edge ... | head -1` ends quietly."""
    command = f"{sys.executable} -m seq2edge.cli inspect {bundles('bart')} | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert "Traceback" not in done.stderr
