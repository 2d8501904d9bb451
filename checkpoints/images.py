"""How a checkpoint's images are made ready: what its image processor's file says, as a record.

Read as transformers reads it (5.24, the processors that use Pillow): the processor's own settings,
else the defaults of its class.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2edge.bundle.manifest import ImageRecord
from seq2edge.checkpoints.families.family import Config
from seq2edge.checkpoints.processors import stored_settings
from seq2edge.checkpoints.reading import reads_checkpoint
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.model.dims import ImageDims

CHANNELS = 3  # what files and pictures become
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
_ON = {"do_resize": True, "do_rescale": True, "do_normalize": True}
_HALF = {"image_mean": 0.5, "image_std": 0.5}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {**_ON, **_HALF, "size": 224, "resample": 2},
    "DeiT": {
        **_ON,
        **_HALF,
        "size": 256,
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 224,
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Size:
    """Height and width, or the pixels of the shorter edge."""

    both: tuple[int, int] | None = None
    shortest: int | None = None


@reads_checkpoint
def read_image_processor(folder: Path, image: ImageDims) -> ImageRecord | None:
    """How an image becomes what an encoder of these sizes reads; None where the folder has no file.

    Raises CheckpointError for a damaged file, and UnsupportedError for settings that are not known
    here, or that do not give images of the encoder's size.
    """
    values, where = stored_settings(folder, "image_processor")
    if values is None:
        return None
    config = Config({**_defaults(values, where), **values})
    config.place = where
    config.ignore("image_processor_type", "feature_extractor_type", "processor_class")
    config.ignore("data_format", "default_to_square", "size_divisor")  # `_size` reads the second
    config.require("data_format", "channels_first")
    config.require("size_divisor")
    size = _size(config, "size") if config.get("do_resize") else None
    crop = _size(config, "crop_size") if config.get("do_center_crop") else None
    if crop is not None and crop.both is None:
        raise UnsupportedError(f"{where}: crop_size {values.get('crop_size')!r} has no fixed size")
    _leave_out(config, "size", "resample", used=size is not None)
    _leave_out(config, "crop_size", used=crop is not None)
    _check_size(size, crop, image, where)
    scales, normalises = bool(config.get("do_rescale")), bool(config.get("do_normalize"))
    record = ImageRecord(
        size=size.both if size else None,
        shortest_edge=size.shortest if size else None,
        resample=_filter(config) if size else "bilinear",  # type: ignore[arg-type]
        crop=crop.both if crop else None,
        scale=float(config.get("rescale_factor", 1 / 255)) if scales else None,
        mean=_channels(config, "image_mean") if normalises else None,
        deviation=_channels(config, "image_std") if normalises else None,
        on_white=bool(config.get("do_convert_rgb", False)),
    )
    _leave_out(config, "rescale_factor", used=scales)
    _leave_out(config, "image_mean", "image_std", used=normalises)
    config.check_all_read()
    return record


def _defaults(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Those of the processor's class, which every release of transformers named in its own way."""
    named = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    kind = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", named)
    if kind not in DEFAULTS:
        known = ", ".join(f"{each}ImageProcessor" for each in DEFAULTS)
        raise UnsupportedError(
            f"{where}: image_processor_type {named!r} is not supported, known: {known}"
        )
    return DEFAULTS[kind]


def _leave_out(config: Config, *keys: str, used: bool) -> None:
    """Settings of a step that is not taken."""
    if not used:
        config.ignore(*keys)


def _size(config: Config, key: str) -> _Size:
    value = config.get(key)
    sizes = value if isinstance(value, Mapping) else {}
    if type(value) is int:
        square = key != "size" or config.get("default_to_square", True)
        sizes = {"height": value, "width": value} if square else {"shortest_edge": value}
    elif isinstance(value, list) and len(value) == 2:
        sizes = {"height": value[0], "width": value[1]}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    if not all(type(size) is int and size > 0 for size in sizes.values()):
        raise CheckpointError(f"{config.place}: {key} is {value!r}, needs positive integers")
    if set(sizes) == {"height", "width"}:
        return _Size(both=(sizes["height"], sizes["width"]))
    if set(sizes) == {"shortest_edge"}:
        return _Size(shortest=sizes["shortest_edge"])
    raise UnsupportedError(
        f"{config.place}: {key} {value!r} is not supported, only height and width or shortest_edge"
    )


def _check_size(size: _Size | None, crop: _Size | None, image: ImageDims, where: str) -> None:
    """The encoder's table of positions is for one size; nothing is interpolated."""
    if image.channels != CHANNELS:
        raise UnsupportedError(
            f"{where}: gives {CHANNELS} channels, the encoder takes {image.channels}"
        )
    last = crop or size
    if last is None:
        return  # images must have that size already
    if last.both is None:
        raise UnsupportedError(f"{where}: gives images of any shape, without a crop_size")
    if last.both != (image.height, image.width):
        raise UnsupportedError(
            f"{where}: gives images of {last.both[0]} x {last.both[1]} pixels, the encoder takes "
            f"{image.height} x {image.width}"
        )


def _filter(config: Config) -> str:
    number = config.get("resample")
    if type(number) is not int or not 0 <= number < len(FILTERS):
        raise UnsupportedError(f"{config.place}: resample {number!r} is not supported, only 0 to 5")
    return FILTERS[number]


def _channels(config: Config, key: str) -> tuple[float, float, float]:
    """A value of each channel, which may be one number."""
    value = config.get(key)
    values = value if isinstance(value, list) else [value] * CHANNELS
    numbers = all(isinstance(each, (int, float)) for each in values)
    if not numbers or len(values) != CHANNELS or (key == "image_std" and 0 in values):
        raise CheckpointError(f"{config.place}: {key} is {value!r}, needs {CHANNELS} numbers")
    red, green, blue = map(float, values)
    return red, green, blue
