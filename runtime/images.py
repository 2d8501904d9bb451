"""Images in, pixels out: as an encoder reads them, with Pillow and numpy.

The values are those of transformers' image processors on Pillow (5.24): files are turned upright by
their EXIF orientation and become RGB, then follow the steps of the bundle's record.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.manifest import ImageRecord
from seq2edge.errors import BackendError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# A path, a picture of Pillow's, or values 0 to 255 (height, width) or (height, width, 1|3|4).
Picture: TypeAlias = "str | os.PathLike[str] | Image | NDArray[np.uint8]"
Values: TypeAlias = NDArray[Any]  # (channels, height, width)

LARGEST = 2**26  # pixels of a picture that is unpacked: 200 MB of RGB


def pixels(picture: Picture, record: ImageRecord) -> NDArray[np.float32]:
    """What an encoder reads of a picture, (channels, height, width).

    Raises InputError for files that are no images, damaged or too large and for arrays of other
    shapes, and BackendError where Pillow is not installed.
    """
    image = _resized(_rgb(picture, record), record)
    values: Values = np.moveaxis(np.array(image), -1, 0)
    if record.crop is not None:
        values = _cropped(values, *record.crop)
    # Each step in the type that transformers takes for it, since sums are rounded.
    if record.scale is not None:
        values = values.astype(np.float64) * record.scale
    values = values.astype(np.float32)
    if record.mean is not None and record.deviation is not None:
        mean, deviation = (
            np.array(each, np.float32)[:, None, None] for each in (record.mean, record.deviation)
        )
        values = (values - mean) / deviation
    return np.ascontiguousarray(values, dtype=np.float32)


def _import_pillow() -> Any:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise BackendError(
            f"images: not usable here ({error}); install seq2edge[images]"
        ) from error
    return PIL


def _rgb(picture: Picture, record: ImageRecord) -> Image:
    """Red, green and blue; laid on white where it is transparent, if the record says so.

    Files lose their alpha before that, but for the one color of a palette that is transparent.
    """
    pillow = _import_pillow()
    if isinstance(picture, (str, os.PathLike)):
        image = _open(pillow, Path(picture))
    else:
        image = _of_array(pillow, picture) if isinstance(picture, np.ndarray) else picture
    if not isinstance(image, pillow.Image.Image):
        raise InputError(
            f"image: {type(picture).__name__}, give a path, a picture of Pillow's or an array"
        )
    _check_size("image", image)
    try:
        transparent = "A" in image.getbands() or image.info.get("transparency") is not None
        if record.on_white and transparent:
            white = pillow.Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = pillow.Image.alpha_composite(white, image.convert("RGBA"))
        opaque: Image = image.convert("RGB")
    except Exception as error:  # a file behind it may be read only now; see `_open`
        raise InputError(f"image: cannot be read: {error}") from error
    return opaque


def _open(pillow: Any, path: Path) -> Image:
    """A file's first picture, upright and in RGB."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pictures that are refused below
            opened = pillow.Image.open(path)
        with opened as image:
            _check_size(str(path), image)
            upright: Image = pillow.ImageOps.exif_transpose(image).convert("RGB")
            return upright
    except InputError:
        raise
    except pillow.UnidentifiedImageError:
        raise InputError(f"{path}: no image that Pillow knows, convert it to PNG") from None
    except pillow.Image.DecompressionBombError:
        raise InputError(f"{path}: more than {LARGEST:,} pixels, cut or shrink it") from None
    except Exception as error:  # decoders of many formats raise anything
        raise InputError(f"{path}: cannot be read: {error}") from error


def _check_size(subject: str, image: Image) -> None:
    """Before anything is unpacked."""
    width, height = image.size
    if width * height > LARGEST:
        raise InputError(
            f"{subject}: {height:,} x {width:,} pixels, at most {LARGEST:,} in all are read; "
            "cut or shrink it"
        )
    if not width * height:
        raise InputError(f"{subject}: {height} x {width} pixels, it is empty")


def _of_array(pillow: Any, values: NDArray[Any]) -> Any:
    """A picture of values 0 to 255 in rows of pixels."""
    shape = values.shape
    plain = values.ndim == 2 or (values.ndim == 3 and shape[2] in (1, 3, 4))
    if values.dtype != np.uint8 or not plain:
        raise InputError(
            f"image: an array of {values.dtype} {shape}; give uint8 (height, width), or that with "
            "1, 3 or 4 channels behind"
        )
    if not values.size:
        raise InputError(f"image: an array of shape {shape}, it is empty")
    return pillow.Image.fromarray(values[:, :, 0] if shape[2:] == (1,) else values)


def _resized(image: Image, record: ImageRecord) -> Image:
    size = record.size
    if record.shortest_edge is not None:
        size = _by_shortest_edge(image.height, image.width, record.shortest_edge)
    if size is None:
        return image
    pillow = _import_pillow()
    height, width = size
    if height * width > LARGEST:
        raise InputError(
            f"image: {image.height:,} x {image.width:,} pixels would become {height:,} x {width:,},"
            f" at most {LARGEST:,} in all are read; cut it"
        )
    return image.resize((width, height), pillow.Image.Resampling[record.resample.upper()])


def _by_shortest_edge(height: int, width: int, shortest: int) -> tuple[int, int]:
    """The size whose shorter edge has so many pixels, of the same shape."""
    longest = int(shortest * max(height, width) / min(height, width))
    return (longest, shortest) if width <= height else (shortest, longest)


def _cropped(values: Values, height: int, width: int) -> Values:
    """The middle of an image, with zeros around where it is smaller."""
    channels, tall, wide = values.shape
    room = np.zeros((channels, max(height, tall), max(width, wide)), values.dtype)
    above, before = -(-(room.shape[1] - tall) // 2), -(-(room.shape[2] - wide) // 2)
    room[:, above : above + tall, before : before + wide] = values
    top, left = (tall - height) // 2 + above, (wide - width) // 2 + before
    return room[:, top : top + height, left : left + width]
