"""The paper's three curves, gathered batch by batch: δ of whole runs, Δ of single steps, and the error e."""

from __future__ import annotations

from torch import Tensor

from ..denoiser import Run
from .deltas import delta_paper, one_step, residual, single_step_error
from .running import Rows, RunningMoments, standard_errors

PAPER_CURVES = ("delta", "step_delta", "estimate_error")
"""Their names; the first has one more value than the run has steps."""


class PaperCurves:
    """δ, Δ and e of Ning et al., 2023, arXiv 2308.15321: equations 14 to 19, algorithms 1 to 3.

    All in the units of x and of x0; `deltas.per_vp` turns variances into the paper's.
    """

    def __init__(self, run: Run, most: int) -> None:
        """most: of how many samples values are kept one by one, for standard errors."""
        self._run = run
        self._paired = [RunningMoments() for _ in run.sigmas]
        self._stepped = [RunningMoments() for _ in range(run.steps)]
        self._missed = [RunningMoments() for _ in range(run.steps)]
        self._rows = {name: Rows(run.steps + (name == "delta"), most) for name in PAPER_CURVES}

    def add_state(self, step: int, x: Tensor, clean: Tensor) -> None:
        """Take in states of a run before a step, or its results, beside the clean samples it began with.

        Source:  algorithms 1 and 3.
        """
        left = residual(x, clean, self._run.sigmas[step], self._run.space)
        self._paired[step].add(left)
        self._rows["delta"].add(step, energy(left))

    def add_step(self, step: int, x: Tensor, denoised: Tensor, clean: Tensor, fresh: Tensor) -> None:
        """Take in clean estimates of truly noised samples x, and step once from there with fresh noise.

        Source:  algorithm 2; equation 14 for e.
        """
        sigma, after = self._run.sigmas[step : step + 2]
        stepped = one_step(x, denoised, sigma, after, self._run.space, fresh)
        left = residual(stepped, clean, after, self._run.space)
        self._stepped[step].add(left)
        self._missed[step].add(denoised - clean)
        self._rows["step_delta"].add(step, energy(left))
        self._rows["estimate_error"].add(step, energy(denoised - clean))

    @property
    def curves(self) -> dict[str, tuple[float, ...]]:
        """What was gathered, by name."""
        sigmas, found = self._run.sigmas, {}
        if self._paired[0].count:
            found["delta"] = tuple(map(delta_paper, self._paired, sigmas))
        if self._stepped[0].count:
            found["step_delta"] = tuple(map(single_step_error, self._stepped, sigmas[1:]))
            found["estimate_error"] = tuple(float(off.mean_square.mean().sqrt()) for off in self._missed)
        return found

    @property
    def standard_errors(self) -> dict[str, tuple[float, ...]]:
        """Of what was gathered, by name."""
        curves = self.curves
        counts = {"delta": self._paired[0].count, **dict.fromkeys(PAPER_CURVES[1:], self._stepped[0].count)}
        found = {name: standard_errors(self._rows[name].values, counts[name]) for name in curves}
        if "estimate_error" in found:  # until now of e²
            pairs = zip(found["estimate_error"], curves["estimate_error"], strict=True)
            found["estimate_error"] = tuple(error / (2 * e) if e else 0.0 for error, e in pairs)
        return found


def energy(x: Tensor) -> Tensor:
    """Mean square of each sample [B], in float64 on the CPU."""
    return x.cpu().double().square().flatten(1).mean(1)
