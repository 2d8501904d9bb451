"""What an export leaves behind, and what it refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace

import onnx_ir as ir
import pytest
import small_tokenizers
import tiny_models

from seq2edge.bundle import Bundle
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import BundleError, CheckpointError, ExportError, OptionError
from seq2edge.export import pipeline
from seq2edge.export.passes.fuse_cache_attention import FuseCacheAttention
from seq2edge.export.pipeline import export_checkpoint


def edit(folder, file, **changes):
    """Change settings of a checkpoint's JSON file."""
    path = folder / file
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**values, **changes}))


@pytest.mark.parametrize("name", ["bart", "llama-biases-tied", "qwen2", "bert"])
def test_every_weight_is_stored_once(exported, name):
    """Both graphs, both kinds of them and a tied table share one file."""
    _, folder, _ = exported(name)
    loaded = load_checkpoint(folder / "checkpoint")
    tensors = list(loaded.model.parameters())
    needed = sum(p.nbytes for p in tensors if p.nbytes > 1024)
    stored = (folder / "bundle" / "weights.data").stat().st_size
    assert needed <= stored + 1024 * len(tensors)
    assert stored <= needed + 4096 * len(tensors)


def test_the_manifest_says_where_it_comes_from(exported):
    """Family, files, parity and origin."""
    _, folder, report = exported("bart")
    bundle = Bundle.open(folder / "bundle", hashes=True)
    manifest = bundle.manifest
    assert manifest.family == "bart"
    assert manifest.kind == "encoder-decoder"
    assert manifest.task == "generate"
    assert manifest.provenance.source == "checkpoint"
    assert manifest.provenance.source_format == "huggingface"
    assert set(manifest.provenance.packages) >= {"torch", "onnx", "onnxruntime"}
    assert manifest.parity.max_absolute < 2e-4
    assert manifest.parity.tokens_compared == manifest.parity.tokens_equal > 0
    assert set(report.parity) == {"canonical", "onnxruntime"}
    assert "no tokenizer" in report.notes[0]
    requires = {(g.target, g.requires["onnxruntime"]) for g in manifest.graphs}
    assert requires == {("canonical", "1.31"), ("onnxruntime", "1.23")}


def test_a_sliding_window_asks_for_the_release_that_honours_it(exported):
    """ONNX Runtime 1.23's fused operator gets windows silently wrong."""
    _, _, report = exported("mistral")
    requires = {g.target: g.requires["onnxruntime"] for g in report.bundle.manifest.graphs}
    assert requires["onnxruntime"] == "1.32"


@pytest.mark.parametrize("name", ["llama", "bart"])
def test_a_graph_that_differs_fails_the_export(tmp_path, monkeypatch, name):
    """A wrong scale in one specialised attention: an error with the figures, and no bundle."""
    tiny_models.save(name, tmp_path / "checkpoint")
    original = FuseCacheAttention.call

    def wrong(self, model):
        result = original(self, model)
        for node in model.graph:
            if node.op_type == "GroupQueryAttention":
                node.attributes["scale"] = ir.AttrFloat32("scale", 0.9)
        return result

    monkeypatch.setattr(FuseCacheAttention, "call", wrong)
    with pytest.raises(ExportError, match=r"onnxruntime graphs differ .*not written"):
        export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_an_existing_bundle_survives_a_failing_export(exported, tmp_path):
    """Nothing is replaced before everything is proven."""
    _, folder, _ = exported("gpt2")
    with pytest.raises(BundleError, match="exists"):
        export_checkpoint(folder / "checkpoint", folder / "bundle")
    with pytest.raises(CheckpointError, match="no such file or folder"):
        export_checkpoint(tmp_path / "none", folder / "bundle", overwrite=True)
    Bundle.open(folder / "bundle", hashes=True)
    assert sorted(path.name for path in folder.iterdir()) == ["bundle", "checkpoint"]


def test_settings_that_cannot_be_applied_are_told(tmp_path):
    """Those that have no option here: the manifest and the report say so; the others are kept."""
    tiny_models.save("gpt2", tmp_path / "checkpoint")
    edit(tmp_path / "checkpoint", "generation_config.json", do_sample=True, top_h=0.7)
    report = export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle")
    assert report.ignored_settings == {"top_h": 0.7}
    assert report.bundle.manifest.generation["do_sample"] is True
    assert report.bundle.manifest.generation_ignored == report.ignored_settings


def test_contradicting_settings_are_refused_at_export(tmp_path):
    """Better now than at the first decoding on a device."""
    tiny_models.save("gpt2", tmp_path / "checkpoint")
    edit(tmp_path / "checkpoint", "generation_config.json", num_return_sequences=3)
    with pytest.raises(OptionError, match="3 of 1 beams"):
        export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_weights_that_the_task_does_not_need_are_named(exported):
    """An embedding encoder's pooler, for instance."""
    _, _, report = exported("bert-embedding")
    assert report.unused_tensors == ("pooler.dense.bias", "pooler.dense.weight")
    assert report.bundle.manifest.provenance.unused_tensors == report.unused_tensors


def test_progress_runs_forward_from_nothing_to_everything(tmp_path):
    """A bar that jumps back helps nobody."""
    tiny_models.save("bart", tmp_path / "checkpoint")
    seen = []
    export_checkpoint(
        tmp_path / "checkpoint",
        tmp_path / "bundle",
        progress=lambda stage, part: seen.append((stage, part)),
    )
    parts = [part for _, part in seen]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.0, 1.0)
    assert {stage for stage, _ in seen} == set(pipeline.STAGES)


@pytest.mark.parametrize(("settings", "limit"), [({}, None), ({"model_max_length": 20}, 20)])
def test_an_encoder_reads_what_its_tokenizer_allows(tmp_path, settings, limit):
    """Where that is less than it has positions for."""
    small_tokenizers.bert(tmp_path)
    small_tokenizers.write(tmp_path / "tokenizer_config.json", settings)
    tiny_models.save("bert", tmp_path, vocab_size=310, pad_token_id=0)
    writer = SimpleNamespace(path=lambda name: tmp_path / f"new-{name}")
    record, _ = pipeline._write_tokenizer(writer, load_checkpoint(tmp_path))
    assert record.text_limit == limit
