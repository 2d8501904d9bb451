"""How a checkpoint's clips are made ready: what its feature extractor's file says, checked.

A clip becomes features, or the samples that an encoder reads as they are, in one way alone. Read as
transformers reads it (5.24): the file's own settings, else the defaults of its class.
"""

from __future__ import annotations

from pathlib import Path

from seq2edge.bundle.consistency import CLIP
from seq2edge.checkpoints.families.family import Config
from seq2edge.checkpoints.processors import stored_settings
from seq2edge.checkpoints.reading import reads_checkpoint
from seq2edge.errors import UnsupportedError
from seq2edge.model.dims import Dims

SECONDS = 30  # of a window
BANDS = 80  # where a file says none


@reads_checkpoint
def check_feature_extractor(folder: Path, dims: Dims) -> None:
    """Refuse a feature extractor that makes of clips what this encoder does not read, or we do not.

    A folder without its file says nothing. Raises CheckpointError for a damaged file, and
    UnsupportedError with the setting.
    """
    values, where = stored_settings(folder, "feature_extractor")
    if values is None:
        return
    config = Config(values)
    config.place = where
    config.ignore("processor_class", "return_attention_mask", "return_tensors")
    config.require("padding_side", "right")
    config.require("padding_value", 0.0)
    config.require("sampling_rate", CLIP[0])
    (_check_features if dims.mels else _check_samples)(config, dims)
    config.check_all_read()


def _check_features(config: Config, dims: Dims) -> None:
    """Log-mel features, as Whisper's extractor makes them."""
    rate, window, hop = CLIP
    # What follows from the others, and the filters that old releases wrote down.
    config.ignore("n_samples", "nb_max_frames", "mel_filters")
    config.require("feature_extractor_type", "WhisperFeatureExtractor")
    config.require("n_fft", window)
    config.require("hop_length", hop)
    config.require("chunk_length", SECONDS)
    config.require("dither", 0.0)
    bands, seconds = config.get("feature_size", BANDS), dims.frames * hop / rate
    if bands != dims.mels:
        raise UnsupportedError(
            f"{config.place}: feature_size {bands!r}, the encoder takes {dims.mels} mel bands"
        )
    if seconds != SECONDS:
        raise UnsupportedError(
            f"{config.place}: windows of {SECONDS} s, the encoder takes {seconds:.2f} s"
        )


def _check_samples(config: Config, dims: Dims) -> None:
    """Samples as they are; how long a clip may be its encoder says."""
    del dims
    config.require("feature_extractor_type", "Wav2Vec2FeatureExtractor")
    config.require("feature_size", 1)
    if config.get("do_normalize", True):  # as its class does by itself
        raise UnsupportedError(
            f"{config.place}: do_normalize True is not supported, samples are read as they are"
        )
