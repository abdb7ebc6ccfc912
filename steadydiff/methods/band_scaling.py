"""Band Scaling: Epsilon Scaling with one λ for coarse and one for fine structure.

A correction that is right for composition may be wrong for texture, and the other way round. The correction
that Epsilon Scaling makes is split by one level of the Haar wavelet; each band has an `EpsilonScaling` of its
own. `haar_split` is the formula, `BandScaling` the settings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..denoiser import Denoise, Run, Space
from .epsilon_scaling import EpsilonScaling
from .method import Defaults


def haar_split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split into the coarse and the fine band of one level of the Haar wavelet; they add up to x.

    The coarse band is the mean of each block of two (in pictures 2×2) latent pixels, which is what the
    wavelet's low-pass coefficients alone restore; the fine band is the rest. Blocks cut off by an odd edge
    are the mean of what is there.

    Shapes:  x, results [B, C, L], [B, C, H, W] or [B, C, T, H, W]; frames of a video are split one by one.
    Dtype:   x.dtype and x.device in and out.
    Source:  Haar, 1910, as DCW, 2026, arXiv 2604.16044, uses it on latents. Their three fine bands are one
             here.
    """
    places = 1 if x.ndim == 3 else 2
    sizes = x.shape[-places:]
    flat = x.reshape(-1, 1, *sizes)
    pool = functional.avg_pool1d if places == 1 else functional.avg_pool2d
    padded = functional.pad(flat, [side for size in reversed(sizes) for side in (0, size % 2)], "replicate")
    coarse = pool(padded, 2)
    for dim in range(2, 2 + places):
        coarse = coarse.repeat_interleave(2, dim).narrow(dim, 0, sizes[dim - 2])
    coarse = coarse.reshape(x.shape)
    return coarse, x - coarse


def split_parts(x: Tensor, parts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Split as `haar_split` does each of the latents that a state packs.

    parts:   their shapes [C, *S], see `Run`; none = x is one latent
    Shapes:  with parts x and results [B, 1, N].
    """
    if not parts:
        return haar_split(x)
    packed = x.split([math.prod(shape) for shape in parts], dim=-1)
    bands = [haar_split(one.reshape(-1, *shape)) for one, shape in zip(packed, parts, strict=True)]
    coarse = torch.cat([one.reshape(len(x), 1, -1) for one, _ in bands], dim=-1)
    return coarse, x - coarse


@dataclass(frozen=True)
class BandScaling(Defaults):
    """Scale the predicted noise in two bands of detail, each by its own Epsilon Scaling.

    coarse: for structure of two latent pixels and more: composition, large areas, light
    fine:   for what changes from one latent pixel to the next: texture, edges

    Neutral: both neutral; `wrap` then returns the denoiser itself. Equal settings are Epsilon Scaling.

    Source: the split after DCW, 2026, arXiv 2604.16044, and frequency regulation, 2025, arXiv 2507.10072;
            what is split is the correction of Ning et al., 2023, arXiv 2308.15321. Not DCW's own update,
            which changes the state after the step.
    """

    title: ClassVar[str] = "Band Scaling"
    order: ClassVar[int] = EpsilonScaling.order + 1  # around it, whichever node comes first
    scales_branch: ClassVar[bool] = True

    coarse: EpsilonScaling = EpsilonScaling()
    fine: EpsilonScaling = EpsilonScaling()

    def __str__(self) -> str:
        return f"coarse {self.coarse}; fine {self.fine}"

    @property
    def is_off(self) -> bool:
        """Whether these settings change nothing."""
        return self.coarse.is_off and self.fine.is_off

    def check(self, space: Space) -> None:
        """Raise SettingsError if these settings cannot work on a model of this space."""
        for band in (self.coarse, self.fine):
            band.check(space)

    def within(self, sigma_high: float, sigma_low: float) -> BandScaling:
        """Return a copy of which both bands act between two noise levels."""
        coarse, fine = (band.within(sigma_high, sigma_low) for band in (self.coarse, self.fine))
        return replace(self, coarse=coarse, fine=fine)

    def differences(self, **facts: Any) -> list[str]:
        """Return in words where a run differs from what the bands' schedules were made for."""
        bands = {"coarse": self.coarse, "fine": self.fine}
        return [f"{name}: {one}" for name, band in bands.items() for one in band.differences(**facts)]

    def summary(self, run: Run) -> str:
        """Say what either band does, e.g. "coarse: lambda 1.01 at 9 of 9 steps, fine: ..."."""
        return f"coarse: {self.coarse.summary(run)}, fine: {self.fine.summary(run)}"

    def wrap(self, denoise: Denoise, run: Run) -> Denoise:
        """Return a denoiser whose clean estimates carry the correction; called once per run.

        Raises:  SettingsError as `EpsilonScaling.wrap` does, before any model call.
        """
        given = _Given()
        coarse, fine = (method.wrap(given, run) for method in (self.coarse, self.fine))
        if coarse is given and fine is given:
            return denoise

        def scaled(x: Tensor, sigma: Tensor) -> Tensor:
            denoised = denoise(x, sigma)
            given.prediction = denoised
            changes = [band(x, sigma) - denoised for band in (coarse, fine)]
            given.prediction = None
            return denoised + split_parts(changes[0], run.parts)[0] + split_parts(changes[1], run.parts)[1]

        return scaled


class _Given:
    """A denoiser that answers what it was given, so that two corrections share one model call."""

    prediction: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        del x, sigma
        assert self.prediction is not None
        return self.prediction
