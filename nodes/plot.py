"""Plots as the host's IMAGE."""

import torch

from ..steadydiff.plots import pixels


def image(figure) -> torch.Tensor:
    """A figure as [1, H, W, 3] in 0..1."""
    return torch.from_numpy(pixels(figure))[None] / 255
