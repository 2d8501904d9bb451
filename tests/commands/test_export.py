"""`seq2edge export` from outside."""

from __future__ import annotations

import sys

import transformers
from command_line import call


def test_export_without_its_packages_names_the_extra(tmp_path, monkeypatch):
    """On a device, where torch is not."""
    monkeypatch.setitem(sys.modules, "seq2edge.export.pipeline", None)
    result = call("export", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "install seq2edge[export,cpu]" in result.stderr


def test_a_masked_language_model_needs_a_task(tmp_path):
    """One line with the choice, before anything is traced."""
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "checkpoint")
    result = call("export", tmp_path / "checkpoint", "-o", tmp_path / "bundle")
    assert result.exit_code == 1
    assert "choose --task fill or --task embed" in result.stderr
    assert not (tmp_path / "bundle").exists()
