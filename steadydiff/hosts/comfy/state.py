"""ComfyUI: methods that rectify the sampler's own state come in at the host's SAMPLER_SAMPLE level.

The sampler function is handed a stand-in for its model, which is called with the
very tensor the sampler goes on with; there the correction is written in place, before the host mixes in a
mask. Samplers that call with a temporary are refused, since what is written there is lost.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ...denoiser import Denoise, Run
from ...drift.stepping import SAME_SIGMA, step_calls
from ...errors import HostError
from ...files.model_card import ModelCard
from ...methods.method import StateMethod
from ..patch import StandIn, check_card, states_of
from .cfg_pp import added_functions, show_branches
from .host import ComfyHost, logger, run_of, sampler_name, sigma_data_of

# These scale the state into a new tensor before they call.
TEMPORARY = ("uni_pc", "uni_pc_bh2")

CallModel = Callable[[Any, Tensor, Tensor, dict, Any], Tensor]
"""(the host's model, x, sigma, what the sampler sends along, the method's editor) -> clean estimate: how the
host's model is called in a method's name."""


@dataclass(frozen=True)
class StateRun:
    """One of the host's runs, as it calls its sampler."""

    guider: Any
    sigmas: Tensor
    extra_args: dict
    noise: Tensor
    host: ComfyHost


class Resource(Protocol):
    """What a patch brings along beside its settings: a loaded network, a second head.

    name:   of its file, for people
    models: ModelPatchers that the host loads together with the model
    """

    @property
    def name(self) -> str: ...
    @property
    def models(self) -> Sequence[Any]: ...

    def wrappers(self, host: ComfyHost) -> dict[str, Callable]:
        """Return wrappers around levels of the host that only this needs, by the level's name."""
        ...

    def check(self, model: Any) -> None:
        """Raise HostError unless it was made for a model like this."""

    def begin(
        self, settings: Any, run: StateRun, models: Sequence[Any]
    ) -> tuple[StateMethod, CallModel | None]:
        """Return the settings for one run, with what they apply, and how the model is called in their name;
        None = as the sampler calls it. `models` are its own, as the run's model carries them.

        Raises:  HostError for a run it cannot work in.
        """
        ...


def rectify(
    executor: Any, method: Any, resource: Resource | None, run: StateRun, models: Sequence[Any]
) -> None:
    """Let this run of the host's sampler go through a function that rectifies its states; the user's sampler
    stays as it is.

    Raises:  HostError for a sampler whose state cannot be reached.
    """
    check_sampler(executor.class_obj, method.title)
    call_model = None
    if resource:
        method, call_model = resource.begin(method, run, models)
    facts = run_of(run.guider.model_patcher.get_model_object("model_sampling"), run.sigmas)
    own = copy.copy(executor.class_obj)
    own.sampler_function = rectify_states(own.sampler_function, method, facts, call_model)
    executor.original, executor.class_obj = own.sample, own


def check_fits(model: Any, what: str, card: ModelCard, channels: int) -> None:
    """Raise HostError unless the model is of the kind that `what` was trained on."""
    model_sampling = model.get_model_object("model_sampling")
    latent_format = model.get_model_object("latent_format")
    space = states_of(model_sampling).space
    found = {
        "space": space,
        "latent_format": type(latent_format).__name__,
        "channels": latent_format.latent_channels,
        "family": type(model.model.model_config).__name__,
        "sigma_data": sigma_data_of(model_sampling, space),
    }
    check_card(what, card, channels, found)


def check_sampler(sampler: Any, title: str) -> None:
    """Raise HostError for a sampler whose state cannot be reached."""
    name = sampler_name(sampler)
    if name is None or name in TEMPORARY:
        raise unreachable(name or type(sampler).__name__, title)


def rectify_states(
    function: Callable, method: StateMethod, run: Run, call_model: CallModel | None = None
) -> Callable:
    """Return a sampler function that samples as `function` does, from rectified states.

    call_model: how the model is called; None = as the sampler does, and the state's level is then the
                sampler's own also where a node between it and us tells the model another
    """

    @functools.wraps(function)
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        rectified = _Rectified(function, method, run, call_model, model, extra_args)
        return rectified.sample(x, sigmas, callback, disable, options)

    return sample


class _Rectified:
    """One run of a sampler function, whose model is a stand-in that rectifies the state it is called with."""

    def __init__(
        self,
        function: Callable,
        method: StateMethod,
        run: Run,
        call_model: CallModel | None,
        model: Any,
        extra_args: dict | None,
    ) -> None:
        self._function, self._method, self._run = function, method, run
        self._call_model, self._model, self._extra = call_model, model, extra_args
        self._states = _States(function.__name__, method.title)
        self._progress = _Progress(run.sigmas)
        self._more: dict = {}  # what the sampler sent along with its latest call
        self._told: Any = None  # the level that it named
        self._editor: Any = None

    def sample(
        self, x: Tensor, sigmas: Tensor, callback: Callable | None, disable: bool | None, options: dict
    ) -> Tensor:
        """Run the sampler; `options` are its own."""
        method, run = self._method, self._run
        if method.wants_steps:
            run = replace(run, step_calls=step_calls(self._alone(options), torch.zeros_like(x[:1]), run))
        self._editor = method.wrap(self._denoise, run)

        def watch(step: dict) -> None:
            self._states.shown(step.get("x"))
            self._progress.shown(step)
            if callback is not None:
                callback(step)

        more = {"extra_args": self._extra, "callback": watch, "disable": disable, **options}
        try:
            # A first state may be the user's own latent, and stays as it is.
            return self._function(StandIn(self._model, self._predict), x.clone(), sigmas, **more)
        finally:
            logger.info("SteadyDiff: %s, %s: %s", method.title, method, self._editor)
            self._editor = None  # which knows us: a model caught in a cycle looks to the host like a leak

    def _predict(self, x: Tensor, sigma: Tensor, more: dict) -> Tensor:
        """What the sampler is answered."""
        self._states.called_with(x)
        self._more, self._told = more, sigma
        return self._editor(x, sigma if self._call_model else self._progress.level(sigma))

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Call the host's model, as the sampler would have."""
        if self._call_model:
            return self._call_model(self._model, x, sigma, self._more, self._editor)
        return self._model(x, self._told, **self._more)

    def _alone(self, options: dict) -> Callable:
        """The sampler on any denoiser, for finding which calls start a step."""

        def sample(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
            levels, progress = torch.tensor(sigmas, dtype=torch.float32, device=x.device), _Progress(sigmas)

            def predict(x: Tensor, sigma: Tensor, more: dict) -> Tensor:
                denoised = denoise(x, progress.level(sigma))
                show_branches(added_functions(more, self._extra or {}), denoised, x, sigma)
                return denoised

            stand_in = StandIn(self._model, predict)
            return self._function(
                stand_in, x, levels, dict(self._extra or {}), progress.shown, True, **options
            )

        return sample


class _States:
    """Checks that a sampler calls with its own state: with the very tensor it shows before or afterwards."""

    def __init__(self, name: str, title: str):
        self._name, self._title, self._seen = name.removeprefix("sample_"), title, []
        self._first: Tensor | None = None
        self._due: Tensor | None = None

    def called_with(self, x: Tensor) -> None:
        """Note a tensor that the model is called with.

        Raises:  HostError if another one is due.
        """
        if self._due is not None and x is not self._due:
            raise unreachable(self._name, self._title)
        self._due = None
        self._seen.append(x)
        if self._first is None:
            self._first = x

    def shown(self, x: Tensor | None) -> None:
        """Note the state that the sampler shows: called with since the last one, or due next.

        Some (deis, ipndm) always show their first.
        """
        known = x is None or x is self._first or any(x is at for at in self._seen)
        self._due = None if known else x
        self._seen.clear()


class _Progress:
    """Where a run is, by the steps that its sampler shows, each right after the call that begins it.

    Some nodes (Detail Daemon, Lying Sigma) stand between a sampler and its model and tell the model another
    noise level than the state's.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = sigmas
        self._seen: list[float] = []  # since a step was shown
        self._step: (
            int | None
        ) = -1  # the one last shown, -1 before the first; None if it is none of the run's
        self._lied = self._churned = False

    def level(self, at: Tensor) -> Tensor:
        """Return the state's level: the one called at, or the run's next where that is not the sampler's own.

        A sampler calls at a level of the run, or between the two of its step, or above by its own noise.

        Shapes:  at, result [B].
        """
        level, is_first = float(at.max()), self._step == -1 and not self._seen
        self._seen.append(level)
        if self._step is None or (self._step == -1 and not is_first):
            return at
        due = self._sigmas[self._step + 1]
        if not due or _is_same(level, due) or (not is_first and self._is_own(level, self._step)):
            return at
        return torch.full_like(at, due)

    def _is_own(self, level: float, step: int) -> bool:
        """Whether a level that is not the next may be one of the sampler's."""
        low, high = sorted(self._sigmas[step : step + 2])
        known = any(_is_same(level, one) for one in self._sigmas)
        return not self._lied and (known or self._churned or low <= level <= high)

    def shown(self, step: dict) -> None:
        """Note a step that the sampler shows: its number, its level, and what its own noise makes of that."""
        at, level = int(step.get("i", 0)), float(step.get("sigma", math.nan))
        known = at + 1 < len(self._sigmas) and _is_same(level, self._sigmas[at])
        self._step = at if known else None
        if known:
            own = float(step.get("sigma_hat", level))
            self._churned = not _is_same(own, level)
            self._lied = not any(_is_same(at, own) for at in self._seen)
        self._seen.clear()


def _is_same(level: float, other: float) -> bool:
    return math.isclose(level, other, rel_tol=SAME_SIGMA)


def unreachable(name: str, title: str) -> HostError:
    """Return the error for a sampler whose own state cannot be written to."""
    return HostError(
        f"the sampler {name} does not ask the model with its own state, so {title} cannot correct it; choose "
        f"euler, heun, dpmpp_2m or another sampler"
    )
