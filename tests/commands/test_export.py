"""`seq2edge export` from outside."""

from __future__ import annotations

import sys

from command_line import call


def test_export_without_its_packages_names_the_extra(tmp_path, monkeypatch):
    """On a device, where torch is not."""
    monkeypatch.setitem(sys.modules, "seq2edge.export.pipeline", None)
    result = call("export", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "install seq2edge[export,cpu]" in result.stderr
