"""The nested denoisers of one run of a WebUI's sampler."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...denoiser import Denoise
from ...errors import HostError, SteadyDiffError
from ...methods.method import Editor, Method
from ..kept import Kept, as_kept
from ..patch import count_calls, in_order, nest
from .run import RunSetup, UnitConversion

logger = logging.getLogger("steadydiff")

UNREACHABLE = ("lcm", "unipc", "unipc_bh2")
"""Samplers that go on without the state they call with."""


@dataclass(frozen=True)
class Prediction:
    """One guided prediction of the host's model.

    cfg:      the weight of guidance
    denoised: the clean estimate
    cond, uncond: those of the branches, None where the host made none or none is wanted
    """

    cfg: float
    denoised: Tensor
    cond: Tensor | None = None
    uncond: Tensor | None = None


Evaluate = Callable[[Tensor, Tensor], Prediction]
CallNetwork = Callable[[Tensor, Tensor], Tensor]


class _Left(Exception):  # noqa: N818  # no error
    """Ends the correction of a state whose model has given way to another while it was called."""


class WebuiSession:
    """The nested denoisers of one run.

    Methods of kind "prediction" correct the host's guided predictions, before a mask is blended in; those of
    kind "state" the sampler's state, outside them; those that shift the level work around each call of the
    network, see `shifted`.

    said: what the run's line begins with
    """

    def __init__(self, setup: RunSetup, check_interrupted: Callable[[], None]) -> None:
        self.setup, self.methods, self.calls = setup, [], 0
        self.ended = False
        self.said: list[str] = []
        self._failure = ""
        self._corrected, self._missed = 0, 0
        self._acted: dict[str, Any] = {}
        self._guided: list[Method] = []
        self._shifts: list[Method] = []
        self._shifted = 0
        self._model = _HostModel(check_interrupted)
        self._correct: Denoise = self._model
        self._branch: Any = None
        self._scale: Denoise = lambda x, sigma: self._branch
        self._forward: Callable[[Tensor], Tensor] | None = None
        self._editors: list[Editor] = []
        self._edit: Denoise = self._call_host

    def add(self, method: Method) -> None:
        """Take in a method; SteadyDiffError if it cannot work in this run."""
        run = self.setup.run
        if method.acts_on == "state":
            self._add_editor(method)
        elif method.shifts_level:
            self._shifts += [] if method.is_off else [method]
        else:
            guided = in_order([*self._guided, method])
            correct: Denoise = self._model
            for one in guided:
                correct = self._counted(one.title, one.wrap(correct, run))
            self._correct, self._guided = correct, guided
            scalings = [one for one in guided if one.scales_branch]
            self._scale = nest(lambda x, sigma: self._branch, scalings, run)
        self.methods.append(method)

    def _counted(self, title: str, denoise: Denoise) -> Denoise:
        """Return a wrapped denoiser that counts the calls whose answer it has changed."""

        def prediction(x: Tensor, sigma: Tensor) -> Tensor:
            result, model = denoise(x, sigma), self._model
            if result is not model.latest:  # summed on its device, where nobody waits for it
                self._acted[title] = self._acted.get(title, 0) + (result != model.latest).any().long()
            model.latest = result
            return result

        return _Counted(denoise, prediction)

    def _add_editor(self, method: Any) -> None:
        setup = self.setup
        if setup.sampler in UNREACHABLE:
            raise HostError(
                f"the sampler {setup.sampler} does not go on with the state it asks with, so {method.title} "
                f"cannot correct it; choose another sampler"
            )
        mask = getattr(setup.model, "nmask", None) if setup.model.mask is not None else None
        if mask is not None:  # what is kept of the picture is not the sampler's
            method = method.masked(mask)
        run = replace(setup.run, step_calls=setup.step_calls()) if method.wants_steps else setup.run
        edit = method.wrap(self._edit, run)
        if not method.is_off:
            self._editors.append(edit)
        self._edit = edit

    @property
    def wants_branches(self) -> bool:
        """Whether a method looks at the branches of guidance."""
        return any(method.wants_branches for method in self._guided)

    @property
    def _calls_aside(self) -> bool:
        """Whether a method may call the host's model or its guidance for more than the sampler does."""
        return any(
            method.acts_on == "state" or method.extra_calls or method.wants_branches
            for method in self.methods
        )

    @property
    def shifts_level(self) -> bool:
        """Whether the network's calls must go through `shifted`."""
        return bool(self._shifts)

    def shifted(
        self, units: UnitConversion, x: Tensor, level: Tensor, call: CallNetwork, whole: bool = False
    ) -> Tensor:
        """Return what the host's network would answer at x, called at the level that methods choose.

        x, level: of any number of branches; they, what `call` takes and what it answers are in `units`
        whole:    whether the network knows whole timesteps only
        """
        state, sigma = units.state(x, level)

        def denoise(moved: Tensor, at: Tensor) -> Tensor:
            chosen = units.level(at, whole)
            at = units.sigma(chosen)
            return units.clean(moved, call(units.back(moved, at), chosen), at)

        self._shifted += 1
        denoised = nest(denoise, in_order(self._shifts), self.setup.run)(state, sigma)
        return units.prediction(state, denoised, sigma)

    @property
    def edits_state(self) -> bool:
        """Whether the sampler's state is written to."""
        return bool(self._editors)

    def leave_states(self) -> None:
        """From now on another model answers, for which nothing was trained."""
        self._edit = self._call_host

    def differences(self) -> list[str]:
        """Say where a schedule or a measurement was made for something else than what now runs."""
        found, model = [], self.setup.checkpoint
        for method in self._guided:
            facts = {"sampler": self.setup.sampler, "cfg": self.setup.cfg, "sigmas": self.setup.run.sigmas}
            found += method.differences(**facts, model=model)
        return found

    def evaluate(self, x: Tensor, level: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
        """Call the host's model with the sampler's own state x, which the methods may correct in place."""
        corrected, shifted = self._corrected, self._shifted
        if self._calls_aside:
            self.guarded(self._remember, lambda: None)
        result = self._evaluated_or_edited(x, level, evaluate)
        self.calls += 1
        passed = (not self._guided or self._corrected > corrected) and (
            not self._shifts or self._shifted > shifted
        )
        self._missed += not passed and not self._failure
        return result

    def _remember(self) -> None:
        self._model.before = self.setup.kept()

    def aside(self) -> AbstractContextManager[None]:
        """While this is open, what other extensions keep from call to call is as the sampler's call has found
        it; then it is as it is now."""
        return as_kept(self._model.before)

    def guarded(self, work: Callable[[], Tensor | None], otherwise: Callable[[], Tensor | None]) -> Any:
        """Return what our work gives; if it fails, `otherwise`, and so in all the rest of the run."""
        if not self._failure:
            try:
                return work()
            except Exception as error:
                self._fail(error)
        return otherwise()

    def _fail(self, error: Exception) -> None:
        self._failure = f"{told(error)} (from model call {self.calls + 1} on nothing is corrected)"

    def _evaluated_or_edited(self, x: Tensor, level: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
        if self._edit == self._call_host or self._failure:
            return evaluate(x)
        units, edited = self.setup.units, self._edited
        (state, sigma), predictions, theirs = units.state(x, level), [], []

        def write() -> None:
            if state is not x and self._edited > edited:
                x.copy_(units.back(state, sigma))

        def call(state: Tensor) -> Tensor:
            write()
            try:
                predictions.append(evaluate(x))
            except Exception as error:
                theirs.append(error)
                raise
            if self._edit == self._call_host:  # within this call
                raise _Left
            return units.clean(state, predictions[-1], sigma)

        self._forward = call
        try:
            denoised = self._edit(state, sigma)
            write()
        except _Left:
            return predictions[-1]
        except Exception as error:
            if error in theirs:
                raise
            self._fail(error)
            return predictions[-1] if predictions else evaluate(x)
        # eps is what it was: one method edits before the model is called, the other state and estimate alike.
        return denoised if state is x else predictions[-1]

    @property
    def _edited(self) -> int:
        return sum(editor.applied for editor in self._editors)

    def _call_host(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert self._forward is not None
        return self._forward(x)

    def correct(self, x: Tensor, sigma: Tensor, prediction: Prediction, again: Evaluate) -> Tensor:
        """Return the corrected clean estimate for the host's prediction at x; `again` calls elsewhere."""
        self._corrected += 1
        self._model.begin(prediction, again)
        return self._correct(x, sigma)

    def corrected_branch(self, x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
        """Return a branch's clean estimate as samplers should see it that step along it: scaled as the guided
        one, and moved as far as MDSS will move the state, so that its noise stays."""
        return self.guarded(lambda: self._corrected_branch(x, sigma, denoised), lambda: denoised)

    def _corrected_branch(self, x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
        self._branch = denoised
        denoised, self._branch = self._scale(x, sigma), None
        if self._edit != self._call_host:
            for editor in self._editors:
                denoised = denoised - editor.error(x, sigma)
        return denoised

    def scaled_noise(self, x: Tensor, level: Tensor, noise: Tensor | None) -> Tensor | None:
        """Return the negative prompt's noise, scaled as the guided one, for DDIM CFG++."""
        return self.guarded(lambda: self._scaled_noise(x, level, noise), lambda: noise)

    def _scaled_noise(self, x: Tensor, level: Tensor, noise: Tensor | None) -> Tensor | None:
        units = self.setup.units
        if noise is None or not units.vp:
            return noise
        state, sigma = units.state(x, level)
        self._branch = clean = units.clean(state, noise, sigma)
        scaled, self._branch = self._scale(state, sigma), None
        return noise if scaled is clean else units.prediction(state, scaled, sigma).to(noise.dtype)

    def summary(self) -> str:
        """Say what each method did."""
        run, editors, done = self.setup.run, iter(self._editors), []
        as_planned = self.ended and not self._missed and not self._failure
        for method in self.methods:
            if method.acts_on == "state":
                done.append(f"{method.title} {'off' if method.is_off else next(editors)}")
            elif as_planned:
                done.append(f"{method.title} {method.summary(run)}")
            elif method.shifts_level:
                done.append(f"{method.title} {method}")
            else:
                acted = int(self._acted.get(method.title, 0))
                done.append(f"{method.title} acted at {acted} of {self.calls} model calls")
        cut = [] if self.ended else ["interrupted"]
        return "; ".join((*self.said, *done, count_calls(self.calls, self._model.extra), *cut))

    def failures(self) -> list[str]:
        """Say what went wrong while the run went on."""
        failed = [self._failure] if self._failure else []
        if not self._missed:
            return failed
        return [
            *failed,
            f"{self._missed} of {self.calls} answers of the model did not pass through SteadyDiff and stay "
            f"as they were, because another extension replaces guidance; switch one of the two off",
        ]

    def close(self) -> None:
        """Let go of the host's objects and of the device's memory."""
        self._model.begin(None, None)
        self._model.before, self._forward = Kept(), None
        for module in self.setup.modules:
            module.cpu()


def told(error: Exception) -> str:
    """Return what a user reads of an error; one that nobody expected goes to the log with its traceback."""
    if isinstance(error, SteadyDiffError):
        return str(error)
    logger.error("SteadyDiff: an error nobody expected", exc_info=error)
    return f"an error nobody expected, please report it: {type(error).__name__}: {error}"


def second_of(found: dict[str, Tensor], branches: str) -> Tensor:
    """Return the second output of the call at work; HostError if the host has shown us none."""
    if branches not in found:
        raise bypassed()
    return found[branches]


def bypassed() -> HostError:
    """Return the error for a network whose last layer was not at work as expected."""
    return HostError(
        "MDSS did not see the network's last layer at work as expected: it is compiled, or another extension "
        "replaces it; switch that off, or MDSS"
    )


class _Counted:
    """A denoiser that answers through a function and shows what the one within shows (branches, cfg)."""

    def __init__(self, denoise: Denoise, prediction: Denoise) -> None:
        self._denoise, self._prediction = denoise, prediction

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._prediction(x, sigma)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoise, name)


class _HostModel:
    """The host's guided model as the methods know denoisers; its first call is answered already, and of the
    others other extensions know nothing, see `kept.py`.

    branches, cfg: as in `steadydiff.Guided`, of the latest call
    latest: what the latest denoiser of the nest has answered
    before: what other extensions kept when the sampler's call began
    """

    def __init__(self, check_interrupted: Callable[[], None]) -> None:
        self._check_interrupted, self.extra, self.cfg = check_interrupted, 0, 1.0
        self.branches: Any = None
        self.latest: Tensor | None = None
        self.before = Kept()
        self._prediction: Prediction | None = None
        self._again: Evaluate | None = None

    def begin(self, prediction: Prediction | None, again: Evaluate | None) -> None:
        self._prediction, self._again, self.branches, self.latest = prediction, again, None, None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        prediction, self._prediction = self._prediction, None
        if prediction is None:
            assert self._again is not None
            self._check_interrupted()
            with as_kept(self.before):
                prediction = self._again(x, sigma)
            self.extra += 1
        self.cfg = prediction.cfg
        self.branches = None if prediction.cond is None else (prediction.cond, prediction.uncond)
        self.latest = prediction.denoised
        return prediction.denoised
