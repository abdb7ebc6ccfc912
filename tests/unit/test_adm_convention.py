"""The authors' convention: DDPM sampling in VP units with λ_t = k·t + b, written out from the equations."""

import pytest
import torch

from steadydiff.denoiser import Run
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.metrics.deltas import one_step

STEPS = 20


def respaced():
    """abar at 20 of 1000 timesteps of the linear schedule, quietest first, as the respaced process has it."""
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    return abar[torch.linspace(0, 999, STEPS).round().long()]


def network(x, t):
    """Any function of a VP state and a step will do."""
    return torch.tanh(1.3 * x) + 0.01 * t


@pytest.mark.parametrize(("k", "b"), [(0.0008, 1.0034), (0.0025, 1.0), (0.0, 1.017), (-0.001, 1.0)])
def test_every_step_equals_equation_20(k, b):
    abar = respaced()
    sigmas = ((1 - abar) / abar).sqrt().flip(0).tolist()
    run = Run("ve", (*sigmas, 0.0))
    noise = torch.randn(STEPS + 1, 2, 3, 4, 4, dtype=torch.float64)
    step_of = {sigma: STEPS - 1 - i for i, sigma in enumerate(sigmas)}

    def denoise(x, sigma):
        t = step_of[min(step_of, key=lambda level: abs(level - sigma[0].item()))]
        vp = x * abar[t].sqrt()
        return (vp - (1 - abar[t]).sqrt() * network(vp, t)) / abar[t].sqrt()

    ours = EpsilonScaling(b, k).wrap(denoise, run)
    theirs = noise[-1]  # x_T
    x = theirs / abar[-1].sqrt()
    for t in range(STEPS - 1, -1, -1):
        before = abar[t - 1] if t else torch.tensor(1.0).double()
        alpha = abar[t] / before
        beta, spread = 1 - alpha, (1 - before) / (1 - abar[t]) * (1 - alpha)
        scale = k * t + b  # equation 22
        mean = (
            theirs - beta / (1 - abar[t]).sqrt() * network(theirs, t) / scale
        ) / alpha.sqrt()  # equation 20
        theirs = mean + spread.sqrt() * noise[t]

        sigma, after = run.sigmas[STEPS - 1 - t], run.sigmas[STEPS - t]
        denoised = ours(x, torch.tensor([sigma] * 2))
        x = one_step(x, denoised, sigma, after, "ve", noise[t])
        torch.testing.assert_close(x * before.sqrt(), theirs, rtol=2e-6, atol=2e-6)
