"""How good the tiny world is: autoencoder, attribute reader, and both diffusion models over their training.

512 prompts of held-out scenes, 20 Euler steps, CFG 4, batches of 64. Pictures are judged by the reader; the
Fréchet distance is between its features of them and of as many real drawings: so few that real drawings are
no small distance from each other, as the first cell shows. Cells "epsilon@STEP" need the averages that
`run.py train tinyworld` keeps along the way in output/tinyworld.
"""

import hashlib
import os
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from steadydiff.metrics.frechet import frechet_distance, moments
from steadydiff.samplers import sample_euler
from steadydiff.tinyworld import files, sampling
from steadydiff.tinyworld.autoencoder import Autoencoder
from steadydiff.tinyworld.reader import IGNORED, attributes, found
from steadydiff.tinyworld.scenes import caption, render, sample_scenes
from steadydiff.tinyworld.text import TextEncoder
from steadydiff.tinyworld.train import HELD_OUT, SCALE_FACTOR
from steadydiff.tinyworld.unet import UNet
from tools.bench.shared.frame import Bench

STEPS, CFG, BATCH = 20, 4.0, 64
WORK = Path(os.environ.get("STEADYDIFF_TINYWORLD_WORK", "output/tinyworld"))


@torch.no_grad()
def drawings(n: int) -> dict:
    """The ceiling: what the reader makes of real drawings, and how far n of them lie from n others."""
    scenes = sample_scenes(HELD_OUT + 2, n)
    return judged(render(scenes), attributes(scenes))


@torch.no_grad()
def autoencoder(n: int) -> dict:
    """The same drawings encoded and decoded; psnr_db is the mean over pictures of dB."""
    scenes, model = sample_scenes(HELD_OUT + 2, n), files.load_autoencoder()
    pictures = render(scenes)
    decoded = torch.cat([_decode(model, model.encode(x * 2 - 1)[0]) for x in pictures.split(BATCH)])
    error = (decoded - pictures).square().mean((1, 2, 3))
    return {"psnr_db": float(-10 * error.log10().mean()), **judged(decoded, attributes(scenes))}


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
        pictures.append(_decode(autoencoder, x / SCALE_FACTOR))
    return judged(torch.cat(pictures), attributes(scenes))


def judged(drawn: torch.Tensor, requested: dict[str, torch.Tensor]) -> dict:
    """Shares of pictures in which the reader finds what was wanted, and the distance from real drawings."""
    judge = files.load_reader()
    read = judge.read(drawn)
    features = [judge.features(x) for x in (drawn, render(sample_scenes(HELD_OUT + 3, len(drawn))))]
    distance = frechet_distance(*moments(features[0]), *moments(features[1]))
    shares = {name: _share(read[name], requested[name]) for name in requested}
    return {"found": float(found(read, requested).float().mean()), "frechet": distance, **shares}


def _decode(model: Autoencoder, latents: torch.Tensor) -> torch.Tensor:
    """Pictures in 0..1."""
    return (model.decode(latents).clamp(-1, 1) + 1) / 2


def _share(read: torch.Tensor, requested: torch.Tensor) -> float:
    return float((read == requested)[requested != IGNORED].float().mean())


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
    bench.cell("real drawings", lambda: drawings(n))
    bench.cell("autoencoded", lambda: autoencoder(n))
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
