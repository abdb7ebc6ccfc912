"""Gaussian noise of our own, for methods and measurements that need some beside the sampler's."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor


class PerSampleNoise:
    """Noise for the samples of a batch, apart from every other random stream.

    A sample's noise follows from the seed, from where its first state has its extremes, and from the draw:
    not from its batch, its place there, the device, or whatever else draws. Reading those places back makes
    the host wait for the device, once per run.
    """

    def __init__(self, seed: int | None, purpose: str) -> None:
        """purpose: keeps the streams of two users of one seed apart."""
        self._stem, self._marks = f"{purpose}/{seed or 0}", []

    def see(self, x: Tensor) -> None:
        """Recognise the samples by their states [B, C, *S]; the first ones seen count."""
        if len(self._marks) != len(x):
            flat = x.flatten(1)
            self._marks = torch.stack((flat.argmax(1), flat.argmin(1)), 1).tolist()

    def draw(self, like: Tensor, *which: int) -> Tensor:
        """Return noise for the batch that was seen; the same numbers `which` give the same noise.

        Shapes:  like, result [B, C, *S].
        Dtype:   like's, and its device; drawn in float32 on the CPU, so that it is the same everywhere.
        """
        rows = [
            torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(self._seed(mark, which)))
            for mark in self._marks
        ]
        return torch.stack(rows).to(like.device, like.dtype, non_blocking=True)

    def _seed(self, mark: list[int], which: tuple[int, ...]) -> int:
        text = "/".join(map(str, (self._stem, *mark, *which)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Motion:
    """Brownian motion over noise levels, as SDE samplers ask for it, without ends: a finer run than the host
    has prepared its own for goes on below that one's last level.

    Drawn from torch's stream on the CPU, so that code under `fixed_rng` finds the same again.
    """

    def __init__(self, like: Tensor) -> None:
        """like: a state [B, C, *S]; noise has its shape, dtype and device."""
        self._like, self._at = like, {}

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        """Return the motion between two levels that differ, of unit variance."""
        a, b = float(sigma), float(sigma_next)
        return ((self._place(b) - self._place(a)) / math.sqrt(abs(b - a))).to(self._like)

    def _place(self, level: float) -> Tensor:
        if level in self._at:
            return self._at[level]
        below = max((one for one in self._at if one < level), default=None)
        above = min((one for one in self._at if one > level), default=None)
        near = above if below is None else below
        drawn = torch.randn(self._like.shape)
        if below is not None and above is not None:  # a bridge
            share = (level - below) / (above - below)
            mean = torch.lerp(self._at[below], self._at[above], share)
            found = mean + drawn * math.sqrt(share * (above - level))
        elif near is not None:
            found = self._at[near] + drawn * math.sqrt(abs(level - near))
        else:
            found = torch.zeros_like(drawn)
        return self._at.setdefault(level, found)
