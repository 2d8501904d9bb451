"""A manifest's parts against each other, and its sizes against the files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from seq2edge.bundle.consistency import FREE, WEIGHTS_A_BYTE, check_weights
from seq2edge.bundle.manifest import (
    AudioRecord,
    EmbeddingRecord,
    ImageRecord,
    RerankRecord,
    SpeechRecord,
    TokenizerRecord,
)
from seq2edge.errors import BundleError
from seq2edge.model.dims import Dims, ImageDims, StackDims

STACK = StackDims(layers=10, heads=4, kv_heads=2, head_dim=8, hidden=64, activation="gelu")
LAYER = 2 * 32 * (32 + 16) + 2 * 32 * 64  # attention and feed-forward at width 32
IMAGE = ImageDims(height=8, width=16, channels=3, patch_height=4, patch_width=4, tokens=1)
READER = Dims(
    width=32,
    vocab=100,
    encoder=dataclasses.replace(STACK, max_positions=IMAGE.positions),
    decoder=STACK,
    image=IMAGE,
)
CLIP = AudioRecord(sampling_rate=16000, mels=80, fft=400, hop=160, seconds=30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "classify"}, "task: 'classify', but the dims are made to transcribe"),
        ({"labels": ("a",)}, "labels: 1 names, but the dims tell 0 labels apart"),
        ({"audio": dataclasses.replace(CLIP, hop=80)}, r"\(16000, 400, 80\)"),
        ({"audio": dataclasses.replace(CLIP, seconds=5)}, "5 seconds, but the dims take 30"),
        ({"speech": SpeechRecord(tasks={"transcribe": 100})}, "speech.tasks: token 100"),
        ({"speech": SpeechRecord(no_timestamps=100)}, "speech.no_timestamps: token 100"),
        ({"speech": SpeechRecord(first_timestamp=100)}, "speech.first_timestamp: token 100"),
        ({"speech": SpeechRecord(no_speech=100)}, "speech.no_speech: token 100"),
        ({"speech": SpeechRecord(previous=100)}, "speech.previous: token 100"),
        ({"speech": SpeechRecord(alignment_heads=((0, 4),))}, r"\[0, 4\] is no head"),
        ({"speech": SpeechRecord(alignment_heads=((0,),))}, r"\[0\] is no head"),
        ({"embedding": EmbeddingRecord(dimensions=33)}, "33, but the dims give 32 values"),
        ({"embedding": EmbeddingRecord(longest=0)}, "embedding.longest: 0"),
        ({"tokenizer": TokenizerRecord(source="t.json", unknown_from=101)}, "unknown_from: 101"),
        ({"tokenizer": TokenizerRecord(source="t.json", text_limit=0)}, "text_limit: 0"),
        (
            {"tokenizer": TokenizerRecord(source="t.json", target_language="de")},
            "target_language: 'de' is none",
        ),
        (
            {
                "tokenizer": TokenizerRecord(source="t.json", chat_template="c.jinja"),
                "reranking": RerankRecord(tokens=(3, 100)),
            },
            "reranking.tokens: token 100",
        ),
    ],
)
def test_parts_that_contradict_the_dims_are_refused(make_manifest, changes, message):
    """With the part, what it says and what the dims say."""
    with pytest.raises(BundleError, match=message):
        make_manifest(**changes)


def test_ids_of_languages_are_of_the_side_that_reads_them(make_manifest):
    """The source's vocabulary before a source text, the target's where an answer begins."""
    split = Dims(width=32, vocab=50, source_vocab=100, encoder=STACK, decoder=STACK)

    def tokenizer(**layout):
        record = TokenizerRecord(source="t.json", languages={"de": 70}, **layout)
        return make_manifest(dims=split, audio=None, shortlist=None, tokenizer=record)

    tokenizer(language_layout="prefix")
    tokenizer(target_layout="source")
    with pytest.raises(BundleError, match="token 70, the vocabulary has 50"):
        tokenizer(target_layout="forced")
    with pytest.raises(BundleError, match="token 70, the vocabulary has 50"):
        tokenizer(language_layout="prefix", target_layout="start")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"size": (16, 8)}, r"made \(16, 8\), but the dims take \(8, 16\)"),
        ({"size": (8, 16), "crop": (8, 8)}, r"made \(8, 8\)"),
        ({"shortest_edge": 8}, "made of any shape"),
        ({"size": (8, 16)}, ""),
        ({"shortest_edge": 8, "crop": (8, 16)}, ""),
        ({}, ""),
    ],
)
def test_images_become_what_the_encoder_takes(make_manifest, record, message):
    """Its own size, whatever the last step is; without a step they have it already."""

    def made():
        return make_manifest(dims=READER, audio=None, images=ImageRecord(**record))

    if message:
        with pytest.raises(BundleError, match=message):
            made()
    else:
        assert made().task == "read"


def test_images_have_three_channels(make_manifest):
    """As files and pictures become."""
    gray = dataclasses.replace(READER, image=dataclasses.replace(IMAGE, channels=1))
    with pytest.raises(BundleError, match="of 3 channels, but the dims take 1"):
        make_manifest(dims=gray, audio=None, images=ImageRecord(size=(8, 16)))


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({}, 10 * LAYER),
        ({"shared_layers": True}, LAYER),
        (
            {"mixers": ("recurrence",) * 9 + ("attention",)},
            10 * LAYER - 9 * 2 * 32 * (32 + 16),
        ),
    ],
)
def test_files_hold_the_weights_of_the_dims(changes, weights):
    """Of shared layers one, of other mixers their feed-forwards; a small model needs no proof."""
    dims = Dims(width=32, vocab=10**6, decoder=dataclasses.replace(STACK, **changes))
    least = (weights + 32 * 10**6 - FREE) // WEIGHTS_A_BYTE
    check_weights(dims, least + 1, Path("manifest.json"))
    with pytest.raises(BundleError, match=f"manifest.json: dims: {weights + 32 * 10**6:,} weights"):
        check_weights(dims, least - 1, Path("manifest.json"))
    check_weights(dataclasses.replace(dims, vocab=100), 0, Path("manifest.json"))
