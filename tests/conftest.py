"""Fixtures that several rooms share: complete sample manifests and small bundles."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from made_once import MadeOnce

from seq2edge.bundle import Bundle, BundleWriter
from seq2edge.bundle.manifest import (
    AudioRecord,
    EmbeddingRecord,
    EngineRecord,
    GraphFlavour,
    GraphRecord,
    Manifest,
    OriginalRecord,
    ParityRecord,
    PrivacyRecord,
    ProvenanceRecord,
    QuantizationRecord,
    Role,
    ShortlistRecord,
    SpecialTokens,
    SpeechRecord,
    TensorRecord,
    TokenizerRecord,
)
from seq2edge.model.dims import Dims, StackDims

# How long an example takes says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

STACK = StackDims(layers=2, heads=4, kv_heads=2, head_dim=8, hidden=64, activation="gelu")
ENCODER = dataclasses.replace(STACK, max_positions=1500)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes and nameless functions are called by their argument: what they hold is no name."""
    nameless = isinstance(val, bytes) or getattr(val, "__name__", "") == "<lambda>"
    return argname if nameless else None


def graph(role: Role, target: GraphFlavour, file: str) -> GraphRecord:
    """A graph record with one input and one output."""
    return GraphRecord(
        role=role,
        target=target,
        file=file,
        opset={"": 24, "com.microsoft": 1},
        requires={"onnxruntime": "1.32"},
        inputs=(TensorRecord(name="input_ids", dtype="int64", shape=("batch", 7)),),
        outputs=(TensorRecord(name="logits", dtype="float32", shape=("batch", "vocab")),),
    )


def manifest_of(**changes: Any) -> Manifest:
    """A manifest with every part filled in, `files` still empty; `changes` replaces fields."""
    values: dict[str, Any] = {
        "kind": "encoder-decoder",
        "task": "transcribe",
        "family": "whisper",
        "dims": Dims(width=32, vocab=100, encoder=ENCODER, decoder=STACK, mels=80),
        "precision": "int8-weight",
        "quantization": QuantizationRecord(
            recipe="8-bit weights",
            method="GPTQ",
            examples=200,
            float32_values={"decoder: add_7": 7.5e4},
            weights={"decoder: w": "int8, blocks of 128"},
            source_sha256="0" * 64,
            tool_version="0.1.0",
            created="2026-01-31T23:59:59Z",
            packages={"onnxruntime": "1.32.0"},
        ),
        "generation": {"num_beams": 4, "bad": [[1, -2]], "length_penalty": 0.6, "stop": None},
        "generation_ignored": {"do_sample": True},
        "problem": "single_label",
        "relevance": "plain",
        "audio": AudioRecord(sampling_rate=16000, mels=80, fft=400, hop=160, seconds=30),
        "speech": SpeechRecord(
            languages={"en": 59},
            tasks={"transcribe": 69},
            no_timestamps=63,
            alignment_heads=((0, 2), (1, 0)),
        ),
        "tokenizer": TokenizerRecord(
            source="tokenizer.json",
            target="target/tokenizer.json",
            special=SpecialTokens(bos="<s>", eos="</s>"),
            languages={"fr": 7},
            language_layout="prefix",
            prompts={"translation": "translate: ね"},
        ),
        "shortlist": ShortlistRecord(
            file="shortlist.txt",
            size=40,
            origin="texts",
            texts=500,
            most=30,
            source_sha256="0" * 64,
            tool_version="0.1.0",
            created="2026-01-31T23:59:59Z",
        ),
        "lexicon": "lexicon.npz",
        "embedding": EmbeddingRecord(
            prompts={"query": "query: ", "passage": ""},
            longest=256,
            dimensions=16,
            similarity="cosine",
        ),
        "graphs": (
            graph("encoder", "canonical", "encoder.onnx"),
            graph("decoder", "onnxruntime", "decoder.onnxruntime.onnx"),
        ),
        "engines": (
            EngineRecord(
                file="engines/sm87.plan",
                target="orin-jetpack6.2",
                role="decoder",
                sidecar="engines/sm87.json",
            ),
        ),
        "parity": ParityRecord(
            max_absolute=1e-6, max_relative=2.5e-5, tokens_compared=64, tokens_equal=64
        ),
        "original": OriginalRecord(
            implementation="transformers 5.24.0 BartForConditionalGeneration",
            parity=ParityRecord(
                max_absolute=1e-6, max_relative=2.5e-5, tokens_compared=64, tokens_equal=64
            ),
        ),
        "provenance": ProvenanceRecord(
            tool_version="0.1.0",
            created="2026-01-31T23:59:59Z",
            source="models/tiny",
            source_format="huggingface",
            packages={"torch": "2.13.0"},
            unused_tensors=("proj_out.bias",),
            privacy=PrivacyRecord(
                epsilon=7.9981,
                delta=1e-5,
                steps=1000,
                noise_multiplier=0.55,
                sampling_rate=0.0064,
                clip=1.0,
                accountant="rdp",
            ),
        ),
    }
    if "dims" in changes:
        values["task"] = changes["dims"].task
        values["speech"] = values["speech"] if changes["dims"].mels else None
    return Manifest(**{**values, **changes})


def write_bundle(destination: Path, manifest: Manifest | None = None, **options: Any) -> Bundle:
    """A bundle whose files hold a few bytes each, for every file that the manifest names."""
    manifest = manifest or manifest_of()
    with BundleWriter(destination, **options) as writer:
        for _, name in manifest.references():
            writer.path(name).write_bytes(f"contents of {name}".encode())
        return writer.finish(manifest)


@pytest.fixture(scope="session")
def make_manifest() -> Callable[..., Manifest]:
    """`make_manifest(**changes)`: see `manifest_of`."""
    return manifest_of


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Bundle]:
    """`make_bundle(destination, manifest=None)`: see `write_bundle`."""
    return write_bundle


@pytest.fixture
def folder(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> Path:
    """A complete bundle."""
    return make_bundle(tmp_path / "model").path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeOnce]:
    """`made_once(make, ...)`: what `make(folder, ...)` returns, for all workers of this run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the run's; a worker has a folder of its own in it
    shared = MadeOnce(folder / "made-once")
    yield shared
    shared.check()


@pytest.fixture(scope="session")
def exported(made_once: MadeOnce) -> Callable[..., tuple[Any, Path, Any]]:
    """`exported(name, **changes)`: the tiny checkpoint and its bundle; model, folder, report."""
    import tiny_models

    model = functools.lru_cache(tiny_models.make)

    def get(name: str, **changes: Any) -> tuple[Any, Path, Any]:
        folder, report = made_once(tiny_models.export, name, **changes)
        return model(name, **changes), folder, report

    return get


@pytest.fixture(scope="session")
def speaking(made_once: MadeOnce) -> Callable[..., Path]:
    """`speaking(name, **options)`: the folder of that `speaking_bundle`."""
    from speaking import speaking_bundle

    return functools.partial(made_once, speaking_bundle)
