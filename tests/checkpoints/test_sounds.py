"""What a feature extractor's file may say, as published; what is refused, with the setting."""

from __future__ import annotations

import dataclasses
import json

import pytest

from seq2edge.checkpoints.sounds import check_feature_extractor
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.model.dims import Dims, StackDims

STACK = StackDims(
    layers=1, heads=1, kv_heads=1, head_dim=4, hidden=4, activation="gelu", max_positions=1500
)
DIMS = Dims(width=4, vocab=9, mels=80, encoder=STACK, decoder=STACK)
# As published with openai/whisper-tiny, without all of its filters, and whisper-large-v3.
TINY = {
    "chunk_length": 30,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "hop_length": 160,
    "mel_filters": [[0.0, 0.025], [0.0, 0.0]],
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "WhisperProcessor",
    "return_attention_mask": False,
    "sampling_rate": 16000,
}
LARGE = {key: value for key, value in TINY.items() if key != "mel_filters"} | {"feature_size": 128}


def check(folder, values, dims=DIMS, file="preprocessor_config.json"):
    """Of a folder with that file."""
    (folder / file).write_text(json.dumps(values))
    check_feature_extractor(folder, dims)


def test_published_files_are_taken(tmp_path):
    """80 and 128 bands, in a file of their own or of the whole processor; none says nothing."""
    check_feature_extractor(tmp_path, DIMS)
    check(tmp_path, TINY)
    large = dataclasses.replace(DIMS, mels=128)
    check(tmp_path, LARGE, large)
    check(tmp_path, {"feature_extractor": {**LARGE, "dither": 0.0}}, large, "processor_config.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"feature_size": 128}, "feature_size 128, the encoder takes 80 mel bands"),
        ({"chunk_length": 15}, "chunk_length 15 is not supported, only 30"),
        ({"sampling_rate": 8000}, "sampling_rate 8000 is not supported, only 16000"),
        ({"n_fft": 512}, "n_fft 512 is not supported, only 400"),
        ({"hop_length": 80}, "hop_length 80 is not supported, only 160"),
        ({"dither": 0.1}, "dither 0.1 is not supported"),
        ({"feature_extractor_type": "ClapFeatureExtractor"}, "'ClapFeatureExtractor' is not supp"),
        ({"preemphasis": 0.97}, "settings that are not supported: preemphasis=0.97"),
    ],
)
def test_what_is_not_made_here_is_refused_by_its_name(tmp_path, values, message):
    """One line with the file and the setting."""
    with pytest.raises(UnsupportedError, match=f"preprocessor_config.json: .*{message}"):
        check(tmp_path, {**TINY, **values})


def test_a_shorter_encoder_and_a_damaged_file_are_refused(tmp_path):
    """Features of 30 s have no place in it."""
    short = dataclasses.replace(DIMS, encoder=dataclasses.replace(STACK, max_positions=50))
    with pytest.raises(UnsupportedError, match=r"windows of 30 s, the encoder takes 1.00 s"):
        check(tmp_path, TINY, short)
    (tmp_path / "preprocessor_config.json").write_text("[")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        check_feature_extractor(tmp_path, DIMS)
