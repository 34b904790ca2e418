"""Images as matrices of grey levels; what of an image is no grey level is honoured or said."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from jaxfact.data.arrays import ReadOptions, check_size, from_file

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".ppm", ".pbm", ".pnm", ".gif", ".webp")
# Pillow goes by contents, not by suffix, and some of its other formats start programs.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM", "GIF", "WEBP")
_OF_16_BITS = ("PNG", "PPM")  # formats whose mode I holds 16 bits; in others it may hold 32
_ORIENTATION = 0x0112
_pillow = threading.Lock()


def read_image(path: Path, options: ReadOptions) -> xr.DataArray:
    """Read grey levels from 0 to 1; numbers of more than 16 bits and floating-point ones stay as they are."""
    from PIL import ImageOps

    with _opened(path) as image:
        check_size(path.name, (image.height, image.width), options.largest)
        form, said = image.format, [_frames(image), _depth(image)]
        if image.getexif().get(_ORIENTATION, 1) != 1:
            said.append("turned as its EXIF orientation says")
        image.load()  # which turns a TIFF
        image = ImageOps.exif_transpose(image)
        said.append(_transparency(image))
        grey, about = _grey_levels(image, form)
    return from_file(grey, path, ", ".join(filter(None, [*said, about])))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image without Pillow's own limit on its size, which ours replaces."""
    from PIL import Image

    with _pillow:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            # Of a path Pillow 13 maps the file into memory, and mixes up the sizes of a turned TIFF.
            with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def _frames(image: Any) -> str:
    count = getattr(image, "n_frames", 1)
    return f"the first of {count} frames" if count > 1 else ""


def _depth(image: Any) -> str:
    """Say where Pillow reads colours of 16 bits with 8."""
    raw = str(image.tile[0].args) if image.tile else ""
    return "16-bit channels read at 8 bits" if ";16" in raw and not image.mode.startswith("I") else ""


def _transparency(image: Any) -> str:
    if not image.has_transparency_data:
        return ""
    opaque = image.convert("RGBA").getextrema()[3][0] == 255
    return "" if opaque else "transparency left out, colours as stored beneath it"


def _grey_levels(image: Any, form: str) -> tuple[np.ndarray, str]:
    """Return grey levels, and how they came about where that is not plain."""
    mode = image.mode
    if mode == "F":
        return np.asarray(image, float), "floating-point numbers as stored"
    if mode.startswith("I;16") or (mode == "I" and form in _OF_16_BITS):
        return np.asarray(image, float) / 65535, ""
    if mode == "I":
        return np.asarray(image, float), "whole numbers as stored"
    if mode in ("L", "1", "LA", "La"):
        return np.asarray(image.convert("L"), float) / 255, ""
    colours = image if mode in ("RGB", "P") else image.convert("RGB")
    return np.asarray(colours.convert("L"), float) / 255, "colours as grey levels (ITU-R 601)"
