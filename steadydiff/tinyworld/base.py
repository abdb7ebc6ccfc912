"""The tiny world as a base model for trainings: its latents, captions and noise levels, without a host."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..training.antibias import UNCONDITIONAL, AntiBiasBase, karras_levels, split_off
from . import files, sampling
from .text import tokenize
from .train import cache_latents


def load_base(variant: str, work: Path, steps: tuple[int, ...], device: torch.device) -> AntiBiasBase:
    """Return a shipped variant on a device with its training data, cached in `work`.

    steps: numbers of steps of the schedules: the variant's own ("normal" or "simple") and, where sigma spans
           orders of magnitude, Karras' as well
    """
    unet, text = (network.to(device) for network in files.load_diffusion(variant))
    latents = work / "latents.safetensors"
    if not latents.exists():
        cache_latents(work, files.load_autoencoder())
    data, empty = load_file(latents), tokenize([""])
    count, captions = data["tokens"].shape[:2]
    trained, kept = split_off(count)

    def draw(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return these(trained[torch.randint(len(trained), (n,), generator=rng)], rng)

    def these(rows: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        which = torch.randint(captions, (len(rows),), generator=rng)
        dropped = torch.rand(len(rows), 1, generator=rng) < UNCONDITIONAL
        tokens = torch.where(dropped, empty, data["tokens"][rows, which].long())
        return data["latents"][rows].float(), tokens

    def denoise(x: Tensor, sigma: Tensor, tokens: Tensor) -> Tensor:
        context = text(tokens.to(device))
        return sampling.denoiser(variant, unet, context, context, cfg=1)(x, sigma)

    own = [sampling.sigmas(variant, n) for n in steps]
    if variant == "epsilon":
        own += [karras_levels(n, own[0][-2], own[0][0]) for n in steps]
    held_out = len(kept), lambda places, rng: these(kept[places], rng)
    return AntiBiasBase(sampling.run_of(variant, 1).space, tuple(own), draw, denoise, held_out=held_out)


def sha256(variant: str) -> str:
    """The digest of a shipped variant's file."""
    return hashlib.sha256((files.FOLDER / f"{variant}.safetensors").read_bytes()).hexdigest()
