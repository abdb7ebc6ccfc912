"""How much of a fit is measured, and in which batches: what every host's measuring shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoise, Run
from ..errors import SettingsError
from .correction import first_tries
from .digest import digest
from .fit import LEAST_PICTURES, FitSettings, Progress
from .saved_fit import VERSION, Unfinished
from .signs import RATIOS

QUALITIES = {
    "quick": (16, FitSettings()),
    "normal": (32, FitSettings()),
    "thorough": (64, FitSettings(thorough=True)),
}
"""By name, how many pictures are measured on, and the rule's settings."""

MOST_SORTED = 2**20


@dataclass(frozen=True)
class FitPlan:
    """How much is measured.

    pictures: samples, with seeds from `seed` on; the model's own references, if needed, have the next ones
    batch:    how many are called at a time, which bounds memory
    refine:   into how many each step of the model's own references is divided
    settings: of the rule
    """

    pictures: int
    batch: int = 4
    refine: int = 4
    seed: int = 0
    settings: FitSettings = field(default_factory=FitSettings)

    @classmethod
    def of(cls, quality: str, **more: int) -> FitPlan:
        """Return the plan of one of QUALITIES."""
        pictures, settings = QUALITIES[quality]
        return cls(pictures, settings=settings, **more)

    @property
    def runs(self) -> int:
        """Sampling runs at most."""
        tries = len(first_tries(low=True, diffier=self.settings.diffier, s_noise=False))
        return self.settings.runs if self.settings.thorough else min(self.settings.runs, 1 + tries)

    def batches(self, count: int) -> int:
        return math.ceil(count / self.batch)

    def calls(self, per_run: int, references: int | None) -> tuple[int, int]:
        """Return how many model calls are made at least and at most.

        per_run:    of them in a sampling run
        references: how many real pictures there are; None: the model's own samples serve
        """
        real = self.batches(self.pictures if references is None else references)
        before, again = real * len(RATIOS), 0
        if references is None:
            before += real * per_run * self.refine
        else:
            again = real * len(RATIOS)  # without the prompt, where there is one to steer away from
        one = self.batches(self.pictures) * (per_run + len(RATIOS))
        return before + one, before + again + self.runs * one

    def calls_made(self, per_run: int, references: int | None, own: Tensor | None, done: Progress) -> int:
        """Return how many of these were made for what is known."""
        made = 0 if own is None else self.batches(len(own)) * per_run * self.refine
        for name, kept in done.items():
            count = references if name == "references" else None
            made += int(kept["calls"]) * self.batches(self.pictures if count is None else count)
        return made


def check_count(references: int) -> None:
    """Raise SettingsError for too few real pictures."""
    if references < LEAST_PICTURES:
        raise SettingsError(f"at least {LEAST_PICTURES} images are needed, 32 are good; got {references}")


def own_references(plan: FitPlan, kept: Unfinished, draw: Callable[[Sequence[int]], Tensor]) -> Tensor:
    """Return the model's own finely stepped samples [N, C, *S]; those that were made before are kept.

    draw: seeds -> their samples; each batch is kept as soon as it is drawn
    """
    first = plan.seed + plan.pictures
    while kept.own is None or len(kept.own) < plan.pictures:
        made = 0 if kept.own is None else len(kept.own)
        drawn = draw(range(first + made, first + min(made + plan.batch, plan.pictures)))
        kept.own = drawn if kept.own is None else torch.cat([kept.own, drawn])
        kept.save()
    return without_outliers(kept.own)


def without_outliers(pictures: Tensor) -> Tensor:
    """Clip latents to what all but 1 in 100 numbers lie in: nothing else bounds a model's own samples, and a
    few exploded ones would rule every figure."""
    flat = pictures.flatten().float()
    ends = flat[:: -(-len(flat) // MOST_SORTED)].quantile(torch.tensor([0.005, 0.995]))
    return pictures.clamp(*ends.tolist())


def fit_key(model: Any, run: Run, sampler: Sequence[Any], cfg: float, plan: FitPlan, *reference: Any) -> str:
    """Return what a fit is kept under: the model, the run, and how much is measured.

    model:     what tells it from others, in JSON's terms
    sampler:   its name, and what it is set to
    reference: what tells the clean samples from others, where that is known beforehand
    """
    return digest(
        VERSION,
        model,
        [run.space, run.noise, *sampler],
        [f"{sigma:.6g}" for sigma in run.sigmas],
        float(cfg),
        [plan.pictures, asdict(plan.settings), *reference],
    )


def problem_of(key: str, prompt: str, shape: Sequence[int], plan: FitPlan) -> str:
    """Return a digest of all that what was tried so far depends on."""
    return digest(key, prompt, list(shape), plan.seed)


def in_batches(evaluate: Denoise, batch: int) -> Denoise:
    """Return a denoiser that calls another for at most `batch` states at a time."""

    def evaluated(x: Tensor, sigma: Tensor) -> Tensor:
        parts = zip(x.split(batch), sigma.split(batch), strict=True)
        return torch.cat([evaluate(*part) for part in parts])

    return evaluated
