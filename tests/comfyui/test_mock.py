"""The samplers of our mock host against the real host's, on an exact denoiser and the same noise."""

from types import SimpleNamespace

import pytest
import torch

from steadydiff.denoiser import Run
from steadydiff.samplers import (
    gaussian_denoiser,
    sample_ddpm,
    sample_dpmpp_2m,
    sample_euler,
    sample_heun,
)
from tools.launch.inprocess import load

OURS = {
    **{"euler": sample_euler, "heun": sample_heun, "dpmpp_2m": sample_dpmpp_2m},
    "euler_ancestral": sample_ddpm,
}


# Without ancestral flow runs, which the host noises by another rule, see `sample_ddpm`.
CASES = [
    (name, space) for name in OURS for space in ("ve", "flow") if (name, space) != ("euler_ancestral", "flow")
]


@pytest.mark.parametrize(("name", "space"), CASES)
def test_our_samplers_are_the_hosts(host, name, space):
    theirs = getattr(load("comfy.k_diffusion.sampling"), f"sample_{name}")
    denoise = gaussian_denoiser(0.3, 0.6, space)
    run = Run(space, (10.0, 4.0, 2.0, 0.7, 0.1, 0.0) if space == "ve" else (0.98, 0.8, 0.5, 0.3, 0.05, 0.0))
    x = run.sigmas[0] * torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    network = SimpleNamespace(model_sampling=None)

    class Model:
        inner_model = SimpleNamespace(inner_model=network)

        def __call__(self, x, sigma, **more):
            return denoise(x, sigma)

    more = {"noise_sampler": lambda a, b: torch.randn_like(x)} if name == "euler_ancestral" else {}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = theirs(Model(), x.clone(), torch.tensor(run.sigmas), disable=True, **more)
        torch.manual_seed(7)
        ours = OURS[name](denoise, x.clone(), run.sigmas)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
