"""DiffIER on the tiny world, always at equal numbers of model calls; and what it costs beside its calls.

Prompts, noise and judges are those of `run.py bench drift`, see tools/bench/shared/world.py. A cell is one
part of the prompts under one way to spend a number of guided model calls: plain steps, DiffIER, the controls
that show what its gain is not, and what a user would take instead (the host's own guidance nodes, run on
the same branches, and one restart). Nothing is left out of the table for having lost.

A part has 256 prompts. At CFG 2 and 4 with 30 calls plain sampling, `renoise` and `norm` take three parts,
everything else takes one, as does the grid over guidance weights and calls; settings and samplers are varied
at CFG 2. Fréchet distances of so few samples lie well above those of `run.py bench drift`: the row of real
drawings says how far.
"""

import math
import statistics
import sys
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise, product

import torch
from torch import Tensor

from steadydiff.denoiser import Run, signal_level
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.noise import PerSampleNoise
from steadydiff.schedules import Schedule
from steadydiff.tinyworld import files
from tools.bench import epsilon_scaling as timing
from tools.bench.shared import world
from tools.bench.shared.frame import Bench, Figures
from tools.bench.shared.guidance import as_host, peers
from tools.bench.shared.world import Condition, Correct, Way, plain
from tools.launch.inprocess import defaults_of, load_pack, prepare_host

CALLS, CFGS = (20, 30, 40, 80), (1.0, 2.0, 4.0, 8.0, 16.0)
DEFAULT = DiffIER()
SWEEP = {
    **{f"f {f:g}": replace(DEFAULT, strength=f) for f in (0.1, 0.3, 0.8, 1.0)},
    "undivided": replace(DEFAULT, divide_by_cfg=False),
    "K 3, f 0.17": replace(DEFAULT, strength=0.17, iterations=3),
    "antithetic": replace(DEFAULT, antithetic=True),
    "whole run": replace(DEFAULT, sigma_high=math.inf),
    "paper": DiffIER(strength=0.1, iterations=10, threshold=1e-3, divide_by_cfg=False),
    "previous": DiffIER("previous", 0.1, sigma_high=math.inf),
    "literal": DiffIER("literal", 0.1, sigma_high=math.inf),
}
NORM = DiffIER("norm", 1.0, sigma_high=math.inf)
RESTART_STEPS = 4
PART, PARTS = 256, 3
NOISED = 128  # drawings that the norms of a comparison's cells are compared with
MAIN, QUICK = ("plain", "renoise", "norm"), ("plain", "renoise", "APG")


# --- equal calls ------------------------------------------------------------------------------------------


@cache
def run_of(variant: str, steps: int) -> Run:
    return Condition(variant, "euler", steps, 1.0).run


def calls_of(method: DiffIER, variant: str, steps: int) -> int:
    """Guided model calls of a run of so many steps; with a threshold, at most."""
    run = run_of(variant, steps)
    return steps + method.extra_calls * method.active_steps(run)


def steps_for(method: DiffIER, variant: str, calls: int) -> int:
    """The most steps that need no more calls than these."""
    return max(steps for steps in range(1, calls + 1) if calls_of(method, variant, steps) <= calls)


# --- controls ---------------------------------------------------------------------------------------------


def matched_scales(run: Run, strength: float) -> tuple[float, ...]:
    """λ of every step whose mean effect DiffIER has on an exact denoiser of data of this variance."""
    variance, scales = world.real_variance(), []
    low, high = DEFAULT.window(run)
    for sigma in run.sigmas[:-1]:
        alpha = float(signal_level(sigma, run.space))
        back = alpha**2 * variance / (alpha**2 * variance + sigma**2)
        scales.append(1 / (1 - strength * back) if low <= sigma <= high else 1.0)
    return tuple(scales)


def matched_noise(strength: float) -> Correct:
    """The noise DiffIER adds on such a denoiser: of standard deviation f * g * sigma."""

    def correct(denoise, run):
        noise, calls = PerSampleNoise(run.seed, "matched noise"), 0
        low, high = DEFAULT.window(run)

        def noised(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            noise.see(x)
            denoised, level = denoise(x, sigma), float(sigma[0])
            alpha = float(signal_level(level, run.space))
            variance = world.real_variance()
            gain = alpha * variance / (alpha**2 * variance + level**2)
            share = strength * gain * level if low <= level <= high else 0.0
            return denoised + share * noise.draw(x, calls)

        return noised

    return correct


def matched_schedule(strength: float, power: int = 1) -> Correct:
    def correct(denoise, run):
        scales = tuple(scale**power for scale in matched_scales(run, strength))
        return EpsilonScaling(schedule=Schedule("table", scales)).wrap(denoise, run)

    return correct


def both(strength: float) -> Correct:
    scaled, noised = matched_schedule(strength), matched_noise(strength)
    return lambda denoise, run: scaled(noised(denoise, run), run)


def controls(cfg: float) -> dict[str, tuple[str, Correct]]:
    f = DEFAULT.strength / cfg
    return {
        "matched lambda": (f"matched lambda {f}", matched_schedule(f)),
        "inverse lambda": (f"inverse lambda {f}", matched_schedule(f, -1)),  # the other direction
        "matched noise": (f"matched noise {f}", matched_noise(f)),
        "matched both": (f"matched both {f}", both(f)),
    }


# --- what a user would take instead -----------------------------------------------------------------------


def sample_restart(space, denoise, x: Tensor, sigmas) -> Tensor:
    """Euler that once, where half of the steps are left, goes back by RESTART_STEPS with fresh noise.

    Source: Xu et al., 2023, arXiv 2306.14878, with one restart of one repetition.
    """
    sigmas = list(sigmas)
    low = max(len(sigmas) // 2, RESTART_STEPS)
    back = low - RESTART_STEPS
    for i, (sigma, following) in enumerate(pairwise([*sigmas[: low + 1], *sigmas[back:]])):
        if i == low:  # from sigmas[low] up to sigmas[back]
            alphas = [float(signal_level(level, space)) for level in (sigma, following)]
            kept = alphas[1] / alphas[0] if alphas[0] else 1.0
            x = kept * x + math.sqrt(max(following**2 - (kept * sigma) ** 2, 0)) * torch.randn_like(x)
            continue
        at = torch.full((len(x),), sigma, dtype=torch.float32)
        x = x + (x - denoise(x, at)) / sigma * (following - sigma)
    return x


world.SAMPLERS["restart"] = lambda space: partial(sample_restart, space)


# --- cells ------------------------------------------------------------------------------------------------


def judged(bench: Bench, way: Way, part: int, noised: int) -> Figures:
    """Figures of one part, and the saturation of its pictures; a quick run takes 16 samples.

    noised: drawings that the norms are compared with; 0 for none
    """
    made = world.samples(way.condition, part, 16 if bench.quick else PART, way.correct, way.name)
    if way.condition.sampler == "restart":  # its steps are not those of the norms in training
        noised = 0
    return {**world.judged(way.condition, made, part, noised), "saturation": saturation(made.latents[:128])}


def saturation(latents: Tensor) -> float:
    """Mean saturation of the pictures, 0 grey to 1: of each pixel (largest - smallest) / largest."""
    pictures = world.decoded(latents)
    high, low = pictures.amax(1), pictures.amin(1)
    return float(((high - low) / high.clamp(min=1e-3)).mean())


def compared(variant: str, cfg: float, calls: int) -> dict[str, Way]:
    """Ways to spend so many calls at one guidance weight: name -> condition, label and correction."""
    condition = Condition(variant, "euler", calls, cfg)
    found: dict[str, Way] = {
        "plain": Way(condition, "plain", plain),
        "renoise": diffier(condition, DEFAULT),
        "norm": diffier(condition, NORM),
    }
    for name, (label, correct) in controls(cfg).items():
        found[name] = Way(condition, label, correct)
    for name, node in peers().items():
        found[name] = Way(condition, f"host {name}", as_host(node))
    restart = replace(condition, sampler="restart", steps=calls - RESTART_STEPS)
    found["restart"] = Way(restart, f"restart {RESTART_STEPS}", plain)
    return found


def varied(variant: str, cfg: float, calls: int) -> dict[str, Way]:
    """Other settings of DiffIER, and other samplers, at one number of calls."""
    condition = Condition(variant, "euler", calls, cfg)
    found = {name: diffier(condition, method) for name, method in SWEEP.items()}
    for sampler in ("dpmpp_2m", "ddpm"):
        other = replace(condition, sampler=sampler)
        found[f"{sampler} plain"] = Way(other, "plain", plain)
        found[f"{sampler} renoise"] = diffier(other, DEFAULT)
    return found


def diffier(condition: Condition, method: DiffIER) -> Way:
    """The most steps of the condition's sampler that with this method need no more calls than its steps."""
    steps = steps_for(method, condition.variant, condition.steps)
    return Way(replace(condition, steps=steps), f"diffier {method} {method.sigma_high}", method.wrap)


def main() -> int:
    prepare_host(cpu=not torch.cuda.is_available())
    facts = {
        "weights": world.weights(),
        "judges": world.judges(),
        "part": PART,
        "noised": NOISED,
        "default": str(DEFAULT),
        "device": timing.platform.machine(),
    }
    bench = Bench("diffier", facts)
    rounds = 100 if bench.quick else 1000
    bench.cell("own time", lambda: own_time(rounds))
    bench.cell("guided SD1.5 call", lambda: timing.unet_call(3), quick=False)
    for part in range(PARTS):
        bench.cell(f"real drawings {part}", partial(drawings, part), quick=False)

    def cells(ways: dict[str, Way], cfg: float, calls: int, part: int, noised: int) -> None:
        for name, way in ways.items():
            variant = way.condition.variant
            quick = (variant, cfg, calls, part) == ("epsilon", 2.0, 30, 0)
            key = f"{variant} cfg {cfg:g} calls {calls} {name} {part}"
            bench.cell(key, partial(judged, bench, way, part, noised), quick and name in QUICK)

    for cfg in (2.0, 4.0):
        for variant in files.VARIANTS:
            cells(compared(variant, cfg, 30), cfg, 30, 0, NOISED)
    for variant in files.VARIANTS:
        cells(varied(variant, 2.0, 30), 2.0, 30, 0, NOISED)
    for cfg, calls in product(CFGS, CALLS):
        for variant in files.VARIANTS:
            names = ("plain", "renoise") if calls != 30 or cfg == 1 else MAIN
            if calls != 30 or cfg not in (2.0, 4.0):
                some = compared(variant, cfg, calls)
                cells({name: some[name] for name in names}, cfg, calls, 0, 0)
    for cfg, part in product((2.0, 4.0), range(1, PARTS)):
        for variant in files.VARIANTS:
            some = compared(variant, cfg, 30)
            cells({name: some[name] for name in MAIN}, cfg, 30, part, NOISED)
    return bench.run(summary)


def drawings(part: int) -> Figures:
    """Real drawings, as many as a part has samples."""
    scenes = world.sample_scenes(world.DRAWING_SEED + part, PART)
    pictures = world.encoded(scenes)
    return {**world.looked_at(world.decoded(pictures), scenes), "saturation": saturation(pictures[:128])}


def own_time(rounds: int) -> Figures:
    """The node's own milliseconds per guided call whose network costs nothing, less those of its calls."""
    bare = timing.with_fixed_branches(timing.make_model("EPS", timing.TINY))
    node = load_pack()["SteadyDiffDiffIER"]
    defaults = defaults_of(node)
    defaults |= {"start_percent": 0.0}
    renoise, norm = (node.execute(model=bare, **(defaults | {"mode": m}))[0] for m in ("renoise", "norm"))
    taken: list[list[float]] = []
    timing.inside_runs([bare, renoise, norm], lambda *calls: taken.extend(timing.time_in_turn(calls, rounds)))
    bare_ms, renoise_ms, norm_ms = (statistics.median(column) for column in zip(*taken, strict=True))
    return {"renoise_ms": renoise_ms - 2 * bare_ms, "norm_ms": norm_ms - bare_ms, "bare_ms": bare_ms}


def summary(cells: dict[str, Figures]) -> Figures:
    """The goals: ratios of Fréchet distances at equal calls, the spread over guidance, and the own times."""
    figures: Figures = {}

    def mean(variant: str, cfg: float, calls: int, name: str, space: str) -> float | None:
        keys = [f"{variant} cfg {cfg:g} calls {calls} {name} {part}" for part in range(PARTS)]
        values = [float(cells[key][f"frechet_{space}"] or 0) for key in keys if key in cells]
        return statistics.mean(values) if values else None

    for variant in files.VARIANTS:
        for space in ("reader", "clip"):
            for cfg in (2.0, 4.0):
                pair = [mean(variant, cfg, 30, name, space) for name in ("renoise", "plain")]
                if None not in pair:
                    figures[f"{variant} cfg {cfg:g} {space} renoise / plain"] = pair[0] / pair[1]  # type: ignore[operator]
            spreads = []
            for name in ("renoise", "plain"):
                curve = [mean(variant, cfg, 30, name, space) for cfg in CFGS[1:]]
                if None not in curve:
                    spreads.append(max(curve) - min(curve))  # type: ignore[type-var]
            if len(spreads) == 2:
                figures[f"{variant} {space} spread over cfg, renoise / plain"] = spreads[0] / spreads[1]
    own, call = cells.get("own time", {}), cells.get("guided SD1.5 call", {})
    if own and call:
        figures["norm, percent of a call"] = 100 * float(own["norm_ms"] or 0) / float(call["call_ms"] or 1)
        figures["renoise, percent of its calls"] = (
            50 * float(own["renoise_ms"] or 0) / float(call["call_ms"] or 1)
        )
    return figures


if __name__ == "__main__":
    sys.exit(main())
