"""How far the pictures that ship serve as references for models of another kind. `run.py bench references`.

The tiny world draws simple shapes, the photos are CIFAR-10's: neither was trained on pictures like those that
ship, as no user's model was trained on them. Two questions, each asked of several references in turn:

`tiny ...`:   the network's noise is made 1.02 times too large. Which uniform scale does Calibrate find, and
              which for the network as it is? The difference should be .02. 32 pictures, Euler, 20 steps.
`rule ...`:   what do the signs of Auto Correct's rule say of the tiny world's samples; what does it choose?
`photos ...`: the same of the photos'. Needs --data, CIFAR-10, whose unseen pictures give the answer that the
              others are held against.
`prompt ...`: how much harder are the references for the network under the prompts than without? By this Auto
              Correct knows pictures of something else, and refuses them.

A model's own fine samples have four times the steps. Pictures of other prompts tell how much of a difference
is the prompt's. `from 8 px` are the pictures that ship, scaled down to 8 pixels and up again to 32, as 256
pixels are for a picture of 1024, and `from 16 px` as for one of 512. `unseen ones`, kept as `real`, are other
unseen photos in the samples' place, of which nothing should be said.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from steadydiff.denoiser import Denoise, Run, Space, denoised_from_eps, eps_from_denoised
from steadydiff.drift.calibration import as_method, calibrate
from steadydiff.drift.digest import digest
from steadydiff.drift.fit import FitSettings, Problem, Progress, fit
from steadydiff.drift.recorder import Recorder, noise_for, refine, unit_noise
from steadydiff.drift.signs import prompt_harm
from steadydiff.drift.steady import steady
from steadydiff.drift.stepping import fixed_rng
from steadydiff.references import shipped_references
from steadydiff.samplers import sample_ddpm, sample_euler
from steadydiff.tinyworld import files, sampling
from steadydiff.tinyworld.photos import sampling as photo_sampling
from steadydiff.tinyworld.photos.data import load_photos
from steadydiff.tinyworld.photos.network import SIZE_PX
from steadydiff.tinyworld.photos.words import CLASSES
from steadydiff.tinyworld.scenes import SIZE_PX as TINY_PX
from steadydiff.tinyworld.scenes import sample_scenes
from tools.bench.photos import digest_of, net_of
from tools.bench.shared import photo_judges as judges
from tools.bench.shared import world
from tools.bench.shared.frame import Bench, Figures, options_of

COUNT, STEPS, FINER = 32, 20, 4
PLANTED = 1.02
SEEDS = (0, 1, 2)
TINY = ("drawings of the prompts", "drawings of other prompts", "shipped", "own fine samples")
UNPROMPTED = ", judged without prompts"
PHOTO_NET = "epsilon_2500"  # an early state
RUNS = (("real", 20), ("ddpm", 10), ("ddpm", 20), ("ddim", 10), ("ddim", 20))
SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_euler}
PHOTOS = (
    "photos of the prompts",
    "photos of other prompts",
    "shipped",
    "shipped from 16 px",
    "shipped from 8 px",
    "own fine samples",
)


def shipped(side: int) -> Tensor:
    """The pictures that ship, [32, 3, side, side] in 0..1."""
    return resized(shipped_references().pictures.movedim(-1, 1), side)


def resized(pictures: Tensor, side: int) -> Tensor:
    """Pictures [N, 3, H, W] in 0..1 as squares of another size."""
    return F.interpolate(pictures, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


# --- the tiny world: a planted scale ----------------------------------------------------------------------


def times(denoise: Denoise, factor: float, space: Space) -> Denoise:
    """A denoiser whose noise is `factor` times another's; not where a flow begins, in noise alone."""

    def scaled(x: Tensor, sigma: Tensor) -> Tensor:
        clean = denoise(x, sigma)
        if space == "flow" and sigma[0] == 1:
            return clean
        at = sigma.to(x)
        return denoised_from_eps(x, factor * eps_from_denoised(x, clean, at, space), at, space)

    return scaled


class Tiny:
    """The tiny world asked for 32 pictures by Euler in 20 steps: model, first states and references."""

    def __init__(self, variant: str, seed: int) -> None:
        self._scenes, self._seed = sample_scenes(world.CALIBRATION_SEED + seed, COUNT), seed
        condition = world.Condition(variant, "euler", STEPS, 1.0)
        self.run, self.sample = condition.run, condition.sample
        self.model = world.guided(condition, world.captions(self._scenes))
        self.unprompted = world.guided(condition, [""] * COUNT)
        self.seeds = range(seed * 1000, seed * 1000 + COUNT)
        noise = unit_noise((4, TINY_PX // 8, TINY_PX // 8), self.seeds)
        self.first = sampling.first_state(variant, noise, self.run.sigmas[0])

    def references(self, name: str, denoise: Denoise) -> Tensor:
        """Clean latents of one of TINY."""
        if name == TINY[0]:
            return world.encoded(self._scenes)
        if name == TINY[1]:
            return world.encoded(sample_scenes(world.CALIBRATION_SEED + 100 + self._seed, COUNT))
        if name == "shipped":
            return world.encoded_pictures(shipped(TINY_PX))
        return self.sample(denoise, self.first, refine(self.run.sigmas, FINER))


@torch.no_grad()
def tiny(variant: str, reference: str, seed: int) -> Figures:
    """The uniform scale that is found for the network as it is, and for the planted one."""
    own, found = Tiny(variant, seed), {}
    for factor in (1.0, PLANTED):
        denoise = times(own.model, factor, own.run.space)
        recorder, clean = Recorder(own.run, range(own.run.steps)), own.references(reference, denoise)
        recorder.train(recorder.around(denoise), clean, noise_for(clean, own.seeds))
        norms = torch.tensor(recorder.training_norms)
        made = calibrate(own.sample, denoise, own.first, own.run, norms)
        scales = steady(made.scales, made.errors, own.run.sigmas, own.run.space)
        found[factor] = as_method("uniform", scales)[1][0]
    return {"plain": found[1.0], "planted": found[PLANTED], "difference": found[PLANTED] - found[1.0]}


@torch.no_grad()
def rule(variant: str, reference: str) -> Problem:
    """The tiny world's sampling beside references."""
    own, name = Tiny(variant, 0), reference.removesuffix(UNPROMPTED)
    judge = own.model if name == reference else own.unprompted
    real = own.references(name, own.model)
    return Problem(own.sample, own.model, own.first, own.run, judge, real, judge, unprompted=own.unprompted)


@torch.no_grad()
def harm(make: Callable[..., Problem], *of: str | Path | int) -> Figures:
    """How much harder references are for the model under the prompt than without it; what that may err by."""
    kept: Progress = {}
    fit(make(*of), FitSettings(trust=math.inf), kept)
    found, error = prompt_harm(kept["references"]["loss"], kept["references"]["unprompted"])
    return {"harm": found, "error": error}


@torch.no_grad()
def signs(make: Callable[..., Problem], *of: str | Path | int) -> Figures:
    """The signs of plain samples against references of any kind, and what the rule chooses."""
    found = fit(replace(make(*of), unprompted=None))
    before = found.before
    return {
        "j": before.j,
        "j_error": before.j_error,
        "v": before.v,
        "v_error": before.v_error,
        "chosen": str(found.correction),
    }


# --- the photos: the rule's signs -------------------------------------------------------------------------


@cache
def model_for(names: tuple[str, ...], prompted: bool = True) -> Denoise:
    net = net_of(PHOTO_NET)
    context = photo_sampling.embed(net.text, [f"a photo of a {name}" for name in names])[not prompted]
    return photo_sampling.clipped(photo_sampling.denoiser(net.variant, net.network, context, context, 1.0))


@torch.no_grad()
def photos(data: Path, sampler: str, steps: int, reference: str) -> Problem:
    """The photos' sampling beside references."""
    run, names = Run("ve", photo_sampling.sigmas("epsilon", steps), 0), CLASSES * COUNT
    asked = tuple(names[:COUNT])
    denoise, sample = model_for(asked), SAMPLERS.get(sampler, lambda *_: photos_of(asked, last=True))
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(COUNT, 3, SIZE_PX, SIZE_PX, generator=draw)
    x = sampling.first_state("epsilon", noise, run.sigmas[0])

    def photos_of(wanted: tuple[str, ...], last: bool = False) -> Tensor:
        pictures, classes = load_photos(data, "test", judges.work_folder())
        found = {name: (classes == CLASSES.index(name)).nonzero()[:, 0].tolist() for name in CLASSES}
        places = {name: iter(reversed(one) if last else one) for name, one in found.items()}
        return judges.as_floats(pictures[[next(places[name]) for name in wanted]])

    if reference == PHOTOS[0]:
        real = photos_of(asked)
    elif reference == PHOTOS[1]:
        real = photos_of(tuple(names[5 : 5 + COUNT]))
    elif reference == "shipped":
        real = 2 * shipped(SIZE_PX) - 1
    elif small := {"shipped from 16 px": 16, "shipped from 8 px": 8}.get(reference):
        real = 2 * resized(shipped(small), SIZE_PX) - 1
    else:
        with fixed_rng(x):
            real = sample(denoise, x.flip(0), refine(run.sigmas, FINER)).clamp(-1, 1)
    unprompted = model_for(asked, prompted=False)
    return Problem(sample, denoise, x, run, denoise, real, denoise, unprompted=unprompted)


def main(arguments: list[str]) -> int:
    own = options_of("references").parse_args(arguments)
    pictures = digest(*shipped_references().pictures)
    facts = {
        "weights": world.weights(),
        "photos": digest_of(PHOTO_NET)["sha256"],
        "shipped": pictures[:12],
        "count": COUNT,
        "steps": STEPS,
        "planted": PLANTED,
        "finer": FINER,
    }
    bench = Bench("references", facts, arguments)
    for seed in SEEDS:
        for variant in files.VARIANTS:
            for reference in TINY:
                key = f"tiny {variant}: {reference} {seed}"
                bench.cell(key, partial(tiny, variant, reference, seed), quick=seed == 0)
    for variant in files.VARIANTS:
        for reference in (*TINY, *(name + UNPROMPTED for name in TINY[:3])):
            bench.cell(f"rule {variant}: {reference}", partial(signs, rule, variant, reference), quick=False)
        for reference in TINY[:3]:
            bench.cell(f"prompt tiny {variant}: {reference}", partial(harm, rule, variant, reference))
    for sampler, steps in RUNS:
        for reference in (PHOTOS[:-1] if sampler == "real" else PHOTOS) if own.data else ():
            key = f"photos {sampler} {steps}: {reference}"
            of = own.data, sampler, steps, reference
            bench.cell(key, partial(signs, photos, *of), quick=steps == 10)
            if sampler == "ddpm" and steps == STEPS and reference in PHOTOS[:3]:
                bench.cell(f"prompt photos: {reference}", partial(harm, photos, *of), quick=False)
    return bench.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
