"""A1111 and the Forge family: lets one run of a sampler go through our methods.

Duck-typed like `comfy.py`. The host calls `sampler.func(model, x, ...)` once per run; `attach` puts there a
function that opens a session, hooks what this host's route needs (`webui_a1111.py`, `webui_patcher.py`),
samples, and takes everything away again however sampling ends. The host's model, sampler and classes are as
before then; a nested generation has a sampler of its own and is not touched.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ...errors import HostError
from ..patch import Patch
from .a1111 import A1111Route
from .patcher import PatcherRoute
from .run import HostRoute, RunSetup, replaced
from .session import WebuiSession, told

ORIGINAL = "_steadydiff_original"
"""Under this name our function keeps the sampler's own."""


@dataclass(frozen=True)
class Planned:
    """Any number of methods, and words for the run's line, which are said also where there are none."""

    patches: tuple[Patch, ...]
    said: str


Plan = Callable[[RunSetup], Patch | Planned]
"""What one panel asks for, once the run is known; raises SteadyDiffError if that cannot work."""

logger = logging.getLogger("steadydiff")


@dataclass(frozen=True)
class WebuiHost:
    """What the face knows of the host.

    sampling_function: on patcher hosts, the function that calls the model with guidance
    check_interrupted: raises if the user cancelled
    """

    sampling_function: Callable | None = None
    check_interrupted: Callable[[], None] = lambda: None

    def route(self, model: Any) -> HostRoute:
        """Return how this CFGDenoiser's host is hooked, chosen by what it has."""
        if not hasattr(model.inner_model.inner_model, "forge_objects"):
            return A1111Route(model)
        if self.sampling_function is None:
            raise HostError("this host has ModelPatchers and none of the sampling functions we know")
        return PatcherRoute(model, self.sampling_function)


class RunReport(Protocol):
    """Where a run tells what it did; the face shows it."""

    def done(self, summary: str) -> None:
        """Tell what acted."""

    def failed(self, message: str) -> None:
        """Tell what did not act."""

    def warned(self, message: str) -> None:
        """Tell what acted, but perhaps not as meant."""


def attach(sampler: Any, plans: Sequence[Plan], host: WebuiHost, report: RunReport) -> None:
    """Let the sampler's next run go through our methods; called again before it, it starts afresh.

    What cannot work is reported and left out, as hosts do with what fails in an extension.
    """

    def sample(original, model, x, *args, **kwargs):
        session = _open(original, model, x, kwargs, plans, host, report)
        if session is None:
            return original(model, x, *args, **kwargs)
        with ExitStack() as stack:
            try:
                stack.enter_context(_hooked(model, session))
            except Exception as error:
                report.failed(told(error))
                return original(model, x, *args, **kwargs)
            try:
                # A first state may be the user's own latent, and stays as it is.
                result = original(model, x.clone() if session.edits_state else x, *args, **kwargs)
                session.ended = True
            finally:  # an interrupted picture is shown, too
                report.done(session.summary())
                for failure in session.failures():
                    report.failed(failure)
            return result

    take_over(sampler, sample)


def take_over(sampler: Any, sample: Callable[..., Tensor]) -> None:
    """Let `sample`, which gets the sampler's own function first, do its next run, and only that."""
    original, waiting = getattr(sampler.func, ORIGINAL, sampler.func), [sample]

    @functools.wraps(original)  # the host looks at its signature
    def once(*args, **kwargs):
        detach(sampler)
        if not waiting:  # kept or put back by another extension
            return original(*args, **kwargs)
        return waiting.pop()(original, *args, **kwargs)

    setattr(once, ORIGINAL, original)
    sampler.func = once


def refuse(sampler: Any, error: Exception) -> None:
    """Let the sampler's next run end with an error, as a script's own would be swallowed by the host."""

    def sample(original, *args, **kwargs):
        raise error

    take_over(sampler, sample)


def detach(sampler: Any) -> None:
    """Give a sampler back its own function."""
    sampler.func = getattr(sampler.func, ORIGINAL, sampler.func)


def _open(original, model, x, kwargs, plans, host, report) -> WebuiSession | None:
    """Make the session of one run, or none if nothing is left to do."""
    try:
        setup = RunSetup.of(original, model, x, kwargs, host.route(model))
    except Exception as error:
        report.failed(told(error))
        return None
    session = WebuiSession(setup, host.check_interrupted)
    for plan in plans:
        try:
            planned = plan(setup)
            patches = planned.patches if isinstance(planned, Planned) else (planned,)
            for patch in patches:
                session.add(patch.resolve(setup.route.levels))
            if isinstance(planned, Planned):
                session.said.append(planned.said)
        except Exception as error:
            report.failed(told(error))
    for difference in session.differences():
        report.warned(difference)
    if session.said and not session.methods:
        report.done("; ".join(session.said))
    return session if session.methods else None


@contextmanager
def _hooked(model: Any, session: WebuiSession) -> Iterator[None]:
    """Hook the host's route and, for methods that correct the sampler's state, its model."""
    route, forward, update = session.setup.route, model.forward, model.update_inner_model

    def new_forward(x, level, *args, **kwargs):
        more = route.sent_along(session, kwargs)
        prediction = session.evaluate(
            x, level, lambda x: route.hooked(lambda: forward(x, level, *args, **more))
        )
        if route.shows_noise and getattr(model, "need_last_noise_uncond", False):
            model.last_noise_uncond = session.scaled_noise(x, level, model.last_noise_uncond)
        return prediction

    def new_update():  # the refiner brings another model
        update()
        route.follow(session)
        session.leave_states()

    try:
        route.install(session)
        with replaced(model, forward=new_forward, update_inner_model=new_update):
            yield
    finally:
        route.remove()
        session.close()
