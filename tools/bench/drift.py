"""Every schedule of Epsilon Scaling on the tiny world, judged by the pictures it makes.

2,048 held-out prompts in three parts (seeds 0 to 2), both variants; Euler at 10, 20 and 50 steps, DDPM and
DPM++ 2M at 20, without guidance, where exposure bias is defined. A cell is one part under one condition with
one schedule; docs/drift.md says what is measured. Nothing is left out of the table for having lost.
"""

import sys
from collections.abc import Iterable
from functools import cache, partial

import torch

from steadydiff.denoiser import add_noise
from steadydiff.drift.calibration import calibrate, calibrate_variance, fit_linear
from steadydiff.drift.recorder import Recorder, noise_for, unit_noise
from steadydiff.methods.band_scaling import BandScaling
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.metrics.spectrum import spectrum
from steadydiff.schedules import Schedule, dcw_schedule, linear_schedule, snr_schedule
from steadydiff.tinyworld import files, sampling
from steadydiff.tinyworld.scenes import sample_scenes
from tools.bench.shared import world
from tools.bench.shared.frame import Bench, Figures
from tools.bench.shared.world import Condition, Correct

CONDITIONS = [
    Condition(variant, sampler, steps, 1.0)
    for sampler, steps in (("euler", 20), ("euler", 10), ("euler", 50), ("ddpm", 20), ("dpmpp_2m", 20))
    for variant in files.VARIANTS
]
GRID = (0.99, 1.005, 1.01, 1.02, 1.04)  # and 1, which is "none"
GRID_PART, GRID_SAMPLES = 7, 256
CALIBRATION_SAMPLES = 64
DCW = 0.005  # the value of its authors' few-step example
BANDS = (0.05, 0.01)  # what the ComfyUI port of DCW suggests for the coarse and the fine band


def table(scales: Iterable[float], mode: str = "table") -> Correct:
    """A schedule's correction."""
    return EpsilonScaling(schedule=Schedule(mode, tuple(scales))).wrap


def core(denoise, run):
    """ComfyUI's own Epsilon Scaling node: x - denoised over 1.005, whatever the model predicts."""
    return lambda x, sigma: torch.lerp(denoise(x, sigma), x, 1 - 1 / 1.005)


def bands(condition: Condition) -> Correct:
    """Per-band scaling with the values of DCW's port: coarse where it is noisy, fine towards the end."""
    sigmas = condition.run.sigmas
    noisy = [sigma / sigmas[0] for sigma in sigmas[:-1]]
    coarse = Schedule("table", tuple(1 / (1 - BANDS[0] * share) for share in noisy))
    fine = Schedule("table", tuple(1 / (1 - BANDS[1] * (1 - share)) for share in noisy))
    return BandScaling(EpsilonScaling(schedule=coarse), EpsilonScaling(schedule=fine)).wrap


@cache
@torch.no_grad()
def calibrated(condition: Condition) -> dict[str, tuple[float, ...]]:
    """Scales found from 64 drawings and their captions, none of which is used elsewhere; no search."""
    scenes = sample_scenes(world.CALIBRATION_SEED, CALIBRATION_SAMPLES)
    clean, model = world.encoded(scenes), world.guided(condition, world.captions(scenes))
    run, seeds = condition.run, range(CALIBRATION_SAMPLES)
    recorder = Recorder(run, range(run.steps))
    recorder.train(recorder.around(model), clean, noise_for(clean, seeds))
    x = sampling.first_state(condition.variant, unit_noise(clean.shape[1:], seeds), run.sigmas[0])
    norm = calibrate(condition.sample, model, x, run, recorder.training_rms).scales
    variance = calibrate_variance(condition.sample, model, x, run, spectrum(clean)).scales
    line = linear_schedule(run.steps, *fit_linear(norm))
    return {"linear": line, "norm": norm, "variance": variance}


def methods(condition: Condition) -> dict[str, tuple[str, Correct]]:
    """All but the best uniform scale, which a search of its own finds; each with all that it depends on."""
    run, found = condition.run, calibrated(condition)
    snr, dcw = snr_schedule(run.sigmas, space=run.space), dcw_schedule(run.sigmas, DCW)
    return {
        "none": ("uniform 1.0", world.plain),
        "core 1.005": ("core 1.005", core),
        "linear": (f"table {found['linear']}", table(found["linear"])),
        "snr": (f"snr {snr}", table(snr, "snr")),
        "dcw": (f"dcw {dcw}", table(dcw, "dcw")),
        "norm": (f"table {found['norm']}", table(found["norm"])),
        "variance": (f"table {found['variance']}", table(found["variance"])),
        "bands": (f"bands {BANDS}", bands(condition)),
    }


def grid(condition: Condition) -> Figures:
    """Fréchet distances over the grid, in units of those without correction; the best is the least sum."""
    figures: dict[str, dict[str, float]] = {}
    for scale in (1.0, *GRID):
        made = world.samples(
            condition, GRID_PART, GRID_SAMPLES, EpsilonScaling(scale=scale).wrap, f"uniform {scale}"
        )
        figures[f"{scale}"] = world.judged(condition, made, GRID_PART)
    names = [name for name in figures["1.0"] if name.startswith("frechet_")]
    sums = {
        scale: sum(of[name] / figures["1.0"][name] for name in names) / len(names)
        for scale, of in figures.items()
    }
    return {"best": float(min(sums, key=lambda scale: sums[scale])), **sums}


def part_of(bench: Bench, condition: Condition, name: str, part: int) -> Figures:
    """Figures of one part; in a quick run of 32 samples."""
    n = 32 if bench.quick else world.PARTS[part]
    if name == "uniform":
        scale = bench.figures(f"{condition} grid")["best"]
        label, correct = f"uniform {scale}", EpsilonScaling(scale=float(scale or 1)).wrap
    else:
        label, correct = methods(condition)[name]
    return {**world.judged(condition, world.samples(condition, part, n, correct, label), part)}


@torch.no_grad()
def start(variant: str) -> Figures:
    """Variance error of the final latents, and what a run that begins in noised drawings makes of it."""
    condition = Condition(variant, "euler", 20, 1.0)
    run, scenes = condition.run, world.scenes_of(GRID_PART, GRID_SAMPLES)
    clean, model = world.encoded(scenes), world.guided(condition, world.captions(scenes))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(GRID_PART))
    firsts = {
        "from noise": sampling.first_state(variant, noise, run.sigmas[0]),
        "from noised drawings": add_noise(clean, noise, run.sigmas[0], run.space),
    }
    wanted = clean.var(0).mean()
    return {
        k: float(condition.sample(model, x, run.sigmas).var(0).mean() / wanted) - 1 for k, x in firsts.items()
    }


NAMES = ("none", "core 1.005", "uniform", "linear", "snr", "dcw", "norm", "variance", "bands")


def main() -> int:
    facts = {
        "weights": world.weights(),
        "judges": world.judges(),
        "parts": world.PARTS,
        "grid": GRID,
        "grid_samples": GRID_SAMPLES,
        "calibration_samples": CALIBRATION_SAMPLES,
        "dcw": DCW,
        "bands": BANDS,
    }
    bench = Bench("drift", facts)
    for part, n in enumerate(world.PARTS):
        bench.cell(f"real drawings {part}", partial(world.drawings, part, n), quick=False)
    for variant in files.VARIANTS:
        bench.cell(f"start {variant}", partial(start, variant), quick=False)
    for condition in CONDITIONS:
        bench.cell(f"{condition} grid", partial(grid, condition), quick=False)
        for name in NAMES:
            for part in range(len(world.PARTS)):
                quick = condition == CONDITIONS[0] and name in ("none", "norm") and part == 0
                bench.cell(
                    f"{condition} {name} {part}", partial(part_of, bench, condition, name, part), quick
                )
    return bench.run()


if __name__ == "__main__":
    sys.exit(main())
