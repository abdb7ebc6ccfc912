"""Sheets and what is said of pictures' differences, against figures made by hand."""

import pytest
import torch

from steadydiff.plots import PAPER
from steadydiff.sheets import IDENTICAL, ROWS, difference, draw_sheet, verdict


def grey(level, count=1, height=40, width=30):
    return torch.full((count, height, width, 3), level / 255)


def test_what_is_said_is_in_steps_of_255():
    before, after = grey(100), grey(102)
    after[:, :20] = 110 / 255
    assert verdict(before, after) == "mean difference 6 of 255, largest 10, PSNR 31.0 dB"  # mean square 52


def test_identical_means_every_bit():
    assert verdict(grey(100), grey(100)) == IDENTICAL
    assert verdict(grey(100), grey(100) + 1e-7) != IDENTICAL


def test_a_broken_picture_is_no_result():
    assert "NaN" in verdict(grey(100), grey(float("nan")))
    assert draw_sheet("", {"broken": grey(float("nan"))}).shape[-1] == 3


def test_the_difference_is_grey_where_pictures_are_equal():
    assert (difference(grey(7), grey(7)) == 0.5).all()
    torch.testing.assert_close(difference(grey(100), grey(104)), torch.full((1, 40, 30, 3), 0.5 + 32 / 255))
    assert (difference(grey(0), grey(255)) == 1).all() and (difference(grey(255), grey(0)) == 0).all()


@pytest.mark.parametrize("label", ["a", "a long label of which no more than its beginning is shown " * 3])
def test_a_sheet_has_a_column_per_label_and_a_row_per_picture(label):
    sheet = draw_sheet("two lines\nof text", {label: grey(10, 2), "b": grey(20, 2)})
    colours = {level: (sheet == level).all(-1) for level in (10, 20)}
    for mask in colours.values():
        assert mask.sum() == 2 * 320 * 240  # eight times: the shorter side is 256 at most
    assert colours[10].nonzero()[1].max() < colours[20].nonzero()[1].min()
    paper = [int(PAPER[i : i + 2], 16) for i in (1, 3, 5)]
    assert [sheet[0, 0].tolist(), sheet[-1, -1].tolist()] == [paper, paper]


def test_a_videos_first_frames_are_shown():
    few, many = (draw_sheet("", {"a": grey(1, count)}).shape for count in (ROWS, 99))
    assert few == many


@pytest.mark.slow
def test_texts_grow_with_the_sheet():
    def ink(width):
        return (draw_sheet("text", {"label": grey(255, height=64, width=width)}).min(-1) < 100).sum()

    assert ink(2048) > 9 * ink(256)


@pytest.mark.slow
def test_texts_of_a_tall_sheet_grow_too():
    """It is shown as small as it is tall."""

    def ink(rows):
        pictures = grey(255, rows, 256, 256)
        return (draw_sheet("text", {"a": pictures, "b": pictures}).min(-1) < 100).sum()

    assert ink(8) > 2 * ink(1)
