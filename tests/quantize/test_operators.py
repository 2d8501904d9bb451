"""The list of operators that graphs may hold is what export and quantize write, no more."""

from __future__ import annotations

from pathlib import Path

import tiny_models
from sentence_folders import sentence_folder
from speaking import sentences

from seq2edge.bundle import Bundle
from seq2edge.bundle.onnx_file import read_file, read_onnx
from seq2edge.bundle.operators import CONTRIB, CONTRIBUTED, STANDARD
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.quantize.recipes import Options

# Together they have every operator; most are exported for other tests of a run too.
FLOAT = (
    "whisper",
    "t5gemma",
    "bergamot",
    "moonshine",
    "trocr",
    "bert-sparse",
    "gpt-neox",
)
QUANTIZED = (
    ("int8-weight", "onnxruntime", Options()),
    ("int8-dynamic", "onnxruntime", Options()),
    ("int8-static", "onnxruntime", Options(int8_cache=True, int8_memory=True)),
    ("int4-weight", "tensorrt", Options()),
)


def normalized(folder: Path) -> Path:
    """The bundle of an embedding model whose embeddings have the length 1."""
    tiny_models.save("bert-embedding", folder / "checkpoint")
    sentence_folder(folder / "checkpoint", "Transformer", "Pooling", "Normalize")
    export_checkpoint(folder / "checkpoint", folder / "bundle", original=False)
    return folder / "bundle"


def test_every_operator_and_attribute_of_the_list_is_written(
    exported, speaking, made_once, tmp_path
):
    """And every one that is written stands on it: other graphs are never finished."""
    bundles = [Bundle.open(exported(name)[1] / "bundle") for name in FLOAT]
    bundles.append(Bundle.open(made_once(normalized)))
    source = speaking("bart", alignments=True)
    bundles.append(Bundle.open(source))
    for recipe, target, options in QUANTIZED:
        examples = sentences(8) if options.int8_cache or target == "tensorrt" else ()
        path = tmp_path / recipe
        report = quantize_bundle(
            source, path, recipe, target=target, options=options, calibration=examples, threads=1
        )
        bundles.append(report.bundle)
    written: dict[str, set[str]] = {}
    domains: dict[str, set[str]] = {}
    for bundle in bundles:
        for graph in bundle.manifest.graphs:
            path = bundle.file(graph.file)
            for node in read_onnx(read_file(path), path).nodes:
                written.setdefault(node.operator, set()).update(node.attributes)
                domains.setdefault(node.domain, set()).add(node.operator)
    assert written == {name: set(names) for name, names in (STANDARD | CONTRIBUTED).items()}
    assert domains == {"": set(STANDARD), CONTRIB: set(CONTRIBUTED)}
