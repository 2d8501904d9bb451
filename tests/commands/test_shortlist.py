"""`seq2edge shortlist` from outside."""

from __future__ import annotations

import pytest
from command_line import call


def test_shortlist_writes_a_bundle_like_others(bundles, tmp_path):
    """From texts or ids; the bundle says so, verifies, and answers with tokens of the list."""
    texts, ids, short = tmp_path / "texts.tsv", tmp_path / "ids", tmp_path / "short"
    words = [f"w{i}" for i in range(7, 40)]
    texts.write_text(f"w5 w6\t{' '.join(words)}\nw9\tw10\n")
    result = call("shortlist", bundles("bart"), "-o", short, "--texts", texts, "--threads", 1)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "shortlist: 36 of 96 tokens"
    assert [line.split(":")[0] for line in lines[1:3]] == ["canonical", "onnxruntime"]
    assert lines[3].startswith(str(short))
    assert "36 tokens can be generated, learnt from 2 texts" in call("inspect", short).stdout
    assert call("verify", short).exit_code == 0
    answer = call("run", short, "w5 w6", "--max-new-tokens", 5).stdout.split()
    assert answer
    assert set(answer) <= set(words)
    ids.write_text((short / "shortlist.txt").read_text())
    again = ["shortlist", bundles("bart"), "-o", short, "--ids", ids, "--overwrite"]
    assert call(*again).exit_code == 0
    assert "given as ids" in call("inspect", short).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --ids or --texts"),
        (["--ids", "a", "--texts", "b"], "give --ids or --texts"),
        (["--ids", "a", "--most", "5"], "--most is for --texts"),
    ],
)
def test_shortlist_is_told_one_list(bundles, tmp_path, options, message):
    """Wrong usage is exit code 2."""
    result = call("shortlist", bundles("bart"), "-o", tmp_path / "short", *options)
    assert result.exit_code == 2
    assert message in result.stderr
