"""Digits: how few-step samples of a small network drift from real pictures, and what each correction does
about it, beside its controls. `run.py bench digits`; the data come with scikit-learn.

Every class in turn; the same first noise and the same noise along the way in every cell of a seed. Pictures
are clipped to the data's range. Fréchet distances to held-out pictures are the excess over the floor: what
training pictures have to the same ones. `variance` is the total variance of the samples against theirs.
"ddpm" is the ancestral sampler, "ddim" Euler. `fit` cells run the rule of drift/fit.py on 64 samples and 64
reference pictures that are used for nothing else, and judge what it chose on other samples. `prompt` cells
count which sets of real pictures Auto Correct refuses, as they are harder under the prompt than without it.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from steadydiff.denoiser import Denoise, Run
from steadydiff.drift import signs
from steadydiff.drift.calibration import calibrate
from steadydiff.drift.fit import FitSettings, Problem, Progress, fit
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling, Schedule
from steadydiff.methods.method import Method
from steadydiff.methods.time_shift import TimeShift
from steadydiff.metrics.frechet import frechet_distance, moments
from steadydiff.metrics.norms import training_norm
from steadydiff.samplers import sample_ddpm, sample_dpmpp_2m, sample_euler, sample_heun
from steadydiff.tinyworld.photos.sampling import sigmas
from tools.bench.shared import digits_world as world
from tools.bench.shared.frame import Bench, Figures
from tools.launch.console import exit_with

SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_euler, "dpmpp_2m": sample_dpmpp_2m, "heun": sample_heun}
STEPS, WEIGHTS, SEEDS = (10, 20, 50), (1.0, 2.5), (0, 1, 2)
PICTURES, FIT_PARTS = 64, (0, 1)  # what the rule is given, and how many times a seed
COUNT = 600  # samples of a cell, and real pictures of the floor
CALIBRATED = 32  # samples that norms are met on
SPACES = ("classifier", "pixels")
_world = world.FIRST


def later(scale: float, run: Run) -> EpsilonScaling:
    """Return Epsilon Scaling of the later half of a run's steps."""
    return EpsilonScaling(scale, sigma_high=sorted(run.sigmas[:-1], reverse=True)[run.steps // 2])


Make = Callable[[Run], tuple[Method, ...]]
GRID: dict[str, Make] = {
    "plain": lambda run: (),
    **{f"lambda {s:g}": lambda run, s=s: (EpsilonScaling(s),) for s in (0.98, 1.02, 1.04)},
    **{f"later {s:g}": lambda run, s=s: (later(s, run),) for s in (0.98, 1.04)},
    **{f"c {c:g}": lambda run, c=c: (TimeShift(c),) for c in (0.7, 0.8, 0.9, 0.95, 1.05)},
}
DIFFIER: dict[str, Make] = {
    f"DiffIER {f:g}": lambda run, f=f: (DiffIER(strength=f),) for f in (-0.2, 0.2, 0.5)
}
"""At 20 steps only, of which the later half calls twice: 30 calls. The control is plain at 30 steps."""


def condition(sampler: str, steps: int, cfg: float) -> str:
    return f"{sampler} {steps} cfg {cfg:g}"


@cache
def parts() -> dict[str, world.Split]:
    return world.splits(_world)


@cache
def networks() -> tuple[world.Network, world.Judge]:
    training = parts()["training"]
    return world.network(training, _world), world.judge(training, _world)


def run_of(steps: int, seed: int) -> Run:
    return Run("ve", sigmas("epsilon", steps), seed)


def labels(count: int) -> Tensor:
    return torch.arange(count) % world.CLASSES


def first_states(run: Run, count: int) -> Tensor:
    seeded = torch.Generator().manual_seed(run.seed or 0)
    return torch.randn(count, 1, world.SIDE, world.SIDE, generator=seeded) * math.hypot(1, run.sigmas[0])


def wrapped(denoise: Denoise, methods: tuple[Method, ...], run: Run) -> Denoise:
    for method in sorted(methods, key=lambda method: method.order):
        denoise = method.wrap(denoise, run)
    return denoise


@torch.no_grad()
def samples(
    sampler: str,
    cfg: float,
    methods: tuple[Method, ...],
    run: Run,
    count: int = COUNT,
    net: world.Predict | None = None,
) -> Tensor:
    """Draw pictures [count, 1, 8, 8], every class in turn, with the world's network or another one."""
    denoise = wrapped(world.denoise_with(net or networks()[0], labels(count), cfg), methods, run)
    with torch.random.fork_rng():
        torch.manual_seed(run.seed or 0)
        return SAMPLERS[sampler](denoise, first_states(run, count), run.sigmas).clamp(-1, 1)


@torch.no_grad()
def calibrated(sampler: str, cfg: float, run: Run) -> tuple[Method, ...]:
    """Return the schedule that lets the predicted noise be as large as on real pictures."""
    real = parts()["references"]
    noise = torch.randn(real.pictures.shape, generator=torch.Generator().manual_seed(run.seed or 0))
    denoise = world.denoise_with(networks()[0], real.labels, cfg)
    wanted = [
        float(training_norm(denoise, real.pictures, noise, sigma).square().mean().sqrt())
        for sigma in run.sigmas[:-1]
    ]
    denoise = world.denoise_with(networks()[0], labels(CALIBRATED), cfg)
    found = calibrate(SAMPLERS[sampler], denoise, first_states(run, CALIBRATED), run, wanted)
    return (EpsilonScaling(schedule=Schedule("table", found.scales)),)


@torch.no_grad()
def features(pictures: Tensor) -> dict[str, Tensor]:
    return {"classifier": networks()[1].features(pictures), "pixels": pictures.flatten(1)}


@cache
def held_out() -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    pictures = parts()["held out"].pictures
    spaces = {name: moments(found) for name, found in features(pictures).items()}
    return spaces, float(pictures.var(0).sum())


def distances(pictures: Tensor) -> dict[str, float]:
    spaces, _ = held_out()
    return {name: frechet_distance(*moments(f), *spaces[name]) for name, f in features(pictures).items()}


@cache
def floor() -> dict[str, float]:
    return distances(parts()["training"].pictures[:COUNT])


def judged(pictures: Tensor) -> Figures:
    figures: Figures = {name: value - floor()[name] for name, value in distances(pictures).items()}
    figures["variance"] = float(pictures.var(0).sum()) / held_out()[1] - 1
    return figures


def cell(sampler: str, steps: int, cfg: float, seed: int, make: Make | None) -> Figures:
    """Measure one correction; None for the one that meets norms."""
    run = run_of(steps, seed)
    methods = calibrated(sampler, cfg, run) if make is None else make(run)
    return judged(samples(sampler, cfg, methods, run))


def add_grid(bench: Bench) -> None:
    def add(sampler: str, steps: int, cfg: float, seed: int, label: str, make: Make | None) -> None:
        name = f"{condition(sampler, steps, cfg)} {label} {seed}"
        bench.cell(name, partial(cell, sampler, steps, cfg, seed, make), quick=name in QUICK)

    for seed in SEEDS:
        for sampler in SAMPLERS:
            for cfg in WEIGHTS:
                for steps in STEPS:
                    for label, make in GRID.items():
                        add(sampler, steps, cfg, seed, label, make)
                add(sampler, 30, cfg, seed, "plain", GRID["plain"])
                add(sampler, 20, cfg, seed, "norms", None)
                for label, make in DIFFIER.items():
                    add(sampler, 20, cfg, seed, label, make)


@torch.no_grad()
def fitted(sampler: str, steps: int, cfg: float, seed: int, part: int) -> Figures:
    """Run the rule, short and thorough, on a batch of its own, and judge what it chose as the grid is."""
    batch, judged_run = 1000 + 10 * seed + part, run_of(steps, seed)
    run, real = run_of(steps, batch), parts()["references"]
    drawn = torch.randperm(len(real.labels), generator=torch.Generator().manual_seed(batch))[:PICTURES]
    net, own = networks()[0], labels(PICTURES)
    problem = Problem(
        SAMPLERS[sampler],
        world.denoise_with(net, own, cfg),
        first_states(run, PICTURES),
        run,
        world.denoise_with(net, own, 1.0),
        real.pictures[drawn],
        world.denoise_with(net, real.labels[drawn], 1.0),
    )
    done: Progress = {}
    figures: Figures = {}
    for name, thorough in (("short", False), ("thorough", True)):
        found = fit(problem, FitSettings(thorough=thorough), done)
        figures |= {name: str(found.correction), f"{name} runs": found.runs, f"{name} reason": found.reason}
        truth = judged(samples(sampler, cfg, found.correction.methods(judged_run), judged_run))
        figures |= {f"{name} {space}": truth[space] for space in SPACES}
        figures |= {"j": found.before.j, "j error": found.before.j_error, "v": found.before.v}
    return figures


def add_fits(bench: Bench) -> None:
    for seed in SEEDS:
        for part in FIT_PARTS:
            for sampler in SAMPLERS:
                for cfg in WEIGHTS:
                    for steps in STEPS:
                        name = f"{condition(sampler, steps, cfg)} fit {part} {seed}"
                        bench.cell(name, partial(fitted, sampler, steps, cfg, seed, part), quick=False)


@torch.no_grad()
def refused(count: int) -> Figures:
    """How many sets of so many held-out pictures Auto Correct refuses under a prompt: pictures of the digit
    that it asks for, of another one, and of all digits."""
    real, noise_of = parts()["held out"], torch.Generator().manual_seed(0)
    order = torch.randperm(len(real.labels), generator=noise_of)
    noise = [torch.randn(count, 1, world.SIDE, world.SIDE, generator=noise_of) for _ in signs.RATIOS]
    sets = [(None, real.pictures[order].split(count))]
    sets += [(digit, real.pictures[real.labels == digit].split(count)) for digit in range(world.CLASSES)]
    found: dict[str, list[bool]] = {"right": [], "other": [], "mixed": []}
    for digit, some in sets:
        for pictures in (one for one in some if len(one) == count):
            levels = [ratio * float(pictures.std()) for ratio in signs.RATIOS]

            def losses(label: int, pictures: Tensor = pictures, levels: list[float] = levels) -> Tensor:
                denoise = world.denoise_with(networks()[0], torch.full((count,), label), 1.0)
                return signs.log_errors(denoise, pictures, noise, levels)

            unprompted = losses(world.NONE)
            for asked in range(world.CLASSES):
                harm, error = signs.prompt_harm(losses(asked), unprompted)
                kind = "mixed" if digit is None else "right" if digit == asked else "other"
                found[kind].append(harm > FitSettings.trust * error)
    figures: Figures = {}
    for kind, answers in found.items():
        figures |= {kind: sum(answers), f"{kind} sets": len(answers)}
    return figures


QUICK = ("ddpm 20 cfg 1 plain 0", "ddpm 20 cfg 1 c 0.9 0", "ddim 20 cfg 1 plain 0")


def main(arguments: list[str], own: world.World = world.FIRST) -> int:
    global _world  # one a process
    _world = own
    bench = Bench(own.name, {"count": COUNT, "recipe": world.RECIPE}, arguments)
    bench.cell("floor", lambda: {**floor()})
    add_grid(bench)
    add_fits(bench)
    if own is world.FIRST:
        for count in (8, 16, 32):
            bench.cell(f"prompt {count}", partial(refused, count))
    return bench.run()


if __name__ == "__main__":
    exit_with(main)
