"""Draws a sheet of labelled columns of pictures; demo.py runs it with the host's interpreter and its Pillow.

Reads an order as JSON from standard input:
{"title": text, "columns": {label: [file, ...]}, "rows": [label, ...] or [], "sheet": file}.
"""

import json
import sys

from PIL import Image, ImageDraw, ImageFont

PICTURE = 256  # px; a shorter side below it is enlarged by a whole number, so that no pixel is smoothed away
MARGIN, TITLE, LABEL, SIDE = 16, 40, 32, 80  # px
PAPER, INK = "#f6f5f1", "#22252a"


def main() -> None:
    order = json.load(sys.stdin)
    columns = {
        name: [enlarged(Image.open(file)) for file in files] for name, files in order["columns"].items()
    }
    draw_sheet(order["title"], columns, order["rows"]).save(order["sheet"])


def enlarged(picture: Image.Image) -> Image.Image:
    factor = max(1, PICTURE // min(picture.size))
    size = (picture.width * factor, picture.height * factor)
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST)


def draw_sheet(title: str, columns: dict[str, list[Image.Image]], names: list[str]) -> Image.Image:
    """One column of pictures per label, one row per picture of the batch, beside its name if it has one."""
    pictures = [picture for column in columns.values() for picture in column]
    width, height = (max(sizes) for sizes in zip(*(picture.size for picture in pictures), strict=True))
    rows = max(map(len, columns.values()))
    top, side = MARGIN + TITLE + LABEL, SIDE if names else 0
    size = (side + MARGIN + len(columns) * (width + MARGIN), top + rows * (height + MARGIN))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(20))
    for x, (label, column) in enumerate(columns.items()):
        left = side + MARGIN + x * (width + MARGIN)
        draw.text((left, MARGIN + TITLE), label.replace("_", " "), INK, ImageFont.load_default(18))
        for y, picture in enumerate(column):
            sheet.paste(picture, (left, top + y * (height + MARGIN)))
    for y, name in enumerate(names):
        draw.text((MARGIN, top + y * (height + MARGIN)), name, INK, ImageFont.load_default(18))
    return sheet


if __name__ == "__main__":
    main()
