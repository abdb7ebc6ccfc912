"""What `bench photos` tries: ways of sampling, and the corrections that stand beside plain in each.

A correction is what a method's `wrap` is: (denoise, run) -> denoise, made anew for each run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from steadydiff.denoiser import Denoise, Run
from steadydiff.drift.stepping import Sampler
from steadydiff.methods.band_scaling import BandScaling
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.methods.method import Method
from steadydiff.methods.time_shift import TimeShift
from steadydiff.samplers import sample_ddpm, sample_euler, sample_heun
from steadydiff.schedules import Schedule, dcw_schedule, linear_schedule, snr_schedule
from steadydiff.tinyworld.photos import sampling
from tools.bench.shared.guidance import as_host, peers
from tools.bench.shared.world import Correct, plain
from tools.launch.inprocess import prepare_host


@dataclass(frozen=True)
class Way:
    """A sampler, guidance, and whether its levels lie as EDM has them, or evenly in timesteps."""

    sampler: Sampler
    cfg: float = 1.0
    edm: bool = False

    def run(self, variant: str, steps: int, seed: int) -> Run:
        sigmas = sampling.sigmas(variant, steps)
        if self.edm:
            sigmas = edm_sigmas(steps, sigmas[0], sigmas[-2])
        return Run("ve" if variant == "epsilon" else "flow", sigmas, seed)


def edm_sigmas(steps: int, highest: float, lowest: float, rho: float = 7.0) -> tuple[float, ...]:
    """Return noise levels from the first to 0, steps + 1 of them (Karras et al., 2206.00364, equation 5)."""
    high, low = highest ** (1 / rho), lowest ** (1 / rho)
    return (*((high + i / (steps - 1) * (low - high)) ** rho for i in range(steps)), 0.0)


WAYS = {
    "ddpm": Way(sample_ddpm),  # which is DDIM of eta 1
    "ddim": Way(sample_euler),
    "ddpm_cfg2": Way(sample_ddpm, cfg=2.0),
    "ddpm_cfg4": Way(sample_ddpm, cfg=4.0),
    "euler": Way(sample_euler, edm=True),
    "heun": Way(sample_heun, edm=True),
    "flow": Way(sample_euler),  # of the flow twin
}


def one_by_one(methods: Iterable[Method]) -> Correct:
    """Return what wraps these, the innermost first."""

    def correct(denoise: Denoise, run: Run) -> Denoise:
        for method in methods:
            denoise = method.wrap(denoise, run)
        return denoise

    return correct


def clipped(correct: Correct) -> Correct:
    """Return a correction with its clean estimates clipped, as the paper's DDPM clips after scaling."""
    return lambda denoise, run: sampling.clipped(correct(denoise, run))


def linear(denoise: Denoise, run: Run) -> Denoise:
    """The paper's linear schedule of CIFAR-10 at 20 steps, counted from the last step."""
    return EpsilonScaling(schedule=Schedule("linear", linear_schedule(run.steps, 0.0025, 1.0))).wrap(
        denoise, run
    )


def tsr(denoise: Denoise, run: Run) -> Denoise:
    return EpsilonScaling(schedule=Schedule("snr", snr_schedule(run.sigmas, 0.95))).wrap(denoise, run)


def dcw(denoise: Denoise, run: Run) -> Denoise:
    return EpsilonScaling(schedule=Schedule("dcw", dcw_schedule(run.sigmas, 0.005))).wrap(denoise, run)


def host(name: str) -> Correct:
    """Return the guidance of one of ComfyUI's own nodes, at its defaults."""

    def correct(denoise: Denoise, run: Run) -> Denoise:
        prepare_host(True)
        return as_host(peers()[name])(denoise, run)

    return correct


def scaled(*scales: float) -> dict[str, Correct]:
    return {f"lambda {scale}": EpsilonScaling(scale).wrap for scale in scales}


def shifted(*factors: float) -> dict[str, Correct]:
    return {f"c {factor}": TimeShift(factor).wrap for factor in factors}


def stronger(*strengths: float) -> dict[str, Correct]:
    return {f"DiffIER {strength}": DiffIER(strength=strength).wrap for strength in strengths}


OFF: dict[str, Correct] = {"plain": plain}
NONE = EpsilonScaling(1.0)
CLIPPED = {"clipped lambda 1.017": clipped(EpsilonScaling(1.017).wrap)}

Grid = dict[tuple[str, int], dict[str, Correct]]
"""By way and steps: corrections by label."""

CURVE: Grid = {  # of every network. DiffIER calls the later half of its steps twice
    ("ddpm", 10): OFF | shifted(0.9) | scaled(1.05),
    ("ddpm", 7): stronger(0.3),
    ("ddpm", 14): stronger(0.3),
    ("ddpm", 34): stronger(0.3),
    ("ddpm", 20): OFF | scaled(1.015, 1.03, 1.05) | shifted(0.95),
    ("ddpm", 50): OFF | scaled(1.017) | shifted(0.98),
}
GUIDED = OFF | scaled(1.03) | shifted(0.95) | {name: host(name) for name in ("RescaleCFG", "APG", "CFGNorm")}
MORE: Grid = {  # of the newest one as well. Heun calls the network twice a step but once in the last
    ("ddpm", 10): shifted(0.8),
    ("ddpm", 14): stronger(-0.3),
    ("ddpm", 20): {
        **shifted(0.9),
        **CLIPPED,
        "clipped lambda 1.03": clipped(EpsilonScaling(1.03).wrap),
        "linear 0.0025": linear,
        "clipped linear 0.0025": clipped(linear),
        "TSR 0.95": tsr,
        "coarse 1.03": BandScaling(EpsilonScaling(1.03), NONE).wrap,
        "fine 1.03": BandScaling(NONE, EpsilonScaling(1.03)).wrap,
    },
    ("ddpm", 50): CLIPPED,
    ("ddpm", 100): OFF | scaled(1.017) | CLIPPED | shifted(0.99),
    ("ddim", 10): OFF | scaled(1.01) | shifted(0.98),
    ("ddim", 20): OFF
    | scaled(0.995, 1.005, 1.01)
    | shifted(0.98, 1.02)
    | {"TSR 0.95": tsr, "DCW 0.005": dcw},
    **{("ddim", steps): OFF | scaled(1.005) | shifted(0.99) for steps in (50, 100)},
    ("ddpm_cfg2", 20): GUIDED,
    ("ddpm_cfg2", 14): stronger(0.3, -0.3),
    ("ddpm_cfg4", 20): GUIDED,
    ("ddpm_cfg4", 14): stronger(0.3, -0.3),
    **{("euler", steps): OFF | scaled(0.9955, 1.0045) | shifted(0.98, 1.02) for steps in (13, 21, 35)},
    **{("heun", steps): OFF | scaled(0.9955, 1.0045) | shifted(0.98, 1.02) for steps in (7, 11, 18)},
}
FLOW: Grid = {
    ("flow", 14): stronger(0.3, -0.3),
    **{("flow", steps): OFF | scaled(0.99, 1.01) | shifted(0.95, 0.98, 1.02) for steps in (10, 20)},
}
