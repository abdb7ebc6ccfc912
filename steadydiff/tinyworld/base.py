"""The tiny world as a base model for trainings: its latents, captions and noise levels, without a host."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..training.antibias import UNCONDITIONAL, Base, karras_levels
from . import files, sampling
from .text import tokenize
from .train import cache_latents


def load_base(variant: str, work: Path, steps: tuple[int, ...], device: torch.device) -> Base:
    """Return a shipped variant on a device with its training data, cached in `work`.

    steps: numbers of steps of the schedules: the variant's own ("normal" or "simple") and, where sigma spans
           orders of magnitude, Karras' as well
    """
    unet, text = (network.to(device) for network in files.load_diffusion(variant))
    latents = work / "latents.safetensors"
    if not latents.exists():
        cache_latents(work, files.load_autoencoder())
    data, empty = load_file(latents), tokenize([""])

    def draw(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        count, captions = data["tokens"].shape[:2]
        index, which = (torch.randint(most, (n,), generator=rng) for most in (count, captions))
        dropped = torch.rand(n, 1, generator=rng) < UNCONDITIONAL
        tokens = torch.where(dropped, empty, data["tokens"][index, which].long())
        return data["latents"][index].float(), tokens

    def denoise(x: Tensor, sigma: Tensor, tokens: Tensor) -> Tensor:
        context = text(tokens.to(device))
        return sampling.denoiser(variant, unet, context, context, cfg=1)(x, sigma)

    own = [sampling.sigmas(variant, n) for n in steps]
    if variant == "epsilon":
        own += [karras_levels(n, own[0][-2], own[0][0]) for n in steps]
    return Base(sampling.run_of(variant, 1).space, tuple(own), draw, denoise)


def sha256(variant: str) -> str:
    """The digest of a shipped variant's file."""
    return hashlib.sha256((files.FOLDER / f"{variant}.safetensors").read_bytes()).hexdigest()
