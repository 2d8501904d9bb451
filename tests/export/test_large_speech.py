"""Whisper large-v3, its turbo and its students: their published files with small widths."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from transformers import GenerationConfig, WhisperFeatureExtractor

import seq2edge
from seq2edge.checkpoints.generation import fit_defaults, read_generation
from seq2edge.export.pipeline import ExportReport, export_checkpoint
from seq2edge.model.dims import Dims, StackDims

VOCAB, START, YUE, TRANSCRIBE, PLAIN = 51866, 50258, 50358, 50360, 50364
TEACHER = [[7, 0], [10, 17], [12, 18], [13, 12], [16, 1], [17, 14], [19, 11], [21, 4]]
# What generation_config.json says in large-v3, of its 100 languages two.
GENERATION = {
    "alignment_heads": TEACHER,
    "begin_suppress_tokens": [220, 50257],
    "bos_token_id": 50257,
    "decoder_start_token_id": START,
    "eos_token_id": 50257,
    "forced_decoder_ids": [[1, None], [2, TRANSCRIBE]],
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": 50259, "<|yue|>": YUE},
    "max_initial_timestamp_index": 50,
    "max_length": 448,
    "no_timestamps_token_id": PLAIN,
    "pad_token_id": 50257,
    "prev_sot_token_id": 50362,
    "return_timestamps": False,
    "suppress_tokens": [1, 2, 7, 50358, 50359, 50360, 50361, 50362, 50363],
    "task_to_id": {"transcribe": TRANSCRIBE, "translate": 50359},
}
SIZES = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "encoder_layers": 3,  # as 32 above 2
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "decoder_start_token_id": START,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 50257),
}


def distilled(folder: Path) -> ExportReport:
    """A student's checkpoint, which names its teacher's heads, and the bundle."""
    model = tiny_models.make("whisper", **SIZES)
    model.save_pretrained(folder / "checkpoint")
    (folder / "checkpoint" / "generation_config.json").write_text(json.dumps(GENERATION))
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder / "checkpoint")
    place = folder / "bundle"
    return export_checkpoint(folder / "checkpoint", place, alignments=True, original=False)


def test_a_student_of_large_v3_gives_the_tokens_of_transformers(made_once):
    """128 bands, one more language, a short decoder under a long encoder; its own export."""
    report = made_once(distilled)
    manifest = report.bundle.manifest
    assert manifest.audio.mels == 128
    assert manifest.speech.languages == {"en": 50259, "yue": YUE}
    assert report.ignored_settings["alignment_heads"] == TEACHER
    assert manifest.speech.alignment_heads == ()
    model = seq2edge.load(report.bundle.path, device="cpu", threads=1)
    reference = tiny_models.make("whisper", **SIZES)
    reference.generation_config = GenerationConfig(**GENERATION | {"forced_decoder_ids": None})
    clip = np.random.default_rng(0).standard_normal(40_000).astype(np.float32) / 8
    theirs = WhisperFeatureExtractor(feature_size=128)(clip, sampling_rate=16_000)["input_features"]
    features = model.features(clip)
    np.testing.assert_allclose(features, theirs[0], atol=1e-4)
    prompt = model.speech_prompt("yue", "transcribe")
    assert prompt == (YUE, TRANSCRIBE, PLAIN)
    options = model.options.replace(decoder_prompt=prompt, max_length=None, max_new_tokens=12)
    ((sequence,),) = model.transcribe_ids(features[None], options)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        expected = reference.generate(
            torch.from_numpy(features[None]), language="yue", task="transcribe", max_new_tokens=12
        )
    tokens = expected[0].tolist()
    start = (START, *prompt)
    assert tokens[tokens[0] == START and len(start) :] == list(sequence.ids)
    assert len(set(sequence.ids)) > 2


@pytest.mark.parametrize(
    ("layers", "heads", "kept"),
    [
        (32, TEACHER, True),
        (2, TEACHER, False),
        (4, [[2, 4], [2, 11], [3, 3], [3, 6], [3, 11], [3, 14]], True),  # turbo
    ],
)
def test_heads_of_a_layer_that_is_not_there_are_left_out_with_a_remark(layers, heads, kept):
    """Large-v3 and its turbo have theirs, a student of two layers has its teacher's."""
    stack = StackDims(
        layers=layers, heads=20, kv_heads=20, head_dim=64, hidden=5120, activation="gelu"
    )
    dims = Dims(width=1280, vocab=VOCAB, mels=128, encoder=stack, decoder=stack)
    defaults = fit_defaults(read_generation({"alignment_heads": heads}, {}), dims)
    assert defaults.extras == ({"alignment_heads": heads} if kept else {})
    assert defaults.ignored == ({} if kept else {"alignment_heads": heads})
