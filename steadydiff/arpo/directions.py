"""Means in the space of texts and pictures, where only directions count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_direction(embeddings: Sequence[Tensor], weights: Sequence[float] = ()) -> Tensor:
    """The direction [D], of length 1, of the mean of embeddings [D]; of one itself, to the bit."""
    one, *others = embeddings
    if not others:
        return one
    stacked = torch.stack([one, *others])
    return F.normalize((stacked * torch.tensor(weights or [1.0])[:, None]).mean(0), dim=0)
