"""A run taken step by step: each step tried with several λ before one is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor

from ..denoiser import Denoise, Run
from ..errors import SettingsError, SteadyDiffError
from ..methods.epsilon_scaling import scale_epsilon, stride_shares
from ..metrics.norms import predicted_norm
from .stepping import ModelCall, Remember, Sampler, draws_noise, even_noise, next_call, step_calls

NUDGE = 1e-3  # by which λ is moved to see where the sampler's arithmetic takes the next state


@dataclass(frozen=True)
class Trial:
    """One step tried with one λ: its raw predictions, and the call it leads to with that one's."""

    scale: float
    raw: tuple[Tensor, ...]
    call: ModelCall
    prediction: Tensor
    energy: Tensor
    restore: Callable[[], None]

    @property
    def size(self) -> float:
        """Root mean squared norm of the predicted noise."""
        return float(self.energy.mean().sqrt())


class Walk:
    """A run in progress: the predictions given so far, and the model's raw prediction to the present call."""

    def __init__(
        self,
        sampler: Sampler,
        denoise: Denoise,
        x: Tensor,
        run: Run,
        on_call: Callable[[], None],
        remember: Remember,
    ) -> None:
        self._sampler, self._denoise, self._x, self._run = sampler, denoise, x, run
        self._remember = remember
        self._shares = stride_shares(run.space, run)
        self._starts, self._step, self.calls, self._on_call = step_calls(sampler, x, run), 0, 0, on_call
        self._drawn = draws_noise(sampler, x, run)
        self._given: list[Tensor] = []
        call = self._next([])
        for _ in range(self._starts[0]):  # what a sampler calls before its first step
            self._given.append(self._evaluate(call))
            call = self._next([])
        self._call, self._raw, self._restore = call, self._evaluate(call), remember()
        self.energy = self._energy(call, self._raw, 0)

    @property
    def size(self) -> float:
        """Root mean squared norm of the noise that is predicted at present."""
        return float(self.energy.mean().sqrt())

    def attempt(self, scale: float) -> Trial:
        """Take the present step with one λ and call the model where it leads."""
        raw = self.stages(scale)
        call = self.lead(raw, scale)
        prediction = self._evaluate(call)
        energy = self._energy(call, prediction, self._step + 1)
        return Trial(scale, raw, call, prediction, energy, self._remember())

    def stages(self, scale: float) -> tuple[Tensor, ...]:
        """The raw predictions within the present step; the model is called for those after the first."""
        self._restore()
        raw = (self._raw,)
        for _ in range(self._starts[self._step + 1] - self._starts[self._step] - 1):
            raw = (*raw, self._evaluate(self.lead(raw, scale)))
        return raw

    def lead(self, raw: Sequence[Tensor], scale: float) -> ModelCall:
        """Where raw predictions, scaled, take the sampler. No model call."""
        call, corrected = self._call, []
        for prediction in raw:
            corrected.append(self._scaled(call, prediction, scale))
            call = self._next(corrected)
        return call

    def effect(self, trial: Trial) -> float:
        """Change of log norm per λ if the state moves as the arithmetic says and the clean estimate stays.

        No model call: the raw predictions of the trial are scaled otherwise and the sampler is called again.
        """
        moved = (self.lead(trial.raw, trial.scale + NUDGE).x - trial.call.x).cpu().double() / NUDGE
        alpha = 1.0 if self._run.space == "ve" else 1 - self._run.sigmas[self._step + 1]
        noise = (trial.call.x - alpha * trial.prediction).cpu().double()
        return float((moved * noise).sum() / noise.square().sum())

    def take(self, trial: Trial) -> None:
        """Go where a trial led."""
        call = self._call
        for raw in trial.raw:
            self._given.append(self._scaled(call, raw, trial.scale))
            call = self._next([])
        self._step, self._call, self._raw = self._step + 1, call, trial.prediction
        self.energy, self._restore = trial.energy, trial.restore

    def _next(self, more: Sequence[Tensor]) -> ModelCall:
        with even_noise(self._x) if self._drawn else nullcontext():
            found = next_call(self._sampler, self._x, self._run.sigmas, [*self._given, *more])
        if not isinstance(found, ModelCall):
            raise SettingsError("this sampler does not ask the same questions each time; choose e.g. euler")
        return found

    def _evaluate(self, call: ModelCall) -> Tensor:
        self.calls += 1
        prediction = self._denoise(*call)
        self._on_call()
        return prediction

    def _scaled(self, call: ModelCall, raw: Tensor, scale: float) -> Tensor:
        x, sigma = call
        if (self._shares(sigma) < 1).any():  # too long a stride for λ to act in full: none is sought
            return raw
        return scale_epsilon(x, raw, scale, sigma=sigma.to(x), space=self._run.space)

    def _energy(self, call: ModelCall, prediction: Tensor, step: int) -> Tensor:
        """Squared norm of the predicted noise, sample by sample."""
        sigma = self._run.sigmas[step]
        energy = predicted_norm(call.x, prediction, sigma, self._run.space).square()
        if not (energy.isfinite().all() and energy.sum() > 0):
            raise SteadyDiffError(
                f"the model's answer at step {step + 1}, sigma {sigma:.4g}, holds NaN or infinity, or no "
                f"noise at all; nothing was calibrated"
            )
        return energy.cpu()
