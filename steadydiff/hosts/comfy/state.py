"""ComfyUI: attaches a method that rectifies the sampler's own state, at the host's SAMPLER_SAMPLE level.

Duck-typed like `comfy.py`. The sampler function is handed a stand-in for its model, which is asked with the
very tensor the sampler goes on with; there the correction is written in place, before the host mixes in a
mask. Samplers that ask with a temporary are refused, since what is written there is lost.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...denoiser import Denoise, Run
from ...drift.stepping import SAME_SIGMA, step_calls
from ...errors import HostError, SettingsError
from ...files.antibias import Card
from ...files.model_card import ModelCard
from ...methods.antibias_prompt import AntiBiasPrompt, Calls
from ...methods.mdss import MDSS
from ..patch import Shown, check_card, states_of, window_sigmas
from .attach import ANTIBIAS_KEY, ComfyHost, run_of, sampler_name, sigma_data_of
from .drift import added_functions, show_branches

# These scale the state into a new tensor before they ask.
TEMPORARY = ("uni_pc", "uni_pc_bh2")

Ask = Callable[[Any, Tensor, Tensor, dict, Denoise], Tensor]
"""(the host's model, x, sigma, what the sampler sends along, the method's wrapped denoiser) -> clean
estimate: how the host's model is asked in a method's name."""

logger = logging.getLogger("steadydiff")


@dataclass(frozen=True)
class LoadedPrompt:
    """A network in the host's keeping, and what its file says of it.

    patcher: the host's ModelPatcher around a PromptNetwork
    dtype:   in which it computes
    name:    of the file, for people
    """

    patcher: Any
    card: Card
    dtype: torch.dtype = torch.float32
    name: str = ""


def attach_prompt(
    model: Any,
    prompt: LoadedPrompt,
    host: ComfyHost,
    *,
    strength: float = 1.0,
    window: tuple[float, float] = (0.0, 1.0),
    calls: Calls = "every",
) -> Any:
    """Return a clone of `model` whose samplers' states are rectified by the network.

    window: part of the run in which it acts, in per cent / 100 as the host counts
    calls:  "every" model call but the first, or only those that start a step
    Raises: HostError or SettingsError if the network was trained for something else, the model has one
            already, or a setting has no sense.
    """
    check_window(window)
    if model.get_additional_models_with_key(ANTIBIAS_KEY):
        raise SettingsError(
            "this model has an anti-bias prompt already, and two would correct twice; use one"
        )
    channels = prompt.patcher.model.config.latent_channels
    check_fits(model, f"the anti-bias model {prompt.name}", prompt.card, channels)
    method = AntiBiasPrompt(prompt.card.model(prompt.patcher.model), strength, calls)
    attachment = StateAttachment(method, window, prompt, host)
    clone = model.clone()
    clone.set_additional_models(ANTIBIAS_KEY, [prompt.patcher])
    clone.add_wrapper_with_key(host.sampler_sample, ANTIBIAS_KEY, attachment.sampler_sample)
    logger.info("SteadyDiff: anti-bias prompt %s attached (strength %g, %s)", prompt.name, strength, calls)
    return clone


def check_window(window: tuple[float, float]) -> None:
    """Raise SettingsError unless this is a part of a run."""
    if not 0 <= window[0] <= window[1] <= 1:
        raise SettingsError(
            f"start_percent and end_percent are of 0 to 1, in this order; got {window[0]:g}, {window[1]:g}"
        )


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


@dataclass(frozen=True)
class StateAttachment:
    """One node's settings, and the wrapper that serves them."""

    method: AntiBiasPrompt
    window: tuple[float, float]
    prompt: LoadedPrompt
    host: ComfyHost

    def sampler_sample(self, executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        """Sample with a stand-in between the sampler and its model; newer hosts may pass more arguments."""
        sampler, model = executor.class_obj, guider.model_patcher
        model_sampling = model.get_model_object("model_sampling")
        high, low = window_sigmas(model_sampling, *self.window)
        method = replace(self.method, sigma_high=high, sigma_low=low)
        if not (self.host.in_training() or method.is_off or len(sigmas) < 2):
            run = run_of(model_sampling, sigmas)
            check_sampler(sampler, method.title)
            self._check_latents(noise)
            [patcher] = model.get_additional_models_with_key(ANTIBIAS_KEY)  # the clone's own
            method = replace(method, model=replace(method.model, network=self._network(patcher.model)))
            replace_function(executor, rectify_states(sampler.sampler_function, method, run))
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)

    def _network(self, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        dtype = self.prompt.dtype
        return lambda seen: network(seen.to(dtype)).to(seen.dtype)

    def _check_latents(self, noise: Tensor) -> None:
        channels = self.prompt.patcher.model.config.latent_channels
        if noise.shape[1] != channels:
            raise HostError(
                f"the anti-bias model {self.prompt.name} takes latents of {channels} channels and this run's "
                f"have {noise.shape[1]} (packed video and audio, perhaps); disconnect it for this model"
            )


def check_sampler(sampler: Any, title: str) -> None:
    """Raise HostError for a sampler whose state cannot be reached."""
    name = sampler_name(sampler)
    if name is None or name in TEMPORARY:
        raise unreachable(name or type(sampler).__name__, title)


def replace_function(executor: Any, function: Callable) -> None:
    """Let this run of the host's sampler go through another function; the user's sampler stays as it is."""
    own = copy.copy(executor.class_obj)
    own.sampler_function = function
    executor.original, executor.class_obj = own.sample, own


def rectify_states(
    function: Callable,
    method: AntiBiasPrompt | MDSS,
    run: Run,
    ask: Ask | None = None,
) -> Callable:
    """Return a sampler function that samples as `function` does, from rectified states.

    ask: how the model is asked; None = as the sampler does, and the state's level is then the sampler's own
         also where a node between it and us tells the model another
    """

    @functools.wraps(function)
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        more, states, progress = {}, _States(function.__name__, method.title), _Progress(run.sigmas)
        rectified: Any = None
        told: Any = None

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return ask(model, x, sigma, more, rectified) if ask else model(x, told, **more)

        def answer(x: Tensor, sigma: Tensor, own: dict) -> Tensor:
            nonlocal told
            more.clear()
            more.update(own)
            states.asked_with(x)
            told = sigma
            return rectified(x, sigma if ask else progress.level(sigma))

        def watch(step: dict) -> None:
            states.shown(step.get("x"))
            progress.shown(step)
            if callback is not None:
                callback(step)

        def alone(denoise, x, sigmas):
            """The sampler on any denoiser, for finding which calls start a step."""
            levels, progress = torch.tensor(sigmas, dtype=torch.float32, device=x.device), _Progress(sigmas)

            def shown(x: Tensor, sigma: Tensor, own: dict) -> Tensor:
                denoised = denoise(x, progress.level(sigma))
                show_branches(added_functions(own, extra_args or {}), denoised, x, sigma)
                return denoised

            stand_in = Shown(model, shown)
            return function(stand_in, x, levels, dict(extra_args or {}), progress.shown, True, **options)

        known = run
        if method.wants_steps:
            known = replace(run, step_calls=step_calls(alone, torch.zeros_like(x[:1]), run))
        rectified = method.wrap(denoise, known)
        try:
            # A first state may be the user's own latent, and stays as it is.
            return function(
                Shown(model, answer),
                x.clone(),
                sigmas,
                extra_args=extra_args,
                callback=watch,
                disable=disable,
                **options,
            )
        finally:
            logger.info("SteadyDiff: %s, strength %g: %s", method.title, method.strength, rectified)
            rectified = None  # which `denoise` knows: a model caught in a cycle looks to the host like a leak

    return sample


class _States:
    """Checks that a sampler asks with its own state: with the very tensor it shows before or afterwards."""

    def __init__(self, name: str, title: str):
        self._name, self._title, self._asked = name.removeprefix("sample_"), title, []
        self._first: Tensor | None = None
        self._due: Tensor | None = None

    def asked_with(self, x: Tensor) -> None:
        """Note a tensor that the model is asked with.

        Raises:  HostError if another one is due.
        """
        if self._due is not None and x is not self._due:
            raise unreachable(self._name, self._title)
        self._due = None
        self._asked.append(x)
        if self._first is None:
            self._first = x

    def shown(self, x: Tensor | None) -> None:
        """Note the state that the sampler shows: asked with since the last one, or due next.

        Some (deis, ipndm) always show their first.
        """
        known = x is None or x is self._first or any(x is asked for asked in self._asked)
        self._due = None if known else x
        self._asked.clear()


class _Progress:
    """Where a run is, by the steps that its sampler shows, each right after the call that begins it.

    Some nodes (Detail Daemon, Lying Sigma) stand between a sampler and its model and tell the model another
    noise level than the state's.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = sigmas
        self._asked: list[float] = []  # since a step was shown
        self._step: (
            int | None
        ) = -1  # the one last shown, -1 before the first; None if it is none of the run's
        self._lied = self._churned = False

    def level(self, asked: Tensor) -> Tensor:
        """Return the state's level: the one asked at, or the run's next where that is not the sampler's own.

        A sampler asks at a level of the run, or between the two of its step, or above by its own noise.

        Shapes:  asked, result [B].
        """
        level, is_first = float(asked.max()), self._step == -1 and not self._asked
        self._asked.append(level)
        if self._step is None or (self._step == -1 and not is_first):
            return asked
        due = self._sigmas[self._step + 1]
        if not due or _is_same(level, due) or (not is_first and self._is_own(level, self._step)):
            return asked
        return torch.full_like(asked, due)

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
            self._lied = not any(_is_same(asked, own) for asked in self._asked)
        self._asked.clear()


def _is_same(level: float, other: float) -> bool:
    return math.isclose(level, other, rel_tol=SAME_SIGMA)


def unreachable(name: str, title: str) -> HostError:
    """Return the error for a sampler whose own state cannot be written to."""
    return HostError(
        f"the sampler {name} does not ask the model with its own state, so {title} cannot correct it; choose "
        f"euler, heun, dpmpp_2m or another sampler"
    )
