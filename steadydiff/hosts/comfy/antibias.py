"""ComfyUI: the anti-bias prompt's network, in the host's keeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import HostError
from ...files.antibias import AntiBiasCard
from ...methods.antibias_prompt import AntiBiasPrompt, Calls
from ..patch import Patch
from .attach import attach
from .host import ComfyHost
from .state import StateRun, check_fits


@dataclass(frozen=True)
class LoadedPrompt:
    """A network in the host's keeping, and what its file says of it; a `Resource`.

    patcher: the host's ModelPatcher around a PromptNetwork
    dtype:   in which it computes
    name:    of the file, for people
    """

    patcher: Any
    card: AntiBiasCard
    dtype: torch.dtype = torch.float32
    name: str = ""

    @property
    def models(self) -> Sequence[Any]:
        """What the host loads together with the model."""
        return (self.patcher,)

    @property
    def channels(self) -> int:
        """Of the latents it takes."""
        return self.patcher.model.config.latent_channels

    def wrappers(self, host: ComfyHost) -> dict[str, Callable]:
        """Return none."""
        del host
        return {}

    def check(self, model: Any) -> None:
        """Raise HostError unless it was trained for a model like this."""
        check_fits(model, f"the anti-bias model {self.name}", self.card, self.channels)

    def begin(
        self, settings: AntiBiasPrompt, run: StateRun, models: Sequence[Any]
    ) -> tuple[AntiBiasPrompt, None]:
        """Return the settings with the network that the run's model carries.

        Raises:  HostError for latents of another shape.
        """
        if run.noise.shape[1] != self.channels:
            raise HostError(
                f"the anti-bias model {self.name} takes latents of {self.channels} channels and this run's "
                f"have {run.noise.shape[1]} (packed video and audio, perhaps); disconnect it for this model"
            )
        network = models[0].model

        def correction(seen: Tensor) -> Tensor:
            return network(seen.to(self.dtype)).to(seen.dtype)

        return replace(settings, model=replace(settings.model, network=correction)), None


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
    settings = AntiBiasPrompt(prompt.card.model(prompt.patcher.model), strength, calls)
    return attach(model, Patch(settings, *window, resource=prompt), host)
