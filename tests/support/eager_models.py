"""Tiny encoders behind the public runtime without an export: PyTorch is their backend."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import small_tokenizers
import tiny_models
import torch
import transformers

from seq2edge.bundle import BundleWriter
from seq2edge.bundle.contract import encoder_contract
from seq2edge.bundle.manifest import GraphRecord, Manifest, ProvenanceRecord, TensorRecord
from seq2edge.checkpoints.load import Checkpoint, load_checkpoint
from seq2edge.checkpoints.tokenizer import Converted, convert_tokenizer
from seq2edge.export.eager import EagerBackend
from seq2edge.runtime.model import Model

# A tokenizer of these must find no id without an embedding.
SIZES = {"bert": 310, "distilbert": 310, "roberta": 510}


def eager_model(
    folder: Path,
    name: str,
    kind: str,
    *,
    cut: bool = False,
    text_limit: int | None = None,
    **changes: Any,
) -> tuple[Any, Any, Model]:
    """The tiny model of that name with a small tokenizer, its tokenizer and ours, both random."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    small_tokenizers.KINDS[kind](checkpoint)
    family = tiny_models.EVERY[name].config.removesuffix("Config").lower()
    small_tokenizers.write(checkpoint / "config.json", {"model_type": family})
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    changes = {"vocab_size": SIZES[kind], "pad_token_id": tokenizer.pad_token_id, **changes}
    reference = tiny_models.make(name, **changes)
    if out := getattr(reference, "classifier" if "tokens" in name else "qa_outputs", None):
        _vary(reference, tokenizer, out)
    reference.save_pretrained(checkpoint)
    loaded = load_checkpoint(checkpoint, task=tiny_models.task_of(name))
    converted = convert_tokenizer(
        checkpoint,
        config=loaded.source.config,
        vocab=loaded.dims.vocab,
        fills=loaded.dims.head == "masked",
    )
    assert converted is not None
    record = dataclasses.replace(converted.record, text_limit=text_limit)
    converted = dataclasses.replace(converted, record=record)
    return reference, tokenizer, opened(folder / "bundle", loaded, converted, cut=cut)


def opened(bundle: Path, loaded: Checkpoint, converted: Converted, *, cut: bool = False) -> Model:
    """A checkpoint and its tokenizer as a bundle whose graphs PyTorch runs."""
    contract = encoder_contract(loaded.model.dims)
    graph = GraphRecord(
        role="encoder",
        target="canonical",
        file="encoder.onnx",
        opset={},
        requires={},
        inputs=tuple(
            TensorRecord(name=put, dtype="int64", shape=shape)
            for put, shape in contract.inputs.items()
        ),
        outputs=(),
    )
    manifest = Manifest(
        kind="encoder",
        task=loaded.dims.task,
        family=loaded.family,
        dims=loaded.dims,
        labels=loaded.labels,
        problem=loaded.problem,
        relevance=loaded.relevance,
        tokenizer=converted.record,
        reranking=loaded.reranker.record if loaded.reranker else None,
        graphs=(graph,),
        provenance=ProvenanceRecord(
            tool_version="0", created="2026-01-31T23:59:59Z", source="", source_format=""
        ),
    )
    with BundleWriter(bundle) as writer:
        writer.path(graph.file).write_bytes(b"none")
        for file, data in converted.files.items():
            writer.path(file).write_bytes(data)
        finished = writer.finish(manifest)
    return Model(finished, EagerBackend(loaded.model), cut=cut)


@torch.no_grad()
def _vary(reference: Any, tokenizer: Any, out: torch.nn.Linear) -> None:
    """Let the head say something else of most tokens: of a random one all look much the same."""
    out.weight *= 3
    ids = tokenizer(" ".join(small_tokenizers.corpus("latin")[:6]), return_tensors="pt").input_ids
    output = reference(input_ids=ids[:, :60])
    logits = output[0] if len(output) == 1 else torch.stack((output[0], output[1]), dim=-1)
    out.bias -= logits.mean(dim=(0, 1))


def reference_logits(reference: Any, tokenizer: Any, *texts: str) -> Any:
    """What transformers' model gives for a text or a pair, alone."""
    with torch.no_grad():
        return reference(**tokenizer(*texts, return_tensors="pt"))
