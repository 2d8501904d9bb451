"""What an image processor's file may say, in the words of several releases; what is refused."""

from __future__ import annotations

import json

import pytest

from seq2edge.bundle.manifest import ImageRecord
from seq2edge.checkpoints.images import read_image_processor
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.model.dims import ImageDims

HALF = (0.5, 0.5, 0.5)
IMAGE = ImageDims(height=384, width=384, channels=3, patch_height=16, patch_width=16, tokens=1)
# As published with microsoft/trocr-base-handwritten and trocr-small-printed.
BASE = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": 384,
}
SMALL = {
    **BASE,
    "crop_size": 224,
    "do_center_crop": False,
    "feature_extractor_type": "DeiTFeatureExtractor",
    "resample": 3,
}
TODAY = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessorFast",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "TrOCRProcessor",
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "data_format": "channels_first",
    "return_tensors": None,
    "size": {"height": 384, "width": 384},
}


def read(folder, values, file="preprocessor_config.json", **image):
    """The record of a folder with that file."""
    (folder / file).write_text(json.dumps(values))
    sizes = {**vars(IMAGE), **image}
    return read_image_processor(folder, ImageDims(**sizes))


def test_published_files_are_read_whole(tmp_path):
    """Of the first release, of DeiT, and of today, beside a tokenizer's settings or within them."""
    wanted = ImageRecord(size=(384, 384), scale=1 / 255, mean=HALF, deviation=HALF)
    assert read(tmp_path, BASE) == wanted
    assert read(tmp_path, TODAY) == wanted
    small = read(tmp_path, SMALL)
    assert small.resample == "bicubic"
    assert small.crop is None
    whole = {"image_processor": {**TODAY, "resample": 1}, "processor_class": "TrOCRProcessor"}
    assert read(tmp_path, whole, "processor_config.json").resample == "lanczos"
    (tmp_path / "processor_config.json").write_text('{"processor_class": "TrOCRProcessor"}')
    assert read(tmp_path, BASE) == wanted


def test_what_is_not_said_is_the_class_default(tmp_path):
    """DeiT crops to 224; a ViT of 224 says little."""
    record = read(tmp_path, {"image_processor_type": "DeiTImageProcessor"}, height=224, width=224)
    assert record.size == (256, 256)
    assert record.crop == (224, 224)
    assert record.resample == "bicubic"
    plain = {"image_processor_type": "ViTImageProcessor", "do_resize": False, "do_rescale": False}
    record = read(tmp_path, {**plain, "image_mean": 0.25, "do_convert_rgb": True})
    assert record == ImageRecord(mean=(0.25, 0.25, 0.25), deviation=HALF, on_white=True)


def test_a_folder_without_a_file_has_no_record(tmp_path):
    """Its model reads pixels alone."""
    assert read_image_processor(tmp_path, IMAGE) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 224}, r"gives images of 224 x 224 pixels, the encoder takes 384 x 384"),
        ({"do_pad": True}, r"preprocessor_config\.json: settings .*not supported: do_pad=True"),
        ({"do_thumbnail": True}, "not supported: do_thumbnail=True"),
        ({"size": {"longest_edge": 384}}, "only height and width or shortest_edge"),
        ({"size": {"shortest_edge": 384}}, "gives images of any shape, without a crop_size"),
        ({"default_to_square": False}, "gives images of any shape"),
        ({"resample": 9}, "resample 9 is not supported, only 0 to 5"),
        ({"data_format": "channels_last"}, "data_format 'channels_last' is not supported"),
        ({"feature_extractor_type": "DonutFeatureExtractor"}, "'DonutFeatureExtractor' is not su"),
        ({"feature_extractor_type": None}, "image_processor_type '' is not supported, known: ViT"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 3}}, "has no fixed size"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, changes, message):
    """Nothing is passed over."""
    with pytest.raises(UnsupportedError, match=message):
        read(tmp_path, {**BASE, **changes})


def test_another_number_of_channels_is_refused(tmp_path):
    """Files become RGB."""
    with pytest.raises(UnsupportedError, match="gives 3 channels, the encoder takes 1"):
        read(tmp_path, BASE, channels=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {"height": 0, "width": 384}}, "needs positive integers"),
        ({"size": "large"}, "not supported, only height and width"),
        ({"image_mean": [0.5]}, r"image_mean is \[0\.5\], needs 3 numbers"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std is .* needs 3 numbers"),
    ],
)
def test_damaged_values_are_told(tmp_path, changes, message):
    """With the file and the value."""
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, {**BASE, **changes})
