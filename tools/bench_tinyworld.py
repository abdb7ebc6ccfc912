"""How good the tiny world is: autoencoder, attribute reader, and both diffusion models over their training.

512 prompts of held-out scenes, 20 Euler steps, CFG 4, batches of 64. Pictures are judged by the reader; the
Fréchet distance is between its features of them and of as many real drawings. Cells "epsilon@STEP" need the
averages that `run.py train tinyworld` keeps along the way (in output/tinyworld).
"""

import hashlib
import os
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from steadydiff.hosts.mock import sample_euler
from steadydiff.metrics.frechet import frechet_distance, moments
from steadydiff.tinyworld import files, sampling
from steadydiff.tinyworld.reader import IGNORED, attributes, found
from steadydiff.tinyworld.scenes import caption, render, sample_scenes
from steadydiff.tinyworld.text import TextEncoder
from steadydiff.tinyworld.train import HELD_OUT, SCALE_FACTOR
from steadydiff.tinyworld.unet import UNet
from tools.bench import Bench

STEPS, CFG, BATCH = 20, 4.0, 64
WORK = Path(os.environ.get("STEADYDIFF_TINYWORLD_WORK", "output/tinyworld"))


@torch.no_grad()
def autoencoder(n: int) -> dict:
    """Peak signal-to-noise ratio of held-out drawings, mean over pictures of dB."""
    model, pictures = files.load_autoencoder(), render(sample_scenes(HELD_OUT, n))
    decoded = torch.cat([model.decode(model.encode(x * 2 - 1)[0]) for x in pictures.split(BATCH)])
    error = ((decoded.clamp(-1, 1) + 1) / 2 - pictures).square().mean((1, 2, 3))
    return {"psnr_db": float(-10 * error.log10().mean())}


@torch.no_grad()
def reader(n: int) -> dict:
    """Share of right answers on held-out drawings."""
    scenes = sample_scenes(HELD_OUT + 1, n)
    read = _read(render(scenes))
    return {name: _share(read[name], asked) for name, asked in attributes(scenes).items()}


@torch.no_grad()
def diffusion(variant: str, unet: UNet, text: TextEncoder, n: int) -> dict:
    """What the reader finds in pictures of n held-out prompts."""
    scenes, autoencoder = sample_scenes(HELD_OUT + 2, n), files.load_autoencoder()
    prompts = [caption(scenes, i) for i in range(n)]
    run, rng, pictures = sampling.run_of(variant, STEPS), torch.Generator().manual_seed(0), []
    for start in range(0, n, BATCH):
        context, uncond = sampling.embed(text, prompts[start : start + BATCH])
        x = sampling.first_state(variant, torch.randn(len(context), 4, 8, 8, generator=rng), run.sigmas[0])
        x = sample_euler(sampling.denoiser(variant, unet, context, uncond, CFG), x, run.sigmas)
        pictures.append((autoencoder.decode(x / SCALE_FACTOR).clamp(-1, 1) + 1) / 2)
    drawn, asked = torch.cat(pictures), attributes(scenes)
    read, judge = _read(drawn), files.load_reader()
    real = render(sample_scenes(HELD_OUT + 3, n))
    distance = frechet_distance(*moments(judge.features(drawn)), *moments(judge.features(real)))
    shares = {name: _share(read[name], asked[name]) for name in asked}
    return {"found": float(found(read, asked).float().mean()), "frechet": distance, **shares}


def _read(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    judge = files.load_reader()
    parts = [judge.read(x) for x in pictures.split(BATCH)]
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def _share(read: torch.Tensor, asked: torch.Tensor) -> float:
    return float((read == asked)[asked != IGNORED].float().mean())


def _kept(variant: str, state: Path) -> tuple[UNet, TextEncoder]:
    """A model as it was along its training."""
    stored, unet, text = load_file(state), UNet(), TextEncoder()
    unet.load_state_dict(files.part(stored, "unet."))
    text.load_state_dict(files.part(stored, "text."))
    return unet.eval(), text.eval()


def main() -> int:
    weights = b"".join(
        (files.FOLDER / f"{n}.safetensors").read_bytes() for n in (*files.VARIANTS, "vae", "reader")
    )
    facts = {"weights": hashlib.sha256(weights).hexdigest()[:12], "steps": STEPS, "cfg": CFG, "prompts": 512}
    bench = Bench("tinyworld", facts)
    n = 128 if bench.quick else 512
    bench.cell("autoencoder", lambda: autoencoder(n))
    bench.cell("reader", lambda: reader(4 * n))
    for variant in files.VARIANTS:
        bench.cell(variant, lambda v=variant: diffusion(v, *files.load_diffusion(v), n))
        states = {int(re.findall(r"-(\d+)$", p.stem)[0]): p for p in WORK.glob(f"{variant}-*.safetensors")}
        for step, state in sorted(states.items()):
            bench.cell(
                f"{variant}@{step}", lambda v=variant, s=state: diffusion(v, *_kept(v, s), n), quick=False
            )
    return bench.run()


if __name__ == "__main__":
    sys.exit(main())
