"""What is known of a WebUI's run when it begins: its noise levels and units, its model, and its host."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ...denoiser import Denoise, Run, Space, eps_from_denoised, per_sample
from ...drift.stepping import step_calls
from ...errors import HostError
from ...files.mdss import Head
from ...files.model_card import ModelCard
from ...noise import Motion
from ..kept import Kept
from ..patch import StandIn, check_card

if TYPE_CHECKING:  # a route corrects through a session, which knows this module
    from .session import WebuiSession

CallModel = Callable[[], Tensor]


class HostRoute(Protocol):
    """How one family of hosts is hooked.

    space:  how the model builds its states, and
    noise:  the standard deviation of the noise in them
    levels: has `percent_to_sigma`: a share of the run, 0 its beginning -> the noise level there, and `sigmas`
            of the training's levels
    facts:  what `check_card` compares, None where the host does not know
    shows_noise: whether the denoiser keeps the negative prompt's noise, for DDIM CFG++ to step along
    """

    space: Space
    noise: float
    levels: Any
    facts: dict[str, Any]
    shows_noise: bool

    def alphas_cumprod(self) -> Tensor:
        """The signal's share of the variance at each timestep, for samplers that count in them."""
        ...

    def install(self, session: WebuiSession) -> None:
        """Let the host's predictions go through `session.correct`, until `remove`."""

    def follow(self, session: WebuiSession) -> None:
        """Go on with the model that the host has put in the place of the first."""

    def remove(self) -> None:
        """Take all hooks away."""

    def second_output(self, what: str, head: Head, branches: str) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what tells the second output of the sampler's latest call, and listen for it from now on."""
        ...

    def partners(self) -> tuple[Any, ...]:
        """Return what holds the functions of other extensions that each guided prediction passes through."""
        ...

    def sent_along(self, session: WebuiSession, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return what the sampler sends along with one call, such that our hooks and its own work."""
        ...

    def hooked(self, evaluate: CallModel) -> Tensor:
        """Make one call of the sampler's, recording the network if someone wants its second output."""
        ...


class UnitConversion:
    """How a sampler's states and the predictions it gets read as x = x0 + sigma * eps and clean estimates.

    The timestep samplers' states are VP, sqrt(abar) * x0 + sqrt(1 - abar) * eps, their noise levels are
    timesteps, and the predictions eps. Without `alphas_cumprod` both are what we want already.
    """

    def __init__(self, alphas_cumprod: Tensor | None = None) -> None:
        self._alphas = alphas_cumprod

    @property
    def vp(self) -> bool:
        """Whether the sampler is one of those."""
        return self._alphas is not None

    def state(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return a state and its sigma; x itself where it is one already."""
        sigma = self.sigma(level)
        if self._alphas is None:
            return x, level
        return x * _spread(sigma, x), sigma

    def sigma(self, level: Tensor) -> Tensor:
        """Return the sigma of the sampler's noise level."""
        return level if self._alphas is None else timestep_sigma(level, self._alphas.to(level.device))

    def level(self, sigma: Tensor, whole: bool = False) -> Tensor:
        """Return the sampler's noise level at a sigma; `whole`: where that is a timestep, the nearest one."""
        if self._alphas is None:
            return sigma
        found = sigma_timestep(sigma, self._alphas.to(sigma.device))
        return found.round() if whole else found

    def back(self, state: Tensor, sigma: Tensor) -> Tensor:
        """Return a state as the sampler has it."""
        return state if self._alphas is None else state / _spread(sigma, state)

    def clean(self, state: Tensor, prediction: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean estimate that a prediction means."""
        if self._alphas is None:
            return prediction
        return state - per_sample(sigma.to(state.dtype), state) * prediction

    def prediction(self, state: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        """Return the prediction that means a clean estimate."""
        return denoised if self._alphas is None else eps_from_denoised(state, denoised, sigma.to(state.dtype))


def _spread(sigma: Tensor, x: Tensor) -> Any:
    return per_sample((sigma**2 + 1).sqrt().to(x.dtype), x)


def timestep_sigma(timestep: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return sigma = sqrt(1 / abar - 1) at timesteps, which need not be whole; log abar is linear between.

    Shapes:  timestep, result [B]; alphas_cumprod [T].
    Dtype:   float32.
    """
    at = timestep.float().clamp(0, len(alphas_cumprod) - 1)
    low, logs = at.floor().long(), alphas_cumprod.float().log()
    high = (low + 1).clamp(max=len(logs) - 1)
    return torch.lerp(logs[low], logs[high], at - low).neg().expm1().sqrt()


def sigma_timestep(sigma: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return the timestep, which need not be whole, of a sigma: `timestep_sigma` undone; beyond the table its
    ends.

    Shapes:  sigma [B]; alphas_cumprod [T].
    Dtype:   float32.
    """
    falls, sought = -alphas_cumprod.float().log(), sigma.float().square().log1p()
    above = torch.searchsorted(falls, sought).clamp(1, len(falls) - 1)
    share = (sought - falls[above - 1]) / (falls[above] - falls[above - 1])
    return (above - 1 + share).clamp(0, len(falls) - 1)


@dataclass
class RunSetup:
    """A run that is about to begin, as panels' plans see it.

    function: the sampler's own
    kwargs:   what the host hands it beside model and state
    modules:  networks that are on the run's device until it ends
    """

    function: Callable
    model: Any
    x: Tensor
    kwargs: dict[str, Any]
    route: HostRoute
    units: UnitConversion
    run: Run
    modules: list[nn.Module] = field(default_factory=list)

    @classmethod
    def of(
        cls, function: Callable, model: Any, x: Tensor, kwargs: dict[str, Any], route: HostRoute
    ) -> RunSetup:
        """Raises: HostError for a sampler that does not tell its noise levels."""
        alphas = route.alphas_cumprod().float() if kwargs.get("timesteps") is not None else None
        sigmas = run_sigmas(function, kwargs, model.steps, alphas)
        return cls(
            function,
            model,
            x,
            kwargs,
            route,
            UnitConversion(alphas),
            Run(route.space, sigmas, noise=route.noise),
        )

    @property
    def sampler(self) -> str:
        """The sampler's name, as in ComfyUI."""
        return getattr(self.function, "__name__", "").removeprefix("sample_")

    @property
    def checkpoint(self) -> str | None:
        """The name of the model that draws, None if the host does not tell."""
        info = getattr(self.model.inner_model.inner_model, "sd_checkpoint_info", None)
        return getattr(info, "model_name", None)

    @property
    def cfg(self) -> float | None:
        """The weight of guidance that the host hands the sampler."""
        return self.kwargs.get("extra_args", {}).get("cond_scale")

    def kept(self) -> Kept:
        """Return what other extensions' functions keep just now from call to call."""
        return Kept(*self.route.partners(), copied=2 * self.x.numel())

    def check(self, what: str, card: ModelCard, channels: int) -> None:
        """Raise HostError unless the model is of the kind that `what` was trained on."""
        found = {**self.route.facts, "space": self.run.space, "channels": self.x.shape[1]}
        check_card(what, card, channels, found)

    def step_calls(self) -> tuple[int, ...]:
        """Return which model calls begin the run's steps, found without the model."""
        return step_calls(self.sample, torch.zeros_like(self.x[:1]), self.run)

    def sample(self, denoise: Denoise, x: Tensor, sigmas: tuple[float, ...]) -> Tensor:
        """Run the user's sampler on any denoiser; other noise levels than the run's where it goes by them.

        Its noise is torch's, as much as there are states, and none of the user's picture.
        """

        def prediction(x: Tensor, level: Tensor, more: dict) -> Tensor:
            state, sigma = self.units.state(x, level)
            return self.units.prediction(state, denoise(state, sigma), sigma)

        kwargs = {**self.kwargs, "callback": lambda step: None, "disable": True}
        if "sigmas" in kwargs:
            kwargs["sigmas"] = torch.tensor(sigmas).to(kwargs["sigmas"])
        if "noise_sampler" in kwargs:  # the host's ends at the run's own last level
            kwargs["noise_sampler"] = Motion(x)
        with replaced(self.model.p.rng, next=lambda: torch.randn(x.shape).to(x)):
            return self.function(StandIn(self.model, prediction), x, **kwargs)

    def on_device(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return a network as something that computes on the run's device, in float32."""
        self.modules.append(network.to(self.x.device))

        def evaluate(seen: Tensor) -> Tensor:
            with full_precision(seen):
                return network(seen.float()).to(seen.dtype)

        return evaluate


def run_sigmas(
    function: Callable, kwargs: dict, steps: int, alphas_cumprod: Tensor | None
) -> tuple[float, ...]:
    """Return the noise levels a sampler is about to visit, from what the host hands it."""
    if alphas_cumprod is not None:
        timesteps = kwargs["timesteps"].cpu().float()
        if getattr(function, "__name__", "") == "unipc":  # goes its own, even way between the same ends
            first = float(timesteps[-1]) if kwargs.get("is_img2img") else len(alphas_cumprod) - 1.0
            timesteps = torch.linspace(0.0, first, len(timesteps) + 1)
        return tuple(timestep_sigma(timesteps, alphas_cumprod.cpu()).flip(0).tolist())
    sigmas = kwargs.get("sigmas", kwargs.get("sigma_sched"))
    if sigmas is not None:
        return tuple(sigmas.tolist())
    if "sigma_max" not in kwargs:
        raise HostError(f"this sampler does not say its noise levels ({', '.join(kwargs)}); choose another")
    # DPM fast and adaptive find their own way between these two; evenly in log sigma is what they aim at.
    ends = math.log(float(kwargs["sigma_max"])), math.log(float(kwargs["sigma_min"]))
    return (*torch.linspace(*ends, kwargs.get("n", steps)).exp().tolist(), 0.0)


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """While this is open our own networks compute as they are; A1111 lets everything run in half."""
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def replaced(owner: Any, **functions: Callable) -> Iterator[None]:
    """Put functions in the place of an object's own, and give those back.

    Another extension may put its own over ours meanwhile, which then stays, and may put ours back when we are
    done: from then on ours only call what they replaced.
    """
    before = {name: vars(owner)[name] for name in functions if name in vars(owner)}
    put = {name: _until_cleared(getattr(owner, name), name, functions) for name in functions}
    for name, function in put.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        functions.clear()
        for name, function in put.items():
            if vars(owner).get(name) is not function:
                continue
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)


def _until_cleared(own: Callable, name: str, functions: dict[str, Callable]) -> Callable:
    """Return what calls the function of that name, or `own` once there is none."""

    @functools.wraps(own)
    def call(*args: Any, **kwargs: Any) -> Any:
        return functions.get(name, own)(*args, **kwargs)

    return call
