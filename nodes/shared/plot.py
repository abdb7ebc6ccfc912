"""Plots as the host's IMAGE."""

import torch

from ...steadydiff.plots import picture


def image(figure_of, *args) -> torch.Tensor:
    """What `figure_of(*args)` draws as [1, H, W, 3] in 0..1, or a blank picture that says why not."""
    return torch.from_numpy(picture(figure_of, *args))[None] / 255
