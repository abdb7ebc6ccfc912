"""Plots as the host's IMAGE."""

import torch

from ...steadydiff.plots import blank, picture


def image(figure_of, *args) -> torch.Tensor:
    """What `figure_of(*args)` draws as [1, H, W, 3] in 0..1, or a blank picture that says why not."""
    return torch.from_numpy(picture(figure_of, *args))[None] / 255


def no_image(text: str) -> torch.Tensor:
    """A blank picture [1, H, W, 3] in 0..1 that says why there is no plot yet."""
    return torch.from_numpy(blank(text))[None] / 255
