"""`seq2edge doctor` from outside."""

from __future__ import annotations

import json
import sys

from command_line import call

from seq2edge.runtime.backends import diagnosis


def test_doctor_tells_what_is_here_and_what_to_install(monkeypatch):
    """Exit code 0 even where much is missing: it is a report."""
    result = call("doctor")
    assert result.exit_code == 0
    assert "ok  onnxruntime" in result.stdout
    assert {"subject", "works", "detail"} == set(json.loads(call("doctor", "--json").stdout)[0])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    missing = call("doctor")
    assert missing.exit_code == 0
    assert "--  onnxruntime" in missing.stdout
    assert "pip install 'seq2edge[cpu]'" in missing.stdout
    assert not diagnosis._package("no-such-package").works
