"""Energy of states and latents by how fine the structure is: rings of the Fourier transform, per channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spectrum(x: Tensor) -> Tensor:
    """Mean energy in each ring of spatial frequencies, the coarsest first.

    Shapes:  x [B, C, L], [B, C, H, W] or [B, C, T, H, W], frames one by one; result [C, R].
    Units:   the energy of white noise of variance s² is s² in every ring.
    Dtype:   float64, on the CPU.
    """
    places = _places(x.ndim)
    energy = torch.fft.fftn(x.cpu().double(), dim=places, norm="ortho").abs().square()
    energy = energy.transpose(0, 1).flatten(1, -1 - len(places)).mean(1).flatten(1)
    ring = _ring(tuple(x.shape[place] for place in places))
    sums = energy.new_zeros(len(energy), int(ring.max()) + 1).index_add_(1, ring, energy)
    return sums / torch.bincount(ring)


def ring_sizes(shape: tuple[int, ...]) -> Tensor:
    """How many frequencies are in each ring [R] of a sample of shape [C, *S]."""
    return torch.bincount(_ring(tuple(shape[place] for place in _places(len(shape) + 1))))


def ring_count(shape: tuple[int, ...]) -> int:
    """How many rings R a sample of shape [C, *S] has, in no memory, whatever the shape claims."""
    square = sum((shape[place] // 2) ** 2 for place in _places(len(shape) + 1))
    return (math.isqrt(4 * square) + 1) // 2 + 1  # the root, rounded, and the ring of frequency 0


def _places(ndim: int) -> tuple[int, ...]:
    return (-1,) if ndim == 3 else (-2, -1)


def _ring(sizes: tuple[int, ...]) -> Tensor:
    """The ring of every frequency, flat: its distance from 0 in whole periods per picture."""
    squares = [(torch.fft.fftfreq(size, dtype=torch.float64) * size).square() for size in sizes]
    total = squares[0] if len(squares) == 1 else squares[0][:, None] + squares[1]
    return total.sqrt().round().long().flatten()
