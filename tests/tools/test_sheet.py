"""The sheet: pictures large enough to be looked at, none smoothed."""

import pytest
from PIL import Image

from tools.launch.sheet import draw_sheet, enlarged


@pytest.mark.parametrize(
    ("size", "shown"),
    [((64, 64), (256, 256)), ((132, 64), (528, 256)), ((100, 90), (200, 180)), ((300, 260),) * 2],
)
def test_small_pictures_are_enlarged_by_a_whole_number(size, shown):
    picture = Image.new("RGB", size)
    picture.putpixel((1, 0), (255, 0, 0))
    large = enlarged(picture)
    factor = shown[0] // size[0]
    assert large.size == shown
    assert large.crop((factor, 0, 2 * factor, factor)).getcolors() == [(factor**2, (255, 0, 0))]


def test_columns_stand_side_by_side():
    red, blue = (Image.new("RGB", (256, 256), colour) for colour in ("red", "blue"))
    sheet = draw_sheet("pair", {"baseline": [red, red], "corrected": [blue, blue]}, [])
    counts = dict((colour, count) for count, colour in sheet.getcolors(maxcolors=10_000))
    assert counts[255, 0, 0] == counts[0, 0, 255] == 2 * 256**2
    assert sheet.getpixel((20, 200)) == (255, 0, 0) and sheet.getpixel((300, 200)) == (0, 0, 255)
