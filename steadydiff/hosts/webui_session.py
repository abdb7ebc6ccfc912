"""One run of a WebUI's sampler: what is known when it begins, and the nested denoisers around its model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..denoiser import Denoise, Run, Space, eps_from_denoised, per_sample
from ..errors import HostError
from ..mdss_files import Head
from ..methods.antibias_prompt import AntiBiasPrompt
from ..methods.diffier import DiffIER
from ..methods.epsilon_scaling import EpsilonScaling
from ..methods.mdss import MDSS, Cleaned
from ..model_card import ModelCard
from ..stepping import step_calls
from .session import Shown, check_card, count_calls, in_order, nest

UNREACHABLE = ("sample_lcm",)
"""Sampler functions that go on without the state they ask with."""

Asked = Callable[[], Tensor]


@dataclass(frozen=True)
class Answer:
    """One guided answer of the host's model.

    cfg:      the weight of guidance
    denoised: the clean estimate
    cond, uncond: those of the branches, None where the host made none or none is wanted
    """

    cfg: float
    denoised: Tensor
    cond: Tensor | None = None
    uncond: Tensor | None = None


Ask = Callable[[Tensor, Tensor], Answer]


class Route(Protocol):
    """How one family of hosts is hooked.

    space:  how the model builds its states
    levels: has `percent_to_sigma`: a share of the run, 0 its beginning -> the noise level there
    facts:  what `check_card` compares, None where the host does not know
    shows_noise: whether the denoiser keeps the negative prompt's noise, for DDIM CFG++ to step along
    """

    space: Space
    levels: Any
    facts: dict[str, Any]
    shows_noise: bool

    def alphas_cumprod(self) -> Tensor:
        """The signal's share of the variance at each timestep, for samplers that count in them."""
        ...

    def install(self, session: Session) -> None:
        """Let the host's answers go through `session.correct`, until `remove`."""

    def follow(self, session: Session) -> None:
        """Go on with the model that the host has put in the place of the first."""

    def remove(self) -> None:
        """Take all hooks away."""

    def second_output(self, what: str, head: Head, branches: str) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what tells the second output of the sampler's latest call, and listen for it from now on."""
        ...

    def sent_along(self, session: Session, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return what the sampler sends along with one call, such that our hooks and its own work."""
        ...

    def listened(self, ask: Asked) -> Tensor:
        """Make one call of the sampler's, listening to the network if someone wants its second output."""
        ...


class Units:
    """How a sampler's states and the answers it gets read as x = x0 + sigma * eps and clean estimates.

    The timestep samplers' states are VP, sqrt(abar) * x0 + sqrt(1 - abar) * eps, their noise levels are
    timesteps, and the answers eps. Without `alphas_cumprod` both are what we want already.
    """

    def __init__(self, alphas_cumprod: Tensor | None = None) -> None:
        self._alphas = alphas_cumprod

    @property
    def vp(self) -> bool:
        """Whether the sampler is one of those."""
        return self._alphas is not None

    def state(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return a state and its sigma; x itself where it is one already."""
        if self._alphas is None:
            return x, level
        sigma = timestep_sigma(level, self._alphas.to(level.device))
        return x * _spread(sigma, x), sigma

    def back(self, state: Tensor, sigma: Tensor) -> Tensor:
        """Return a state as the sampler has it."""
        return state if self._alphas is None else state / _spread(sigma, state)

    def clean(self, state: Tensor, answer: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean estimate that an answer means."""
        return answer if self._alphas is None else state - per_sample(sigma.to(state.dtype), state) * answer

    def answer(self, state: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        """Return the answer that means a clean estimate."""
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


@dataclass
class Start:
    """A run that is about to begin, as panels' plans see it.

    function: the sampler's own
    kwargs:   what the host hands it beside model and state
    modules:  networks that are on the run's device until it ends
    """

    function: Callable
    model: Any
    x: Tensor
    kwargs: dict[str, Any]
    route: Route
    units: Units
    run: Run
    modules: list[nn.Module] = field(default_factory=list)

    @classmethod
    def of(cls, function: Callable, model: Any, x: Tensor, kwargs: dict[str, Any], route: Route) -> Start:
        """Raises: HostError for a sampler that does not tell its noise levels."""
        alphas = route.alphas_cumprod().float() if kwargs.get("timesteps") is not None else None
        sigmas = run_sigmas(function, kwargs, model.steps, alphas)
        return cls(function, model, x, kwargs, route, Units(alphas), Run(route.space, sigmas))

    @property
    def sampler(self) -> str:
        """The sampler's name, as in ComfyUI."""
        return getattr(self.function, "__name__", "").removeprefix("sample_")

    @property
    def cfg(self) -> float | None:
        """The weight of guidance that the host hands the sampler."""
        return self.kwargs.get("extra_args", {}).get("cond_scale")

    def check(self, what: str, card: ModelCard, channels: int) -> None:
        """Raise HostError unless the model is of the kind that `what` was trained on."""
        found = {**self.route.facts, "space": self.run.space, "channels": self.x.shape[1]}
        check_card(what, card, channels, found)

    def step_calls(self) -> tuple[int, ...]:
        """Return which model calls begin the run's steps, found without the model."""
        with self.own_noise():
            return step_calls(self.sample, torch.zeros_like(self.x[:1]), self.run)

    def own_noise(self) -> AbstractContextManager[None]:
        """While this is open the sampler draws no noise of the user's picture."""
        return replaced(self.model.p.rng, next=lambda: torch.randn(self.x.shape).to(self.x))

    def sample(self, denoise: Denoise, x: Tensor, sigmas: tuple[float, ...]) -> Tensor:
        """Run the user's sampler on any denoiser; other noise levels than the run's where it goes by them."""

        def answer(x: Tensor, level: Tensor, more: dict) -> Tensor:
            state, sigma = self.units.state(x, level)
            return self.units.answer(state, denoise(state, sigma), sigma)

        kwargs = {**self.kwargs, "callback": lambda step: None, "disable": True}
        if "sigmas" in kwargs:
            kwargs["sigmas"] = torch.tensor(sigmas).to(kwargs["sigmas"])
        return self.function(Shown(self.model, answer), x, **kwargs)

    def on_device(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return a network as something that computes on the run's device, in float32."""
        self.modules.append(network.to(self.x.device))

        def ask(seen: Tensor) -> Tensor:
            with full_precision(seen):
                return network(seen.float()).to(seen.dtype)

        return ask


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


class Session:
    """The nested denoisers of one run.

    Epsilon Scaling and DiffIER correct the host's guided answers, before a mask is blended in; the anti-bias
    prompt and MDSS the sampler's state, outside them.
    """

    def __init__(self, start: Start, check_interrupted: Callable[[], None]) -> None:
        self.start, self.methods, self.calls = start, [], 0
        self._guided: list[EpsilonScaling | DiffIER] = []
        self._model = _Answered(check_interrupted)
        self._correct: Denoise = self._model
        self._branch: Any = None
        self._scale: Denoise = lambda x, sigma: self._branch
        self._ask: Callable[[Tensor], Tensor] | None = None
        self._editors: list[Any] = []
        self._edit: Denoise = self._asked

    def add(self, method: EpsilonScaling | DiffIER | AntiBiasPrompt | MDSS) -> None:
        """Take in a method; SteadyDiffError if it cannot work in this run."""
        run = self.start.run
        if isinstance(method, (AntiBiasPrompt, MDSS)):
            self._add_editor(method)
        else:
            guided = in_order([*self._guided, method])
            self._correct, self._guided = nest(self._model, guided, run), guided
            scalings = [one for one in guided if isinstance(one, EpsilonScaling)]
            self._scale = nest(lambda x, sigma: self._branch, scalings, run)
        self.methods.append(method)

    def _add_editor(self, method: AntiBiasPrompt | MDSS) -> None:
        start = self.start
        if f"sample_{start.sampler}" in UNREACHABLE:
            raise HostError(
                f"the sampler {start.sampler} does not go on with the state it asks with, so {method.title} "
                f"cannot correct it; choose another sampler"
            )
        mask = getattr(start.model, "nmask", None) if start.model.mask is not None else None
        if mask is not None:  # what is kept of the picture is not the sampler's
            method = _masked(method, mask)
        self._edit = method.wrap(self._edit, start.run)
        if not method.is_off:
            self._editors.append(self._edit)

    @property
    def wants_branches(self) -> bool:
        """Whether a method looks at the branches of guidance."""
        return any(isinstance(method, DiffIER) and method.wants_branches for method in self._guided)

    @property
    def edits_state(self) -> bool:
        """Whether the sampler's state is written to."""
        return bool(self._editors)

    def leave_states(self) -> None:
        """From now on another model answers, for which nothing was trained."""
        self._edit = self._asked

    def differences(self) -> list[str]:
        """Say where a schedule was made for something else than what now runs."""
        found = []
        for method in self._guided:
            schedule = method.schedule if isinstance(method, EpsilonScaling) else None
            facts = {"sampler": self.start.sampler, "cfg": self.start.cfg, "sigmas": self.start.run.sigmas}
            differs = schedule.differences(**facts) if schedule else None
            if differs:
                found.append(f"the schedule does not fit this run: {'; '.join(differs)}")
        return found

    def ask(self, x: Tensor, level: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """Ask the host's model with the sampler's own state x, which the methods may correct in place."""
        self.calls += 1
        if self._edit == self._asked:
            return ask(x)
        units, edited = self.start.units, self._edited
        (state, sigma), answers = units.state(x, level), []

        def write() -> None:
            if state is not x and self._edited > edited:
                x.copy_(units.back(state, sigma))

        def asked(state: Tensor) -> Tensor:
            write()
            answers.append(ask(x))
            return units.clean(state, answers[-1], sigma)

        self._ask = asked
        denoised = self._edit(state, sigma)
        write()
        # eps is what it was: one method edits before the model is asked, the other state and estimate alike.
        return denoised if state is x else answers[-1]

    @property
    def _edited(self) -> int:
        return sum(editor.applied for editor in self._editors)

    def _asked(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert self._ask is not None
        return self._ask(x)

    def correct(self, x: Tensor, sigma: Tensor, answer: Answer, again: Ask) -> Tensor:
        """Return the corrected clean estimate for the host's answer at x; `again` asks elsewhere."""
        self._model.begin(answer, again)
        return self._correct(x, sigma)

    def shown_branch(self, x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
        """Return a branch's clean estimate as samplers should see it that step along it: scaled as the guided
        one, and moved as far as MDSS will move the state, so that its noise stays."""
        self._branch = denoised
        denoised, self._branch = self._scale(x, sigma), None
        for editor in self._editors:
            if isinstance(editor, Cleaned) and self._edit != self._asked:
                denoised = denoised - editor.error(x, sigma)
        return denoised

    def scaled_noise(self, x: Tensor, level: Tensor, noise: Tensor | None) -> Tensor | None:
        """Return the negative prompt's noise, scaled as the guided one, for DDIM CFG++."""
        units = self.start.units
        if noise is None or not units.vp:
            return noise
        state, sigma = units.state(x, level)
        self._branch = clean = units.clean(state, noise, sigma)
        scaled, self._branch = self._scale(state, sigma), None
        return noise if scaled is clean else units.answer(state, scaled, sigma).to(noise.dtype)

    def summary(self) -> str:
        """Say what each method did."""
        run, editors, done = self.start.run, iter(self._editors), []
        for method in self.methods:
            if isinstance(method, (EpsilonScaling, DiffIER)):
                done.append(f"{method.title} {method.summary(run)}")
            else:
                done.append(f"{method.title} {'off' if method.is_off else next(editors)}")
        return "; ".join((*done, count_calls(self.calls, self._model.extra)))

    def close(self) -> None:
        """Let go of the host's objects and of the device's memory."""
        self._model.begin(None, None)
        self._ask = None
        for module in self.start.modules:
            module.cpu()


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """While this is open our own networks compute as they are; A1111 lets everything run in half."""
    return torch.autocast(x.device.type, enabled=False)


def unheard() -> HostError:
    """Return the error for a network whose last layer was not at work as expected."""
    return HostError(
        "MDSS did not see the network's last layer at work as expected: it is compiled, or another extension "
        "replaces it; switch that off, or MDSS"
    )


def _masked(method: Any, mask: Tensor) -> Any:
    """Return a state method that acts where the mask is 1."""
    what = "network" if isinstance(method, AntiBiasPrompt) else "xi"
    whole = getattr(method.model, what)
    return replace(method, model=replace(method.model, **{what: lambda *seen: whole(*seen) * mask}))


class _Answered:
    """The host's guided model as the methods know denoisers; its first call is answered already.

    branches, cfg: as in `steadydiff.Guided`, of the latest call
    """

    def __init__(self, check_interrupted: Callable[[], None]) -> None:
        self._check_interrupted, self.extra, self.cfg = check_interrupted, 0, 1.0
        self.branches: Any = None
        self._answer: Answer | None = None
        self._again: Ask | None = None

    def begin(self, answer: Answer | None, again: Ask | None) -> None:
        self._answer, self._again, self.branches = answer, again, None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        answer, self._answer = self._answer, None
        if answer is None:
            assert self._again is not None
            self._check_interrupted()
            answer = self._again(x, sigma)
            self.extra += 1
        self.cfg = answer.cfg
        self.branches = None if answer.cond is None else (answer.cond, answer.uncond)
        return answer.denoised


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Put values in the place of an object's own attributes, and give them back."""
    before = {name: vars(owner)[name] for name in values if name in vars(owner)}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)
