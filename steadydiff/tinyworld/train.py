"""Train the tiny world: `python3 run.py train tinyworld [STAGE ...]`, in this order, each stage resumable.

autoencoder  encoder and decoder together
latents      a cache of encoded drawings with their captions
epsilon      noise-predicting UNet and its text encoder        flow  the flow-matching twin
decoder      the decoder alone, longer, on the frozen encoder  reader  the judge of attributes
export       writes models/tinyworld/ from all of them; `python3 run.py bench tinyworld` then measures it
clip         a tiny CLIP of drawings and of what the exported autoencoder makes of them; writes itself
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import SteadyDiffError
from ..files.atomic import atomic_write, check_writable
from ..training.loop import Plan, average, fit, steps_of, stratified
from . import files
from .autoencoder import Autoencoder
from .clip import Trainee, partial_caption
from .reader import Reader, answers_loss, attributes
from .sampling import Levels, alphas_cumprod
from .scenes import SIZE_PX, Scenes, caption, render, sample_scenes
from .text import MAX_TOKENS, TextEncoder, tokenize
from .unet import UNet

log = logging.getLogger("steadydiff")

PLANS = {
    "autoencoder": Plan(steps=3200, lr=1.5e-3, decay=0.3, ema=0.995),
    "epsilon": Plan(steps=12000, lr=8e-4, ema=0.9995, seed=1, keep_every=1000),
    "flow": Plan(steps=9000, lr=8e-4, ema=0.9995, seed=2, keep_every=1000),
    "decoder": Plan(steps=4000, lr=8e-4, decay=0.6, ema=0.998, seed=3),
    "reader": Plan(steps=3000, lr=2e-3, decay=0.6, ema=0.995, seed=4),
    "clip": Plan(steps=3000, lr=2e-3, decay=0.7, ema=0.995, seed=5),
}
KL_WEIGHT = 3e-3  #       against the squared error, per pixel value: small, but the latents stay smooth
SCALE_FACTOR = 0.18215  # SD1's: the diffusion models see latents times this, with unit variance
LATENTS = 49_152
READER_POOL = 24_576
CLIP_POOL = 4096
BATCH = {"autoencoder": 8, "diffusion": 32, "reader": 64, "clip": 64}
# Seeds of the data sets, far from the steps' own; held-out drawings (benches, tests) start at HELD_OUT.
LATENT_SEED, READER_SEED, CLIP_SEED, HELD_OUT = 10**8, 2 * 10**8, 25 * 10**7, 3 * 10**8


def pictures(seed: int, n: int) -> Tensor:
    """n training pictures [n, 3, 64, 64] in -1..1."""
    return render(sample_scenes(seed, n)) * 2 - 1


def keep(tensors: dict[str, Tensor], path: Path) -> None:
    with atomic_write(path) as draft:
        save_file(tensors, draft)


# --- autoencoder ------------------------------------------------------------------------------------------


def train_autoencoder(work: Path) -> None:
    torch.manual_seed(PLANS["autoencoder"].seed)
    model = Autoencoder()

    def loss(rng: torch.Generator, seed: int) -> Tensor:
        x = pictures(seed, BATCH["autoencoder"])
        mean, logvar = model.encode(x)
        z = mean + torch.exp(logvar / 2) * torch.randn(mean.shape, generator=rng)
        kl = (mean.square() + logvar.exp() - 1 - logvar).sum() / 2 / x.numel()
        return (model.decode(z) - x).square().mean() + KL_WEIGHT * kl

    trained = fit(model, loss, PLANS["autoencoder"], work / "autoencoder.safetensors")
    with torch.no_grad():
        z = torch.cat([trained.encode(pictures(LATENT_SEED - 1 - i, 256))[0] for i in range(8)])
        trained.normalise(z.mean((0, 2, 3)), 1 / (SCALE_FACTOR * z.std((0, 2, 3))))
    keep(trained.state_dict(), work / "vae.safetensors")


def frozen_autoencoder(work: Path) -> Autoencoder:
    model = Autoencoder()
    model.load_state_dict(load_file(work / "vae.safetensors"))
    return model.eval().requires_grad_(False)


def train_decoder(work: Path) -> None:
    model = frozen_autoencoder(work)
    decoder = nn.ModuleDict(
        {"decoder": model.decoder, "post_quant_conv": model.post_quant_conv}
    ).requires_grad_(True)

    def loss(rng: torch.Generator, seed: int) -> Tensor:
        x = pictures(seed, BATCH["autoencoder"])
        with torch.no_grad():
            mean, logvar = model.encode(x)
        z = mean + torch.exp(logvar / 2) * torch.randn(mean.shape, generator=rng)
        return (model.decode(z) - x).square().mean()

    trained = fit(decoder, loss, PLANS["decoder"], work / "decoder.safetensors")
    keep(model.state_dict() | trained.state_dict(), work / "vae_final.safetensors")


# --- diffusion models -------------------------------------------------------------------------------------


@torch.no_grad()
def cache_latents(work: Path, model: Autoencoder | None = None) -> None:
    """Latents [N, 4, 8, 8] of drawings (times SCALE_FACTOR, fp16); four captions each, tokens [N, 4, 24]."""
    model, latents, tokens, chunk = model or frozen_autoencoder(work), [], [], 256
    for start in range(0, LATENTS, chunk):
        scenes = sample_scenes(LATENT_SEED + start, chunk)
        latents.append((model.encode(render(scenes) * 2 - 1)[0] * SCALE_FACTOR).half())
        rng = np.random.default_rng(LATENT_SEED + start)
        texts = [caption(scenes, i, rng) for i in range(chunk) for _ in range(4)]
        tokens.append(tokenize(texts).view(chunk, 4, MAX_TOKENS).to(torch.uint8))
        if start % 8192 == 0:
            log.info("latents %d/%d", start, LATENTS)
    keep({"latents": torch.cat(latents), "tokens": torch.cat(tokens)}, work / "latents.safetensors")


class Diffusion(nn.Module):
    """A UNet with the text encoder that is trained with it."""

    def __init__(self):
        super().__init__()
        self.unet, self.text = UNet(), TextEncoder()

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        return self.unet(x, t, self.text(tokens))


def noised(
    variant: str, x0: Tensor, eps: Tensor, u: Tensor, levels: Levels = alphas_cumprod
) -> tuple[Tensor, Tensor, Tensor]:
    """Network input, timestep in 0..1000 and target for uniform draws u [B] in 0..1."""
    if variant == "epsilon":
        t = (u * 1000).long().clamp(max=999)
        abar = levels()[t].float()[:, None, None, None]
        return abar.sqrt() * x0 + (1 - abar).sqrt() * eps, t, eps
    sigma = u[:, None, None, None]
    return (1 - sigma) * x0 + sigma * eps, u * 1000, eps - x0


def train_diffusion(variant: str, work: Path, shipped: bool = False, steps: int | None = None) -> None:
    """Train up to so many steps, the plan's unless given; with `shipped` from what the repository ships."""
    data = load_file(work / "latents.safetensors")
    torch.manual_seed(PLANS[variant].seed)
    model, empty, n, start = Diffusion(), tokenize([""]), BATCH["diffusion"], 0
    if shipped:
        unet, text = files.load_diffusion(variant)
        model.unet, model.text = unet.train().requires_grad_(True), text.train().requires_grad_(True)
        start = files.header(variant)["steps"]

    def loss(rng: torch.Generator, seed: int) -> Tensor:
        del seed
        index, which = torch.randint(LATENTS, (n,), generator=rng), torch.randint(4, (n,), generator=rng)
        tokens = data["tokens"][index, which].long()
        tokens = torch.where(
            torch.rand(n, 1, generator=rng) < 0.1, empty, tokens
        )  # for classifier-free guidance
        x0 = data["latents"][index].float()
        u = stratified(torch.rand(n, generator=rng))
        x, t, target = noised(variant, x0, torch.randn(x0.shape, generator=rng), u)
        return (model(x, t, tokens) - target).square().mean()

    plan = replace(PLANS[variant], steps=steps or PLANS[variant].steps)
    fit(model, loss, plan, work / f"{variant}.safetensors", start)


# --- reader -----------------------------------------------------------------------------------------------


def train_reader(work: Path) -> None:
    chunks = [sample_scenes(READER_SEED + start, 256) for start in range(0, READER_POOL, 256)]
    pool = torch.cat([(render(s) * 255).round().to(torch.uint8) for s in chunks])
    answers = {k: torch.cat([attributes(s)[k] for s in chunks]) for k in attributes(chunks[0])}
    torch.manual_seed(PLANS["reader"].seed)
    model = Reader()

    def loss(rng: torch.Generator, seed: int) -> Tensor:
        del seed
        index = torch.randint(READER_POOL, (BATCH["reader"],), generator=rng)
        x = pool[index].float() / 255
        # A little blur and noise, so that a decoder's softness is not read as another style.
        blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        x = x.lerp(blurred, torch.rand(len(x), 1, 1, 1, generator=rng))
        x = x + 0.04 * torch.rand(len(x), 1, 1, 1, generator=rng) * torch.randn(x.shape, generator=rng)
        return answers_loss(model(x), {k: v[index] for k, v in answers.items()})

    fit(model, loss, PLANS["reader"], work / "reader.safetensors")


# --- CLIP -------------------------------------------------------------------------------------------------


@torch.no_grad()
def decoded_pictures(work: Path, scenes: Scenes) -> Tensor:
    """Bytes [N, 3, 64, 64] of the scenes as the exported autoencoder gives them back; kept in a file."""
    path, model, chunk = work / "decoded.safetensors", files.load_autoencoder(), 256
    if not path.exists():
        pictures = torch.empty((len(scenes), 3, SIZE_PX, SIZE_PX), dtype=torch.uint8)
        for start in range(0, len(scenes), chunk):
            x = model.decode(model.encode(render(scenes[start : start + chunk]) * 2 - 1)[0])
            pictures[start : start + chunk] = ((x / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            log.info("decoded %d/%d", start, len(scenes))
        keep({"pictures": pictures}, path)
    return load_file(path)["pictures"]


def train_clip(work: Path) -> None:
    pool = sample_scenes(CLIP_SEED, CLIP_POOL)
    decoded, half = decoded_pictures(work, pool), BATCH["clip"] // 2
    torch.manual_seed(PLANS["clip"].seed)
    model, requested = Trainee(), attributes(pool)

    def captions(scenes: Scenes, rng: np.random.Generator) -> list[str]:
        """Two of each scene, a whole and a partial one, in either order."""
        pairs = [[caption(scenes, i, rng), partial_caption(scenes, i, rng)] for i in range(len(scenes))]
        return [text for pair in pairs for text in rng.permutation(pair)]

    def loss(rng: torch.Generator, seed: int) -> dict[str, Tensor]:
        index, choice = torch.randint(CLIP_POOL, (half,), generator=rng), np.random.default_rng(seed)
        drawn = sample_scenes(seed, half)
        x = torch.cat([render(drawn), decoded[index].float() / 255])
        texts = captions(drawn, choice) + captions(pool[index.numpy()], choice)
        answers = {k: torch.cat([v, requested[k][index]]) for k, v in attributes(drawn).items()}
        return model.loss(x, tokenize(texts).view(2 * half, 2, MAX_TOKENS), answers)

    trained = fit(model, loss, PLANS["clip"], work / "clip.safetensors")
    log.info("wrote %s", files.save_clip(trained.clip, steps=PLANS["clip"].steps).name)
    files.write_manifest()


def export_diffusion(variant: str, work: Path, folder: Path = files.FOLDER) -> None:
    """Write the average of a variant's training in fp16."""
    state, model = work / f"{variant}.safetensors", Diffusion()
    model.load_state_dict(average(state))
    modules = {files.UNET_PREFIX: model.unet, files.TEXT_PREFIX: model.text}
    path = files.save(variant, modules, folder, variant=variant, steps=steps_of(state))
    log.info("wrote %s", path.name)


def export(work: Path) -> None:
    """Write the averages of all stages to models/tinyworld/ in fp16."""
    for variant in files.VARIANTS:
        export_diffusion(variant, work)
    vae, reader = Autoencoder(), Reader()
    vae.load_state_dict(load_file(work / "vae_final.safetensors"))
    reader.load_state_dict(average(work / "reader.safetensors"))
    for name, module in {"vae": vae, "reader": reader}.items():
        log.info("wrote %s", files.save(name, {"": module}).name)
    files.write_manifest()


STAGES = {
    "autoencoder": train_autoencoder,
    "latents": cache_latents,
    "epsilon": partial(train_diffusion, "epsilon"),
    "flow": partial(train_diffusion, "flow"),
    "decoder": train_decoder,
    "reader": train_reader,
    "export": export,
    "clip": train_clip,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="run.py train tinyworld",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; default: all, in order"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("output/tinyworld"), help="folder of the resumable states"
    )
    parser.add_argument(
        "--shipped",
        action="store_true",
        help="let epsilon and flow go on from models/tinyworld/ if no state is kept",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    args = parser.parse_args(argv)
    unknown = [s for s in args.stages if s not in STAGES]
    if unknown:
        parser.error(f"no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if args.threads:
        torch.set_num_threads(args.threads)
    stages = args.stages or list(STAGES)
    try:
        for last, folder in {"export": files.FOLDER, "clip": files.CLIP_FOLDER}.items():
            if last in stages:
                check_writable(folder / "model.safetensors")
        for stage in stages:
            options = {"shipped": True} if args.shipped and stage in files.VARIANTS else {}
            STAGES[stage](args.work, **options)
    except SteadyDiffError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
