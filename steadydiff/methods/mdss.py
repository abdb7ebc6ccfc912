"""MDSS: multi-step denoising scheduled sampling. Ren, MPhil thesis, chapter 3 and appendix A; AAAI 2024.

A model is trained on states that hold its own error of one step, carried on over k steps of the training
schedule, and taught the noise of the state without that error; a second output ("xi") learns the error in
the state itself, and sampling subtracts it.
`rollout` carries a state on, `targets` makes a training sample, `clean` is the formula of sampling, `MDSS`
the settings. The second output lives in `..networks.xi_head`, training in `..training.mdss`, the file in
`..mdss_files`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, Space, check_same_shape, check_space, per_sample
from .state import StateEditor, StateSettings, input_scale, inside

__all__ = [
    "MDSS",
    "PREDICTIONS",
    "VARIANTS",
    "Level",
    "Sample",
    "XiModel",
    "clean",
    "clean_estimate",
    "network_target",
    "rollout",
    "scheduled_ratio",
    "targets",
    "training_levels",
]

Variant = Literal["posterior", "ddim", "flow"]
"""How errors are carried on: "posterior" by DDPM's posterior mean (the thesis), "ddim" by DDIM's step
(section 3.3.4), "flow" by Euler's on flow models."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)

Branches = Literal["positive", "guided"]
"""Whose second output counts: the positive prompt's alone, or combined as guidance combines the first."""

BRANCHES: tuple[Branches, ...] = get_args(Branches)

Prediction = Literal["eps", "v", "velocity"]
"""What the base model's network answers: noise, v = alpha·eps - sigma·x0, or in flow eps - x0."""

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


class Level(NamedTuple):
    """A noise level as the network knows it: state = alpha·x0 + sigma·eps.

    Shapes:  [B] or []. On VE models alpha = sqrt(abar) and sigma = sqrt(1 - abar); in flow alpha = 1 - sigma.
    """

    alpha: Tensor
    sigma: Tensor


class Sample(NamedTuple):
    """What one training sample consists of, all [B, C, *S] and in the network's input scaling.

    seen: the state with the carried error
    eps:  noise of the state without it
    xi:   the error itself, seen minus the state without it
    """

    seen: Tensor
    eps: Tensor
    xi: Tensor


def training_levels(sigmas: Tensor, space: Space) -> Level:
    """Return the levels of a training schedule from the sampler's sigmas, in float64 on the CPU.

    Shapes:  sigmas [T] from the least noise to the most, and so the result's.
    """
    sigma = sigmas.cpu().double()
    if space == "flow":
        return Level(1 - sigma, sigma)
    scale = (sigma**2 + 1).sqrt()
    return Level(1 / scale, sigma / scale)


def rollout(above: Level, below: Level, variant: Variant) -> tuple[Tensor, Tensor]:
    """Return Gamma and Omega, which carry a state down: x_below = Gamma·x_above + Omega·x0.

    However many steps of the schedule lie between, no loop is needed: their product telescopes.

    Shapes:  [B] or [] in the levels, and so in the result.
    Source:  "posterior": thesis equations 3.9 to 3.11, with alpha = sqrt(abar); the closed form is ours.
             "ddim": section 3.3.4 with equation 2.14, sigma = sqrt(1 - abar). "flow": the same in its levels.
    """
    kept = below.sigma / above.sigma
    if variant != "posterior":
        return kept, below.alpha - kept * above.alpha
    gamma = above.alpha / below.alpha * kept**2
    omega = (below.alpha**2 - above.alpha**2) / (below.alpha * above.sigma**2)
    return gamma, omega


def targets(
    x0: Tensor, eps: Tensor, x0_hat: Tensor, levels: tuple[Level, Level, Level], variant: Variant
) -> Sample:
    """Return what the network sees and should answer after one step of its own and k carried ones.

    x0_hat: the model's clean estimate at the top level, from alpha·x0 + sigma·eps
    levels: t + k + 1 (top), t + k, and t; the latter two are one for k = 0, which is SDSS

    Shapes:  x0, eps, x0_hat [B, C, *S]; [B] or [] in the levels, best in float64, on any device.
    Source:  thesis algorithm 7. Its lines 6 and 7 are rollouts of one step, with x0_hat and with x0, so that
             the states of lines 9 and 10 differ by Gamma·Omega_1·(x0_hat - x0); and two rollouts in a row are
             one, which gives eps_t as a multiple of eps: sqrt(SNR_top / SNR_t) < 1 in "posterior", 1
             otherwise.
    """
    check_same_shape(x0, x0_hat)
    top, above, now = levels
    _, step = rollout(top, above, variant)
    gamma, _ = rollout(above, now, variant)
    whole, rest = rollout(top, now, variant)
    x = _times(whole * top.alpha + rest, x0) + _times(whole * top.sigma, eps)
    xi = _times(gamma * step, x0_hat - x0)
    return Sample(x + xi, _times(whole * top.sigma / now.sigma, eps), xi)


def _times(coefficient: Tensor, x: Tensor) -> Tensor:
    """Multiply per sample; coefficients are worked out in float64, samples keep their dtype."""
    return per_sample(coefficient.to(x), x) * x


def network_target(sample: Sample, x0: Tensor, level: Level, prediction: Prediction) -> Tensor:
    """Return what the network should answer, in its own terms, at the state it sees.

    A sampler goes on from the state with xi taken away along the network's output there: eps on VE models,
    the velocity in flow. For "v" that is the v from which eps follows *at the state seen*, error and all.

    Shapes:  x0, result [B, C, *S]; [B] or [] in `level`.
    Source:  thesis equation 3.4 for "eps"; "v" solves eps = alpha·v + sigma·seen for v; both derived by us.
    """
    if prediction == "eps":
        return sample.eps
    if prediction == "velocity":
        return sample.eps - x0
    alpha, sigma = level
    return _times(alpha, sample.eps) - _times(sigma, x0) - _times(sigma / alpha, sample.xi)


def clean_estimate(x: Tensor, output: Tensor, level: Level, prediction: Prediction) -> Tensor:
    """Return the clean estimate that a network's output at x means.

    Shapes:  x, answer, result [B, C, *S], x in the network's input scaling; [B] or [] in `level`.
    """
    alpha, sigma = level
    if prediction == "eps":
        return _times(1 / alpha, x) - _times(sigma / alpha, output)
    if prediction == "velocity":
        return x - _times(sigma, output)
    return _times(alpha, x) - _times(sigma, output)


def scheduled_ratio(step: int, total: int) -> float:
    """Return the share of a step's samples that carry errors: min(0.9, 0.1 + step / total), thesis A.2."""
    return min(0.9, 0.1 + step / total)


def clean(x: Tensor, denoised: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Take an error off the state and off the clean estimate, which keeps the network's output.

    (x - denoised) / sigma is eps on VE models and the velocity in flow, and stays what it was.

    Shapes:  all [B, C, *S], in the sampler's units.
    Source:  thesis section 3.2.1, "the input signal is denoised by subtracting the output of the denoising
             channel"; that eps of the same pass is kept is our reading.
    """
    return (x - error).to(x.dtype), (denoised - error).to(denoised.dtype)


@dataclass(frozen=True)
class XiModel:
    """A model's second output and what must be known of it to apply it.

    xi:          (x [B, C, *S], sigma [B]) -> the error in x in the network's input scaling. Called right
                 after the base model with the same state, so that it can be kept from that pass
    space:       of the base model
    sigma_data:  the base model's, for its input scaling in "ve"
    sigma_range: lowest and highest noise level it was trained at; it is not called outside
    """

    xi: Callable[[Tensor, Tensor], Tensor]
    space: Space
    sigma_data: float = 1.0
    sigma_range: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self) -> None:
        check_space(self.space)


@dataclass(frozen=True)
class MDSS(StateSettings):
    """Subtract the second output from the sampler's state and from the clean estimate, after every call.

    model:      the second output of a model trained by MDSS
    strength:   what is subtracted is multiplied by this; 0 changes nothing, 1 is the thesis
    sigma_high: noise level from which on (downwards) it acts, and
    sigma_low:  down to which, both included

    Neutral: strength 0 or equal bounds; `wrap` then returns the denoiser itself.

    It rectifies the sampler's own state: the wrapped denoiser writes into x. What was learnt
    about the noise itself lies in the model's weights and acts without this.
    """

    title: ClassVar[str] = "MDSS"
    what: ClassVar[str] = "MDSS head"
    order: ClassVar[int] = 3

    model: XiModel
    strength: float = 1.0
    sigma_high: float = math.inf
    sigma_low: float = 0.0

    def masked(self, mask: Tensor) -> MDSS:
        """Return a copy that corrects a state as far as `mask` says."""
        whole = self.model.xi
        return replace(self, model=replace(self.model, xi=lambda x, sigma: whole(x, sigma) * mask))

    def wrap(self, denoise: Denoise, run: Run) -> Denoise:
        """Return a denoiser that calls the model, then cleans the state in place; called once per run.

        Raises:  SettingsError if the second output was trained on a model of the other space.
        """
        if self.is_off:
            return denoise
        self.check(run.space)
        return Cleaned(self, denoise)


class Cleaned(StateEditor):
    """One run's wrapped denoiser."""

    def __init__(self, method: MDSS, denoise: Denoise) -> None:
        super().__init__(denoise)
        self._method, self._due = method, False

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self._due = self._is_new(x, sigma) and bool(self._gain(sigma).any())
        denoised = self._denoise(x, sigma)
        self._calls += 1
        if not self._due:
            return denoised
        state, denoised = clean(x, denoised, self.error(x, sigma))
        x.copy_(state)
        self._note(x, sigma)
        return denoised

    def error(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What this call subtracts, in the sampler's units; known as soon as the network has been called."""
        if not self._due:
            return torch.zeros_like(x)
        model = self._method.model
        scale = self._gain(sigma) * input_scale(sigma, model.space, model.sigma_data)
        return per_sample(scale, x) * model.xi(x, sigma)

    def _gain(self, sigma: Tensor) -> Tensor:
        method = self._method
        bounds = (method.sigma_low, method.sigma_high), method.model.sigma_range
        return method.strength * inside(sigma, *bounds)

    def __str__(self) -> str:
        """For a host's log."""
        return f"cleaned the state after {self.applied} of {self._calls} model calls"
