"""A1111 and the Forge family: lets one run of a sampler go through our methods.

Duck-typed like `comfy.py`. The host calls `sampler.func(model, x, ...)` once per run; `attach` puts there a
function that opens a session, hooks what this host's route needs (`webui_a1111.py`, `webui_patcher.py`),
samples, and takes everything away again however sampling ends. The host's model, sampler and classes are as
before then; a nested generation has a sampler of its own and is not touched.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..denoiser import Run, Space
from ..errors import HostError, SteadyDiffError
from .session import Patch, count_calls, in_order, nest

ORIGINAL = "_steadydiff_original"
"""Under this name our function keeps the sampler's own."""

logger = logging.getLogger("steadydiff")

Ask = Callable[[Tensor, Tensor], "Answer"]


@dataclass(frozen=True)
class Answer:
    """One guided answer of the host's model.

    denoised: the clean estimate; cond, uncond: the branches' ones, None where the host made none
    cfg:      the weight of guidance
    """

    denoised: Tensor
    cond: Tensor | None = None
    uncond: Tensor | None = None
    cfg: float = 1.0


class Route(Protocol):
    """How one family of hosts is hooked.

    levels: has `percent_to_sigma`: a share of the run, 0 its beginning -> the noise level there
    """

    space: Space
    levels: Any

    def alphas_cumprod(self) -> Tensor:
        """The signal's share of the variance at each timestep, for samplers that count in them."""
        ...

    def installed(self, session: Session) -> Any:
        """Return a context in which the host's answers go through `session.correct`."""


@dataclass(frozen=True)
class WebuiHost:
    """What the face knows of the host.

    sampling_function: on patcher hosts, the function that asks the model with guidance
    check_interrupted: raises if the user cancelled
    """

    sampling_function: Callable | None = None
    check_interrupted: Callable[[], None] = lambda: None

    def route(self, model: Any) -> Route:
        """Return how this CFGDenoiser's host is hooked, chosen by what it has."""
        from .webui_a1111 import A1111Route
        from .webui_patcher import PatcherRoute

        if not hasattr(model.inner_model.inner_model, "forge_objects"):
            return A1111Route(model)
        if self.sampling_function is None:
            raise HostError("this host has ModelPatchers and none of the sampling functions we know")
        return PatcherRoute(model, self.sampling_function)


class Report(Protocol):
    """Where a run tells what it did; the face shows it."""

    def done(self, summary: str) -> None:
        """Tell what acted."""

    def failed(self, message: str) -> None:
        """Tell what did not."""


Plan = Callable[[Run], Patch]
"""What one panel asks for, once the run is known."""


def attach(sampler: Any, plans: Sequence[Plan], host: WebuiHost, report: Report) -> None:
    """Let the sampler's next run go through our methods; called again before it, it starts afresh."""
    original = getattr(sampler.func, ORIGINAL, sampler.func)

    @functools.wraps(original)  # the host looks at its signature
    def sample(model, x, *args, **kwargs):
        detach(sampler)
        session = open_session(model, plans, host, report, kwargs)
        if session is None:
            return original(model, x, *args, **kwargs)
        with session.route.installed(session):
            result = original(model, x, *args, **kwargs)
        report.done(session.summary())
        return result

    setattr(sample, ORIGINAL, original)
    sampler.func = sample


def detach(sampler: Any) -> None:
    """Give a sampler back its own function."""
    sampler.func = getattr(sampler.func, ORIGINAL, sampler.func)


def open_session(
    model: Any, plans: Sequence[Plan], host: WebuiHost, report: Report, kwargs: dict
) -> Session | None:
    """Make the session of one run; what cannot work is reported and left out."""
    try:
        route = host.route(model)
        run = Run(route.space, run_sigmas(kwargs, model.steps, route))
    except SteadyDiffError as error:
        report.failed(str(error))
        return None
    methods = []
    for plan in plans:
        try:
            methods.append(plan(run).resolve(route.levels))
            methods[-1].check(run.space)
        except SteadyDiffError as error:
            report.failed(str(error))
    try:
        return Session(methods, run, route, host) if methods else None
    except SteadyDiffError as error:
        report.failed(str(error))
        return None


def run_sigmas(kwargs: dict, steps: int, route: Route) -> tuple[float, ...]:
    """Return the noise levels a sampler is about to visit, from what the host hands it."""
    if (timesteps := kwargs.get("timesteps")) is not None:
        levels = timestep_sigma(timesteps.float().cpu(), route.alphas_cumprod().float().cpu())
        return tuple(levels.flip(0).tolist())
    sigmas = kwargs.get("sigmas", kwargs.get("sigma_sched"))
    if sigmas is not None:
        return tuple(sigmas.tolist())
    if "sigma_max" not in kwargs:
        raise HostError(f"this sampler does not say its noise levels ({', '.join(kwargs)}); choose another")
    # DPM fast and adaptive find their own way between these two; evenly in log sigma is what they aim at.
    ends = math.log(float(kwargs["sigma_max"])), math.log(float(kwargs["sigma_min"]))
    return (*torch.linspace(*ends, kwargs.get("n", steps)).exp().tolist(), 0.0)


def timestep_sigma(timestep: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return sigma = sqrt(1 / abar - 1) at timesteps, which need not be whole; log abar is linear between.

    Shapes:  timestep, result [B]; alphas_cumprod [T].
    """
    at = timestep.clamp(0, len(alphas_cumprod) - 1)
    low = at.floor().long()
    logs = alphas_cumprod.log()
    high = (low + 1).clamp(max=len(logs) - 1)
    abar = torch.lerp(logs[low], logs[high], at - low).exp()
    return (1 / abar - 1).sqrt()


class Session:
    """One sampling run: the nested denoisers around the host's model."""

    def __init__(self, methods: list, run: Run, route: Route, host: WebuiHost) -> None:
        self.run, self.route, self.calls = run, route, 0
        self.methods = in_order(methods)
        self._model = _Answered(host)
        self._denoise = nest(self._model, self.methods, run)

    def correct(self, x: Tensor, sigma: Tensor, answer: Answer, again: Ask) -> Tensor:
        """Return the corrected clean estimate for the host's answer at x; `again` asks elsewhere."""
        self.calls += 1
        self._model.begin(answer, again)
        return self._denoise(x, sigma)

    def summary(self) -> str:
        """Say what each method did."""
        done = [f"{method.title} {method.summary(self.run)}" for method in self.methods]
        return "; ".join((*done, count_calls(self.calls, self._model.extra)))


class _Answered:
    """The host's guided model as the methods know denoisers; its first call is answered already.

    branches, cfg: as in `steadydiff.Guided`, of the latest call
    """

    def __init__(self, host: WebuiHost) -> None:
        self._host, self.extra, self.cfg = host, 0, 1.0
        self.branches: Any = None
        self._answer: Answer | None = None
        self._again: Ask | None = None

    def begin(self, answer: Answer, again: Ask) -> None:
        self._answer, self._again = answer, again

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        answer, self._answer = self._answer, None
        if answer is None:
            assert self._again is not None
            self._host.check_interrupted()
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
