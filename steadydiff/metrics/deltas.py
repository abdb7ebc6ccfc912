"""Variance errors of the sampling distribution: δ, single-step Δ, and the marginal error.

All take `RunningMoments` of what they compare and the noise level; alpha is 1 in space "ve", 1 - sigma in
"flow". In the paper's own units (VP), divide a "ve" result by 1 + sigma².
"""

from __future__ import annotations

from torch import Tensor

from ..denoiser import Space, eps_from_denoised, per_sample, signal_level
from .running import RunningMoments


def residual(x: Tensor, clean: Tensor, sigma: Tensor | float, space: Space = "ve") -> Tensor:
    """What a state holds beside its clean sample: x - alpha * clean.

    Shapes:  x, clean, result [B, C, *S]; sigma a number or [B].
    """
    return x - signal_level(per_sample(sigma, x), space) * clean


def delta_paper(residuals: RunningMoments, sigma: float) -> float:
    """δ = Var(x - alpha * x0) - sigma², the variance over samples and elements together.

    residuals: of the states of a whole run, each against the clean sample its first state was noised from
    Source:    Ning et al., 2023, arXiv 2308.15321, equation 19, algorithms 1 and 3, in the units of x.

    Caveat: a run that starts in all but pure noise forgets which x0 it came from, so that near the end the
    residual is the difference of two unrelated samples and δ tends to 2·Var(x0), for a perfect sampler too.
    Compare settings by it, do not read it as an error; `marginal_error` has no such pairing.
    """
    return residuals.pooled_variance - sigma**2


def delta_code(residuals: RunningMoments, sigma: float) -> float:
    """The square (s - sigma)², s the standard deviation over samples, averaged over elements.

    residuals: as for `delta_paper`
    Source:    what the authors' own measuring code plots as δ (ADM-ES, branch
               x_t_distribution_consecutive_sampling); not the formula they print. It has no sign. The caveat
               of `delta_paper` holds.
    """
    return float((residuals.variance.sqrt().mean() - sigma).square())


def single_step_error(residuals: RunningMoments, sigma: float) -> float:
    """Δ = Var(x - alpha * x0) - sigma² for states one step away from the truth.

    residuals: of states that `one_step` made from truly noised samples, against their own clean samples
    Source:    Ning et al., 2023, arXiv 2308.15321, algorithm 2. One step forgets nothing, so this one
               needs no caveat.
    """
    return residuals.pooled_variance - sigma**2


def predicted_step_error(error: float, sigma: float, sigma_next: float, space: Space = "ve") -> float:
    """Δ of one ancestral step whose clean estimate is off by white noise of standard deviation `error`.

    error:  e, root mean square of the clean estimate's error at `sigma`
    Source: Ning et al., 2023, arXiv 2308.15321, equations 14 to 18. They take the error for independent of
            the noise in the state, which that of a good model is not: its true Δ is larger.
    """
    return (_clean_share(sigma, sigma_next, space) * error) ** 2


def per_vp(sigma: float, space: Space = "ve") -> float:
    """Return what turns a variance in the units of x into the paper's, of states alpha² + sigma² = 1."""
    return 1 / (float(signal_level(sigma, space)) ** 2 + sigma**2)


def marginal_error(states: RunningMoments, clean: RunningMoments, sigma: float, space: Space = "ve") -> float:
    """Var(x) - (alpha² Var(x0) + sigma²), the mean over elements; 0 for a perfect sampler, at every step.

    states: of the sampler's states at `sigma`
    clean:  of clean samples, which need not belong to the states
    Source: the variance of x = alpha * x0 + sigma * eps; ours, to do without the paper's pairing.
    """
    return float(states.variance.mean()) - marginal_variance(float(clean.variance.mean()), sigma, space)


def marginal_variance(clean_variance: float, sigma: float, space: Space = "ve", noise: float = 1.0) -> float:
    """Variance that noised clean samples have: alpha² Var(x0) + sigma² noise² for noise of that deviation."""
    return float(signal_level(sigma, space)) ** 2 * clean_variance + (sigma * noise) ** 2


def one_step(
    x: Tensor,
    denoised: Tensor,
    sigma: float,
    sigma_next: float,
    space: Space = "ve",
    noise: Tensor | None = None,
) -> Tensor:
    """One step from `sigma` to `sigma_next`: DDIM, or with `noise` the ancestral (DDPM) step of the paper.

    Shapes:  x, denoised, noise, result [B, C, *S].
    Source:  DDIM with eta 0: x' = alpha' x0 + sigma' eps. DDPM: the posterior q(x' | x, x0), whose fresh
             noise has variance sigma'² (1 - r²), r = (alpha / sigma) / (alpha' / sigma'), ' the next level.
    """
    eps = eps_from_denoised(x, denoised, sigma, space)
    alpha_next = float(signal_level(sigma_next, space))
    if noise is None:
        return alpha_next * denoised + sigma_next * eps
    fresh = sigma_next * max(_new_share(sigma, sigma_next, space), 0.0) ** 0.5
    return alpha_next * denoised + (sigma_next**2 - fresh**2) ** 0.5 * eps + fresh * noise


def _new_share(sigma: float, sigma_next: float, space: Space) -> float:
    """1 - r², r the quotient of the levels' signal-to-noise ratios: what an ancestral step draws anew."""
    alpha, alpha_next = float(signal_level(sigma, space)), float(signal_level(sigma_next, space))
    return 1 - (alpha * sigma_next / (sigma * alpha_next)) ** 2


def _clean_share(sigma: float, sigma_next: float, space: Space) -> float:
    """The weight of x0 in an ancestral step's mean, in the paper's units sqrt(abar') beta / (1 - abar)."""
    return float(signal_level(sigma_next, space)) * _new_share(sigma, sigma_next, space)
