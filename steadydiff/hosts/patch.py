"""What the adapters of all hosts share: a method with its part of the run, and how methods nest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from ..denoiser import Denoise, Run, Space
from ..errors import HostError, SettingsError
from ..files.mdss import Head
from ..files.model_card import ModelCard
from ..methods.method import Method
from ..model_names import PRODUCTS
from ..networks.xi_head import KNOWN, last_layer

POST_CFG = "sampler_post_cfg_function"
"""Under this name ComfyUI and the Forge family keep the functions that are shown each guided prediction."""

MOST_LEVELS = 1000
"""Of a schedule: k counts its steps, and the models we know were trained on so many, or on all between."""

Settings = TypeVar("Settings", bound=Method)


@dataclass(frozen=True)
class Patch(Generic[Settings]):
    """One method's settings; its part of the run stays in per cent until the run's model is known.

    resource: what the method applies beside its settings, with its file's `name`; None = nothing
    """

    settings: Settings
    start_percent: float = 0.0
    end_percent: float = 1.0
    resource: Any = None

    def check_part(self) -> None:
        """Raise SettingsError unless the percentages are a part of a run."""
        if not 0 <= self.start_percent <= self.end_percent <= 1:
            raise SettingsError(
                f"start_percent is not above end_percent, and both are of 0 to 1; got "
                f"{self.start_percent:g} and {self.end_percent:g}"
            )

    def resolve(self, model_sampling: Any) -> Settings:
        """Return the settings with noise levels for percentages, as the host counts them."""
        self.check_part()
        high, low = window_sigmas(model_sampling, self.start_percent, self.end_percent)
        return cast(Settings, self.settings.within(high, low))

    def __str__(self) -> str:
        part = f"{100 * self.start_percent:g} to {100 * self.end_percent:g} %"
        what = f"{self.settings.title} {self.resource.name}, " if self.resource else ""
        return f"{what}{self.settings}, {part} of the run"


def window_sigmas(model_sampling: Any, start: float, end: float) -> tuple[float, float]:
    """Return the highest and lowest noise level of a part of the run, as the host counts; 0, 0 for none."""
    if start == end:
        return 0.0, 0.0
    # Some samplers call above the model's largest sigma, so the whole run has no upper bound.
    high = math.inf if start <= 0 else float(model_sampling.percent_to_sigma(start))
    return high, 0.0 if end >= 1 else float(model_sampling.percent_to_sigma(end))


def training_sigmas(model_sampling: Any) -> Tensor:
    """The noise levels of the model's training schedule, from the least to the most."""
    sigmas = getattr(model_sampling, "sigmas", None)
    if sigmas is None:
        raise HostError(f"a {type(model_sampling).__mro__[1].__name__} has no table of noise levels")
    every = max(1, len(sigmas) // MOST_LEVELS)
    return sigmas[every - 1 :: every].cpu().double()


class States(NamedTuple):
    """How a model builds its states: alpha * x0 + sigma * noise * eps, with unit eps."""

    space: Space
    noise: float = 1.0


def states_of(levels: Any) -> States:
    """Return how a model builds its states, found by trying; HostError if it does so in a way we do not know.

    levels: the host's model_sampling or predictor; its class and name do not count. A flow model's network is
            shown its states as they are, any other's is shown them scaled.
    """
    one, zero, tried = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([0.25, 0.75])
    found = []
    for sigma in tried:
        level = sigma.view(1)
        seen = levels.calculate_input(level, one.clone())
        if hasattr(levels, "noise_scaling"):
            mixed = [
                levels.noise_scaling(level.view_as(one), n.clone(), x0.clone())
                for n, x0 in ((zero, one), (one, zero), (zero, zero))
            ]
        else:  # Forge Classic's models cannot mix; none of them is a flow model
            mixed = [one, one * sigma, zero]
        found.append(torch.cat([part.flatten() for part in (seen, *mixed)]))
    seen, signal, noise, rest = torch.stack(found).T
    flow = torch.equal(seen, torch.ones(2))
    factors = noise / tried
    known = factors[0] > 0 and torch.isclose(*factors, rtol=1e-4) and not rest.any()
    if flow and known and torch.allclose(signal, 1 - tried):
        return States("flow", round(float(factors[0]), 6))
    if not flow and known and torch.equal(signal, torch.ones(2)) and torch.allclose(noise, tried):
        return States("ve")
    kinds = ", ".join(kind.__name__ for kind in type(levels).__mro__[:3])
    raise HostError(
        f"this model mixes noise and picture in a way SteadyDiff does not know ({kinds}), so its noise "
        f"cannot be scaled; disconnect the SteadyDiff node for this model, or switch SteadyDiff off"
    )


def in_order(methods: Sequence[Method]) -> list[Method]:
    """Return methods as they nest, the innermost first, whatever order they were asked for in."""
    return sorted(methods, key=lambda method: method.order)


def nest(denoise: Denoise, methods: Sequence[Method], run: Run) -> Denoise:
    """Wrap a denoiser in methods, the innermost first."""
    for method in methods:
        denoise = method.wrap(denoise, run)
    return denoise


def count_calls(calls: int, extra: int) -> str:
    """Say how many model calls a run took, e.g. "30 model calls, 10 of them extra"."""
    return f"{calls + extra} model calls" + (f", {extra} of them extra" if extra else "")


def check_card(what: str, card: ModelCard, channels: int, found: dict[str, Any]) -> None:
    """Raise HostError unless a model is of the kind that `what` was trained on.

    found: space, latent_format, channels, family and sigma_data of the model; None where the host does not
           know
    """
    needed = {
        "space": ("states of the kind", card.space),
        "latent_format": ("latents of the format", card.latent_format),
        "channels": ("latent channels:", channels),
        "family": ("models of the family", card.family),
        "sigma_data": ("sigma_data", card.sigma_data if card.space == "ve" else 1.0),
    }
    for fact, (name, need) in needed.items():
        if found[fact] is not None and need not in ("", found[fact]):
            meant, now = (PRODUCTS.get(own, own) for own in (need, found[fact]))
            raise HostError(
                f"{what} was trained for {name} {meant}, and this model has {now}; load one made for "
                f"this model"
            )


def known_layer(network: nn.Module, model: str = "") -> nn.Module:
    """Return a network's last layer; HostError by name for a network of a kind we do not know.

    model: the model's name, for people
    """
    layer = last_layer(network)
    if layer is None:
        raise HostError(
            f"MDSS does not know the last layer of a {model or type(network).__name__}; it knows {KNOWN}"
        )
    return layer


def fitting_layer(network: nn.Module, what: str, head: Head, model: str = "") -> nn.Module:
    """Return a known last layer; HostError unless the head of `what` can read what it reads."""
    layer = known_layer(network, PRODUCTS.get(model, model))
    need, found = ([*weight.shape[1:]] for weight in (head.weight, layer.get_parameter("weight")))
    if need != found:
        raise HostError(
            f"{what} was trained for a last layer that reads {need}, and this model's reads {found}; load "
            f"one made for this model"
        )
    return layer


class StandIn:
    """What a sampler function sees as its model: our denoiser, and for the rest the host's own object."""

    def __init__(self, model: Any, predict: Callable[[Tensor, Tensor, dict], Tensor]) -> None:
        self.__dict__.update(own=model, _predict=predict)

    def __call__(self, x: Tensor, sigma: Tensor, **more: Any) -> Tensor:
        return self._predict(x, sigma, more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.own, name, value)
