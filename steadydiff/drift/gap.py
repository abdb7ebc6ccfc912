"""The training-inference gap, measured: the error a model makes at its own clean estimates, step by step.

A `GapRecorder` listens to a model's own answers and to what corrections make of them while a sampler runs,
and asks the model about both. It knows no host; `hosts/comfy_gap.py` drives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, Space, add_noise
from ..errors import SteadyDiffError
from ..methods.diffier import optimal_weight, residual_loss
from ..noise import MemberNoise
from .stepping import Sampler


@dataclass(frozen=True)
class Gap:
    """What a model errs by at its own clean estimates.

    space, sigmas: the run, the final sigma included
    count:  how many samples
    before: mean square of e' - z per step, see `residual_loss`, at the model's own estimates, and
    after:  at the corrected ones; the same where nothing was corrected
    weight: per step the guidance weight whose noise there comes nearest to the one drawn, the paper's w*;
            None where there was no guidance
    calls:  model calls of one run, those for measuring left out
    extra:  of these, how many the corrections made

    Source: Chen et al., 2025, arXiv 2508.13628: the accumulated error of figure 2 and w* of equations 9 and
            16, with noise that is known in the place of the true score, which is not.
    """

    space: Space
    sigmas: tuple[float, ...]
    count: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    weight: tuple[float | None, ...]
    calls: int
    extra: int

    @property
    def accumulated(self) -> tuple[float, ...]:
        """The loss after correction, summed up to each step."""
        return tuple(accumulate(self.after))

    def as_dict(self) -> dict[str, Any]:
        """The figures for a report."""
        return {**asdict(self), "accumulated": self.accumulated}


class GapRecorder:
    """Gathers the gap of one way of sampling, batch after batch.

    The model's raw answers must come through `around`; corrections go outside it. If the denoiser given there
    has `branches`, the optimal weight is found, too. Each step costs two model calls of measuring, at a noise
    and its opposite, and where an estimate was corrected two more.
    """

    def __init__(self, run: Run, starts: Sequence[int]) -> None:
        """starts: which model calls of a run begin its steps, from `step_calls`."""
        self.run = run
        self._starts = {call: step for step, call in enumerate(starts)}
        self._model: Any = None
        self._raw: Tensor | None = None
        self._listening = False
        self._count = self._calls = self._questions = self._runs = 0
        # Per step: sums of the losses before and after, and numerator and denominator of the weight.
        self._sums = [[0.0, 0.0, 0.0, 0.0] for _ in range(run.steps)]

    def around(self, denoise: Denoise) -> Denoise:
        """Return a denoiser that is listened to; `denoise` itself is asked for measuring."""
        self._model = denoise

        def heard(x: Tensor, sigma: Tensor) -> Tensor:
            denoised = denoise(x, sigma)
            if self._listening:
                self._calls += 1
                self._raw = denoised if self._raw is None else self._raw
            return denoised

        return heard

    def sample(self, sampler: Sampler, denoise: Denoise, x: Tensor) -> Tensor:
        """Sample a batch from its first states [B, C, *S] and return the final ones."""
        asked, noise = 0, MemberNoise(self.run.seed, "gap")
        noise.see(x)

        def question(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal asked
            self._raw, self._listening = None, True
            try:
                corrected = denoise(x, sigma)
            finally:
                self._listening = False
            step = self._starts.get(asked)
            asked += 1
            if step is not None:
                self._measure(step, sigma, corrected, noise.draw(x.float(), step))
            return corrected

        final = sampler(question, x, self.run.sigmas)
        self._count, self._questions, self._runs = (
            self._count + len(x),
            self._questions + asked,
            self._runs + 1,
        )
        return final

    def gap(self) -> Gap:
        """Return what was gathered."""
        rows = [(before / self._count, after / self._count) for before, after, *_ in self._sums]
        before, after = zip(*rows, strict=True) if rows else ((), ())
        return Gap(
            space=self.run.space,
            sigmas=self.run.sigmas,
            count=self._count,
            before=before,
            after=after,
            weight=tuple(1 + over / under if under else None for *_, over, under in self._sums),
            calls=self._calls // self._runs,
            extra=(self._calls - self._questions) // self._runs,
        )

    def _measure(self, step: int, sigma: Tensor, corrected: Tensor, noise: Tensor) -> None:
        raw = self._raw
        assert raw is not None, "no raw answer came through `around`"
        before, over, under = self._probe(raw, noise, sigma)
        after = before if torch.equal(raw, corrected) else self._probe(corrected, noise, sigma)[0]
        found = torch.stack((before, after, over, under)).tolist()
        if not all(value == value and abs(value) != float("inf") for value in found):
            raise SteadyDiffError(
                f"the model's answer at step {step + 1} holds NaN or infinity; nothing was measured"
            )
        self._sums[step] = [total + value for total, value in zip(self._sums[step], found, strict=True)]

    def _probe(self, estimate: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over the batch, means over the pair of noises: loss, and the two parts of the weight."""
        wide = estimate.float()
        loss = over = under = wide.new_zeros(())
        for signed in (noise, -noise):
            at = add_noise(wide, self.run.noise * signed, sigma.to(wide), self.run.space)
            again = self._model(at.to(estimate.dtype), sigma).float()
            loss = loss + residual_loss(wide, again, sigma, self.run.space).sum() / 2 / self.run.noise**2
            branches = getattr(self._model, "branches", None)
            if branches is not None and branches[1] is not None:
                parts = optimal_weight(wide, *(branch.float() for branch in branches))
                over, under = over + parts[0].sum() / 2, under + parts[1].sum() / 2
        return loss, over, under
