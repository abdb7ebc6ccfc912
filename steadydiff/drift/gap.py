"""The training-inference gap, measured: the error a model makes at its own clean estimates, step by step.

A `GapRecorder` records a model's own predictions and what corrections make of them while a sampler runs,
and calls the model about both; at real pictures it finds the guidance weight of the smallest error. It knows
no host; `hosts/comfy/gap.py` drives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, Space, add_noise, signal_level
from ..errors import SteadyDiffError
from ..methods.diffier import optimal_weight, residual_loss
from ..metrics.running import Rows, standard_errors
from ..noise import PerSampleNoise
from .measurement import MOST_KEPT
from .recorder import off_quotient
from .stepping import Sampler


@dataclass(frozen=True)
class Gap:
    """What a model errs by at its own clean estimates.

    space, sigmas: the run, the final sigma included
    count:  how many samples
    before: mean square of e' - z per step, see `residual_loss`, at the model's own estimates, and
    after:  at the corrected ones; the same where nothing was corrected
    weight: per step the guidance weight of the smallest error at noised real pictures, the paper's w*; None
            where there was no guidance, or no picture
    weight_error: its standard error over the pictures; None likewise, and for one picture
    weight_loss:  per step the mean squares behind it, (e_c - z)², (e_c - z)(e_c - e_u), (e_c - e_u)²; empty
            where there are no weights
    calls:  model calls of one run, those for measuring left out
    extra:  of these, how many the corrections made

    Source: Chen et al., 2025, arXiv 2508.13628: the accumulated error of figure 2; w* of equations 9 and 16
            and L(w) of equation 8, at x = alpha x0 + sigma z of real pictures x0, where the mean of z is the
            true score. What of z nobody can know is in L(w) as well, the same at every w.
    """

    space: Space
    sigmas: tuple[float, ...]
    count: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    weight: tuple[float | None, ...]
    weight_error: tuple[float | None, ...]
    weight_loss: tuple[tuple[float, float, float], ...]
    calls: int
    extra: int

    @property
    def accumulated(self) -> tuple[float, ...]:
        """The loss after correction, summed up to each step."""
        return tuple(accumulate(self.after))

    @property
    def best_weight(self) -> float | None:
        """The one guidance weight that has the least L(w) of the whole run; None where none were measured."""
        both, apart = (sum(row[part] for row in self.weight_loss) for part in (1, 2))
        return 1 - both / apart if apart else None

    def loss_at(self, weight: float) -> float:
        """Return L(w), the mean over the steps of the mean square of e_w - z at real pictures.

        Raises:  SteadyDiffError where no weights were measured.
        """
        if not self.weight_loss:
            raise SteadyDiffError("L(w) needs guidance and real pictures; there was none")
        by = weight - 1
        return sum(error + 2 * by * both + by**2 * apart for error, both, apart in self.weight_loss) / len(
            self.weight_loss
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures for a report."""
        return {**asdict(self), "accumulated": self.accumulated, "best_weight": self.best_weight}


class GapRecorder:
    """Gathers the gap of one way of sampling, batch after batch.

    The model's raw predictions must come through `around`; corrections go outside it. Each step costs two
    model calls of measuring, at a noise and its opposite, and where an estimate was corrected two more.
    """

    def __init__(self, run: Run, starts: Sequence[int]) -> None:
        """starts: which model calls of a run begin its steps, from `step_calls`."""
        self.run = run
        self._starts = {call: step for step, call in enumerate(starts)}
        self._model: Any = None
        self._raw: Tensor | None = None
        self._recording = False
        self._count = self._calls = self._sampler_calls = self._runs = 0
        self._sums = [[0.0, 0.0] for _ in range(run.steps)]  # per step: the losses before and after
        self._pairs = [Rows(run.steps, MOST_KEPT) for _ in range(3)]  # what `weight_loss` has, by picture

    def around(self, denoise: Denoise) -> Denoise:
        """Return a denoiser that is recorded; `denoise` itself is called for measuring."""
        self._model = denoise

        def recorded(x: Tensor, sigma: Tensor) -> Tensor:
            denoised = denoise(x, sigma)
            if self._recording:
                self._calls += 1
                self._raw = denoised if self._raw is None else self._raw
            return denoised

        return recorded

    def sample(self, sampler: Sampler, denoise: Denoise, x: Tensor) -> Tensor:
        """Sample a batch from its first states [B, C, *S] and return the final ones."""
        calls, noise = 0, PerSampleNoise(self.run.seed, "gap")
        noise.see(x)

        def evaluate(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal calls
            self._raw, self._recording = None, True
            try:
                corrected = denoise(x, sigma)
            finally:
                self._recording = False
            step = self._starts.get(calls)
            calls += 1
            if step is not None:
                self._measure(step, sigma, corrected, noise.draw(x.float(), step))
            return corrected

        final = sampler(evaluate, x, self.run.sigmas)
        self._count, self._sampler_calls, self._runs = (
            self._count + len(x),
            self._sampler_calls + calls,
            self._runs + 1,
        )
        return final

    def pair(self, denoise: Denoise, clean: Tensor) -> None:
        """Call about real pictures [B, C, *S], noised to each sigma of the run; a model call a step.

        denoise: what `around` returned, without corrections; the model must have `branches` for it, else
                 nothing is gathered
        """
        noise = PerSampleNoise(self.run.seed, "pair")
        noise.see(clean)
        for step, sigma in enumerate(self.run.sigmas[:-1]):
            at = torch.full((len(clean),), sigma, dtype=torch.float32, device=clean.device)
            drawn = self.run.noise * noise.draw(clean.float(), step).to(clean)
            denoise(add_noise(clean, drawn, at, self.run.space), at)
            branches = getattr(self._model, "branches", None)
            if branches is None or branches[1] is None:
                return
            cond, uncond = (_checked(branch.float(), step) for branch in branches)
            over, under = optimal_weight(clean.float(), cond, uncond)
            unit = (signal_level(sigma, self.run.space) / (sigma * self.run.noise)) ** 2 / clean[0].numel()
            error = (clean.float() - cond).flatten(1).square().sum(1)
            for rows, values in zip(self._pairs, (error, -over, under), strict=True):
                rows.add(step, unit * values)

    def gap(self) -> Gap:
        """Return what was gathered."""
        rows = [(before / self._count, after / self._count) for before, after in self._sums]
        before, after = zip(*rows, strict=True) if rows else ((), ())
        return Gap(
            space=self.run.space,
            sigmas=self.run.sigmas,
            count=self._count,
            before=before,
            after=after,
            **self._weights(),
            calls=self._calls // self._runs,
            extra=(self._calls - self._sampler_calls) // self._runs,
        )

    def _weights(self) -> dict[str, tuple]:
        error, both, apart = (rows.values for rows in self._pairs)
        none = (None,) * self.run.steps
        if not len(apart):
            return {"weight": none, "weight_error": none, "weight_loss": ()}
        means = torch.stack([error.mean(0), both.mean(0), apart.mean(0)], 1).tolist()
        weight = tuple(1 - both / apart if apart else None for _, both, apart in means)
        if len(apart) > 1:
            spread = standard_errors(off_quotient(both, apart), len(apart))
            none = tuple(
                error if known is not None else None for error, known in zip(spread, weight, strict=True)
            )
        return {"weight": weight, "weight_error": none, "weight_loss": tuple(map(tuple, means))}

    def _measure(self, step: int, sigma: Tensor, corrected: Tensor, noise: Tensor) -> None:
        raw = self._raw
        assert raw is not None, "no raw answer came through `around`"
        before = self._probe(raw, noise, sigma)
        after = before if torch.equal(raw, corrected) else self._probe(corrected, noise, sigma)
        found = _checked(torch.stack((before, after)), step).tolist()
        self._sums[step] = [total + value for total, value in zip(self._sums[step], found, strict=True)]

    def _probe(self, estimate: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The loss, summed over the batch, the mean over the pair of noises."""
        wide = estimate.float()
        loss = wide.new_zeros(())
        for signed in (noise, -noise):
            at = add_noise(wide, self.run.noise * signed, sigma.to(wide), self.run.space)
            again = self._model(at.to(estimate.dtype), sigma).float()
            loss = loss + residual_loss(wide, again, sigma, self.run.space).sum() / 2 / self.run.noise**2
        return loss


def _checked(values: Tensor, step: int) -> Tensor:
    if not bool(values.isfinite().all()):
        raise SteadyDiffError(
            f"the model's answer at step {step + 1} holds NaN or infinity; nothing was measured"
        )
    return values
