"""Pictures that people give, as files or over the net. One reader for all of them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .errors import SettingsError

if TYPE_CHECKING:  # it comes with every host, but the core can do without
    from PIL.Image import Image


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Of the files that are taken for pictures where a folder is given."""


def pictures_in(folder: Path) -> list[Path]:
    """Return a folder's pictures by name, but for hidden ones; none if there is no such folder."""
    if not os.path.isdir(folder):  # False for a name that is too long, too
        return []
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )


def read_picture(source: Path | bytes, name: str) -> Image:
    """Return a file's picture, or its first one, as people see it: upright, 8-bit RGB.

    name:    what to call it in an error

    Raises:  SettingsError naming the picture that cannot be read, is cut off or larger than PIL allows.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _as_seen(image)
    except UnidentifiedImageError:
        why = "no known format"
    except Exception as error:  # whatever a decoder raises for damaged data
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    raise SettingsError(f"{name} cannot be read as a picture ({why}); give a whole PNG, JPEG or WebP file")


def pixels(picture: Image) -> Tensor:
    """A picture as read here, as a tensor [H, W, 3] uint8."""
    return torch.from_numpy(np.array(picture.convert("RGB")))


def _as_seen(image: Image) -> Image:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # gray of 16 bits, which PIL's conversion would cut off at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    return image.convert("RGB")
