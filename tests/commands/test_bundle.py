"""The commands for whole bundles: verify, inspect, pack and unpack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from command_line import call
from key_pairs import make_pair

import seq2edge
from seq2edge.errors import OptionError


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


@pytest.fixture
def signed(bundles, tmp_path):
    """A folder with a signed bundle, and its key pair."""
    pair = make_pair(tmp_path, "ours")
    packed = call("pack", bundles("bart"), tmp_path / "b.s2e", "--sign", pair.private)
    assert packed.exit_code == 0
    assert packed.stdout == f"{tmp_path / 'b.s2e'}\n"
    return tmp_path / "b.s2e", pair, packed.stderr.removeprefix("sha256: ").strip()


def test_what_is_asked_of_the_origin_is_asked_by_every_command(bundles, signed, tmp_path):
    """By unpack, verify and those that run a model, and by load for its draft too."""
    file, pair, sha256 = signed
    other = make_pair(tmp_path, "other").public
    key = ("--require-key", pair.public)
    assert call("unpack", file, tmp_path / "none", "--require-key", other).exit_code == 1
    assert not (tmp_path / "none").exists()
    model = tmp_path / "model"
    assert call("unpack", file, model, *key, "--sha256", sha256).exit_code == 0
    shown = json.loads(call("inspect", model, "--json").stdout)
    assert (shown["sha256"], shown["signed"]) == (sha256, True)
    plain = bundles("bart")
    (tmp_path / "data.tsv").write_text("w5\tw5\n")
    evaluate = ("eval", "--limit", "1")
    for command in (("verify", "--no-run"), ("run",), ("audit",), evaluate):
        for asked, message in (
            (("--require-key", other), "its signature is not of"),
            (("--sha256", "0" * 64), "is asked for"),
        ):
            words = {("run",): ("w5",), evaluate: (tmp_path / "data.tsv",)}.get(command, ())
            refused = call(*command, model, *words, *asked)
            assert refused.exit_code == 1
            assert refused.stdout == ""
            assert message in refused.stderr
    both = call("run", model, "w5", "--require-key", other, *key, "--sha256", sha256)
    assert both.stdout == call("run", plain, "w5").stdout != ""
    assert call("run", plain, "w5", *key).exit_code == 1
    assert "not signed" in call("run", model, "w5", *key, "--draft", plain).stderr
    data = ("eval", model, tmp_path / "data.tsv", "--sha256", sha256)
    assert "sha256: pins one bundle" in call(*data, "--baseline", plain).stderr
    with pytest.raises(OptionError, match="sha256: pins one bundle"):
        seq2edge.load(model, sha256=sha256, draft=plain)


def test_hashes_are_checked_where_they_are_asked_for(bundles, tmp_path):
    """A model whose weights changed runs without, and is refused with."""
    model = tmp_path / "model"
    shutil.copytree(bundles("bart"), model)
    weights = bytearray((model / "weights.data").read_bytes())
    weights[0] ^= 1
    (model / "weights.data").write_bytes(weights)
    assert call("run", model, "w5").exit_code == 0
    for asked in (("--hashes",), ("--sha256", seq2edge_sha256(model))):
        refused = call("run", model, "w5", *asked)
        assert refused.exit_code == 1
        assert "weights.data: SHA-256" in refused.stderr


def seq2edge_sha256(bundle):
    """As inspect prints it."""
    return json.loads(call("inspect", bundle, "--json").stdout)["sha256"]


def test_what_changes_a_signed_bundle_says_that_it_is_not_signed(signed, tmp_path):
    """So that nobody is surprised on the device."""
    file, pair, _ = signed
    call("unpack", file, tmp_path / "model")
    (tmp_path / "ids.txt").write_text("".join(f"{number}\n" for number in range(30)))
    made = call(
        "shortlist", tmp_path / "model", "--ids", tmp_path / "ids.txt", "-o", tmp_path / "short"
    )
    assert made.exit_code == 0, made.stderr
    assert "not signed: the signature was the old bundle's" in made.stderr
    assert call("verify", tmp_path / "short", "--require-key", pair.public).exit_code == 1


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
