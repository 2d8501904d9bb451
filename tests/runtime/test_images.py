"""Images become the pixels that transformers' own processors give, value by value."""

from __future__ import annotations

import functools
import sys

import numpy as np
import PIL.Image
import pytest
from limited import limited
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from seq2edge.bundle.manifest import ImageRecord
from seq2edge.checkpoints.images import read_image_processor
from seq2edge.errors import BackendError, InputError
from seq2edge.model.dims import ImageDims
from seq2edge.runtime import images

PROCESSORS = {
    "trocr": lambda: ViTImageProcessorPil(size={"height": 12, "width": 20}),
    "trocr-small": lambda: DeiTImageProcessorPil(
        size={"height": 12, "width": 20}, do_center_crop=False
    ),
    "cropped": lambda: DeiTImageProcessorPil(
        size={"height": 19, "width": 26},
        crop_size={"height": 12, "width": 20},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ),
    "shorter edge": lambda: DeiTImageProcessorPil(
        size={"shortest_edge": 21}, crop_size={"height": 12, "width": 20}, resample=1
    ),
    "padded": lambda: DeiTImageProcessorPil(
        size={"height": 7, "width": 15}, crop_size={"height": 12, "width": 20}, resample=0
    ),
    "not scaled": lambda: ViTImageProcessorPil(
        size={"height": 12, "width": 20}, do_rescale=False, resample=4
    ),
    "not normalised": lambda: ViTImageProcessorPil(
        size={"height": 12, "width": 20}, do_normalize=False, rescale_factor=0.017, resample=5
    ),
    "on white": lambda: ViTImageProcessorPil(
        size={"height": 12, "width": 20}, do_convert_rgb=True, image_mean=0.3
    ),
}
SIZES = [(37, 101), (12, 20), (5, 3), (300, 41)]  # height and width


def noise(height, width, *channels):
    """Random values of a picture."""
    rng = np.random.default_rng(height)
    return rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)


def record_of(processor, folder) -> ImageRecord:
    """What a bundle keeps of a processor."""
    processor.save_pretrained(folder)
    size = ImageDims(height=12, width=20, channels=3, patch_height=4, patch_width=4, tokens=1)
    record = read_image_processor(folder, size)
    assert record is not None
    return record


def save(kind: str, path):
    """A file of that kind of picture, 37 x 101 pixels."""
    color = PIL.Image.fromarray(noise(37, 101, 3))
    if kind == "gray":
        PIL.Image.fromarray(noise(37, 101)).save(path)
    elif kind == "16 bits":
        values = np.arange(37 * 101, dtype=np.uint16).reshape(37, 101) * 17
        PIL.Image.fromarray(values).save(path)
    elif kind == "transparent":
        PIL.Image.fromarray(noise(37, 101, 4)).save(path)
    elif kind == "palette":
        color.quantize(13).save(path, transparency=3)
    elif kind == "bits":
        PIL.Image.fromarray(noise(37, 101)).convert("1").save(path)
    elif kind == "print":
        color.convert("CMYK").save(path)
    elif kind == "turned":
        tags = PIL.Image.Exif()
        tags[0x0112] = 6  # the camera was held upright
        color.save(path, exif=tags)
    else:
        color.save(path)
    return path


FILES = {
    "color": "png",
    "gray": "png",
    "16 bits": "png",
    "transparent": "png",
    "palette": "png",
    "bits": "png",
    "turned": "jpg",
    "print": "jpg",
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_every_step_is_that_of_transformers(tmp_path, name, size):
    """Resized, cropped, scaled and normalised: not one value differs."""
    processor = PROCESSORS[name]()
    record = record_of(processor, tmp_path)
    picture = PIL.Image.fromarray(noise(*size, 3))
    wanted = processor(picture, return_tensors="np").pixel_values[0]
    pixels = images.pixels(picture, record)
    assert pixels.shape == (3, 12, 20)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, wanted)
    np.testing.assert_array_equal(images.pixels(np.array(picture), record), pixels)


@pytest.mark.parametrize("name", ["trocr", "on white"])
@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_is_read_as_transformers_reads_it(tmp_path, kind, name):
    """Upright, and RGB, whatever it was."""
    path = save(kind, tmp_path / f"picture.{FILES[kind]}")
    processor = PROCESSORS[name]()
    record = record_of(processor, tmp_path)
    wanted = processor(str(path), return_tensors="np").pixel_values[0]
    np.testing.assert_array_equal(images.pixels(path, record), wanted)
    np.testing.assert_array_equal(images.pixels(str(path), record), wanted)


@pytest.mark.parametrize("kind", FILES)
def test_opened_pictures_are_laid_on_white(tmp_path, kind):
    """Where the processor converts them; only then does transformers take all of these."""
    path = save(kind, tmp_path / f"picture.{FILES[kind]}")
    processor = PROCESSORS["on white"]()
    record = record_of(processor, tmp_path)
    with PIL.Image.open(path) as picture:
        wanted = processor(picture, return_tensors="np").pixel_values[0]
        np.testing.assert_array_equal(images.pixels(picture, record), wanted)


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp"])
def test_of_several_pictures_the_first_is_read(tmp_path, suffix):
    """Pages of a fax, or an animation; the file is closed again."""
    pictures = [PIL.Image.fromarray(noise(30, 70, 3)), PIL.Image.new("RGB", (70, 30))]
    several, one = tmp_path / f"several.{suffix}", tmp_path / f"one.{suffix}"
    pictures[0].save(one, lossless=True)
    pictures[0].save(several, save_all=True, append_images=pictures[1:], lossless=True)
    record = record_of(PROCESSORS["trocr"](), tmp_path)
    np.testing.assert_array_equal(images.pixels(several, record), images.pixels(one, record))


def test_arrays_of_one_and_four_channels_are_pictures(tmp_path):
    """Gray with or without an axis, and RGBA."""
    record = record_of(PROCESSORS["on white"](), tmp_path)
    gray, colored = noise(9, 14), noise(9, 14, 4)
    wanted = images.pixels(PIL.Image.fromarray(gray), record)
    np.testing.assert_array_equal(images.pixels(gray, record), wanted)
    np.testing.assert_array_equal(images.pixels(gray[:, :, None], record), wanted)
    wanted = images.pixels(PIL.Image.fromarray(colored), record)
    np.testing.assert_array_equal(images.pixels(colored, record), wanted)


def broken(folder, name, data):
    """A file with that in it."""
    (folder / name).write_bytes(data)
    return folder / name


def cut_png(folder):
    """The first half of a picture."""
    whole = save("color", folder / "whole.png").read_bytes()
    return broken(folder, "cut.png", whole[: len(whole) // 2])


def wide(folder, pixels):
    """A file of few bytes that says it has so many pixels, one row."""
    file = save("bits", folder / "wide.pbm")
    file.write_bytes(f"P4 {pixels} 1\n".encode() + bytes(8))
    return file


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f / "none.png", r"none\.png: no such file"),
        (lambda f: f, "no such file"),
        (lambda f: broken(f, "x.png", b"hello"), r"x\.png: no image that Pillow knows"),
        (lambda f: broken(f, "x.png", b""), r"x\.png: no image that Pillow knows"),
        (cut_png, r"cut\.png: cannot be read: "),
        (functools.partial(wide, pixels=2**26 + 1), r"wide\.pbm: 1 x 67,108,865 pixels, at most"),
        (functools.partial(wide, pixels=2**30), r"wide\.pbm: more than 67,108,864 pixels"),
        (lambda f: [[0]], "image: list, give a path, a picture of Pillow's or an array"),
        (lambda f: noise(4, 4, 2), r"an array of uint8 \(4, 4, 2\); give uint8"),
        (lambda f: np.zeros((4, 4, 3)), r"an array of float64 \(4, 4, 3\); give uint8"),
        (lambda f: noise(0, 4, 3), r"an array of shape \(0, 4, 3\), it is empty"),
        (lambda f: PIL.Image.new("RGB", (0, 3)), "image: 3 x 0 pixels, it is empty"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, make, message):
    """By the file's name, and before anything large is unpacked."""
    with pytest.raises(InputError, match=message):
        images.pixels(make(tmp_path), ImageRecord())


def test_a_picture_whose_file_is_cut_is_told(tmp_path):
    """It is read only when its values are needed."""
    told = pytest.raises(InputError, match="image: cannot be read: ")
    with PIL.Image.open(cut_png(tmp_path)) as picture, told:
        images.pixels(picture, ImageRecord())


def test_images_may_have_their_size_already(tmp_path):
    """Then nothing is resized."""
    values = noise(12, 20, 3)
    pixels = images.pixels(values, ImageRecord(scale=0.5))
    np.testing.assert_array_equal(pixels, np.moveaxis(values, -1, 0) * np.float32(0.5))


def test_without_pillow_the_extra_is_named(monkeypatch):
    """No other library reads images here."""
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(BackendError, match=r"install seq2edge\[images\]"):
        images.pixels(noise(4, 4), ImageRecord())


def test_what_a_thin_picture_would_become_is_bounded():
    """Its shorter edge of one pixel made a few hundred long makes the other one very long."""
    record = ImageRecord(size=None, shortest_edge=224, resample="bilinear", crop=(224, 224))
    with limited(), pytest.raises(InputError, match=r"would become 224 x 4,480,000, at most"):
        images.pixels(np.zeros((1, 20_000), np.uint8), record)
