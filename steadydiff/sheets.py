"""Pictures beside each other: by how much they differ, in words and as a picture, and a sheet of them all.

Pictures are tensors [B, H, W, 3] in 0..1.
"""

from __future__ import annotations

from textwrap import shorten, wrap
from typing import Any

from torch import Tensor

from .plots import INK, PAPER

IDENTICAL = "identical: nothing acted"

PICTURE = 256  # px; a shorter side below it is enlarged by a whole number, so that no pixel is smoothed away
ROWS = 8  # of a sheet; a video has hundreds of frames
LABEL = 48  # characters


def difference(before: Tensor, after: Tensor, times: float = 8.0) -> Tensor:
    """Return after - before, so many times as strong, around the grey of two that are equal."""
    return (0.5 + times * (after - before)).clamp(0, 1)


def verdict(before: Tensor, after: Tensor) -> str:
    """Say by how much pictures differ, in steps of 255 and as PSNR in dB; `IDENTICAL` if in no bit."""
    apart = 255 * (after.double() - before.double()).abs()
    if not apart.isfinite().all():
        return "not comparable: a picture holds values that are no numbers (NaN)"
    if not apart.any():
        return IDENTICAL
    psnr = 10 * (255**2 / apart.square().mean()).log10()
    return f"mean difference {apart.mean():.2g} of 255, largest {apart.max():.3g}, PSNR {psnr:.1f} dB"


def draw_sheet(title: str, columns: dict[str, Tensor]) -> Any:
    """Draw one column of pictures per label, one row per picture of the batch, at most `ROWS`.

    Texts grow with the sheet, so that they can still be read where it is shown small.

    title:   lines of text
    Returns: [H, W, 3] uint8
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    shown = {label: [_enlarged(picture) for picture in column[:ROWS]] for label, column in columns.items()}
    (width, height), rows = next(iter(shown.values()))[0].size, max(map(len, shown.values()))
    margin = max(12, width // 32)
    across = margin + len(shown) * (width + margin)
    size = max(16, min(max(across, rows * (height + margin)) // 36, across // 20))
    line = round(1.5 * size)
    lines = [part for text in title.splitlines() for part in wrap(text, int(across / (0.5 * size)))]
    top = margin + len(lines) * line + line + margin // 2
    sheet = Image.new("RGB", (across, top + rows * (height + margin)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    for y, text in enumerate(lines):
        draw.text((margin, margin + y * line), text, INK, font)
    for x, (label, column) in enumerate(shown.items()):
        left, text = margin + x * (width + margin), shorten(label, LABEL, placeholder=" ...")
        fits = min(1.0, width / draw.textlength(text, font))
        place = left, margin + len(lines) * line + line // 2
        draw.text(place, text, INK, ImageFont.load_default(max(1, int(fits * size))), anchor="lm")
        for y, picture in enumerate(column):
            sheet.paste(picture, (left, top + y * (height + margin)))
    return np.array(sheet)


def _enlarged(picture: Tensor) -> Any:
    from PIL import Image

    pixels = (picture.float().nan_to_num() * 255).round().clamp(0, 255).byte()
    made = Image.fromarray(pixels.cpu().numpy())
    factor = max(1, PICTURE // min(made.size))
    return made.resize((made.width * factor, made.height * factor), Image.Resampling.NEAREST)
