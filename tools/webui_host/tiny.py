"""The tiny model: a Gaussian denoiser with a small random network's unrest, the same on every host.

Its answer depends on the state, the noise level and the prompt, so guidance, schedules and two-stage samplers
all show; a run of five steps takes a tenth of a second. The last layers are called `out`, as a real UNet's.
"""

import zlib

import torch

WIDTH = 8
"""Channels of the features and of the prompt's vectors."""


def alphas_cumprod() -> torch.Tensor:
    """SD1's noise schedule, in double precision."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def encode_prompts(prompts) -> torch.Tensor:
    """[B, 77, WIDTH]: numbers drawn from the text itself; no text encoder is needed."""
    rows = []
    for prompt in prompts:
        generator = torch.Generator().manual_seed(zlib.crc32(str(prompt).encode()))
        rows.append(torch.randn((77, WIDTH), generator=generator))
    return torch.stack(rows)


def decode(latent: torch.Tensor) -> torch.Tensor:
    """[B, 4, h, w] to pictures [B, 3, 8h, 8w] in [-1, 1]."""
    small = torch.tanh(latent[:, :3].float() * 0.7 + latent[:, 3:].float() * 0.2)
    return small.repeat_interleave(8, -1).repeat_interleave(8, -2)


def encode(picture: torch.Tensor) -> torch.Tensor:
    """Pictures [B, 3, H, W] in [-1, 1] to latents [B, 4, H/8, W/8]."""
    small = torch.nn.functional.avg_pool2d(picture.float(), 8)
    return torch.cat([small, small.mean(1, keepdim=True)], dim=1)


class TinyNetwork(torch.nn.Module):
    """Predicts noise from the network's input x/sqrt(1+sigma^2), the time step and the prompt."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.inside = torch.nn.Conv2d(4, WIDTH, 3, padding=1)
        self.out = torch.nn.Sequential(
            torch.nn.GroupNorm(2, WIDTH), torch.nn.SiLU(), torch.nn.Conv2d(WIDTH, 4, 3, padding=1)
        )
        generator = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5
            weight.requires_grad_(False)
        self.register_buffer("log_sigmas", ((1 - alphas_cumprod()) / alphas_cumprod()).sqrt().log().float())

    def forward(self, x, timesteps, context, **_):
        sigma = self.sigma(timesteps.float()).view(-1, 1, 1, 1)
        state = x * (sigma**2 + 1).sqrt()
        prompt = context.float().mean(1)  # [B, WIDTH]
        mean, spread = prompt[:, :4, None, None] * 4, 0.25
        eps = (state - mean) * sigma / (sigma**2 + spread)  # of data N(mean, spread)
        return eps + 0.1 * self.out(self.inside(x) + prompt[:, :, None, None])

    def sigma(self, t):
        """The noise level at time step `t`, which need not be whole."""
        low = t.floor().long().clamp(0, 999)
        high = (low + 1).clamp(max=999)
        return torch.lerp(self.log_sigmas[low], self.log_sigmas[high], t - low).exp()
