"""What a weight file says of the base model it was made for; each kind of file adds facts of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..denoiser import Space, check_space
from ..errors import CheckpointError, SettingsError


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What it was trained on, and where it may be applied.

    space:         how the base model builds its states
    sigma_data:    the base model's, for its input scaling in "ve"
    sigma_range:   lowest and highest noise level of the states it was trained on
    base:          name of the model it was trained on, for people
    base_sha256:   of that model's file, "" = not known
    family:        the host's class of that model, e.g. "SD15"; "" = any
    latent_format: the host's class of its latents, e.g. "SD15"; "" = any with the right number of channels
    training:      how it was made, for people: recipe, steps, EMA, command, data
    licence:       of the weights
    """

    space: Space
    sigma_data: float = 1.0
    sigma_range: tuple[float, float] = (0.0, math.inf)
    base: str = ""
    base_sha256: str = ""
    family: str = ""
    latent_format: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    licence: str = ""

    def __post_init__(self) -> None:
        check_space(self.space)
        low, high = self.sigma_range
        object.__setattr__(self, "sigma_data", float(self.sigma_data))
        if not 0 <= low <= high or not 0 < self.sigma_data < math.inf:
            raise SettingsError(f"sigma_range {self.sigma_range}, sigma_data {self.sigma_data}")
        texts = self.base, self.base_sha256, self.family, self.latent_format, self.licence
        if not all(type(text) is str for text in texts):
            raise SettingsError("a name that is no text")
        if not isinstance(self.training, dict):
            raise SettingsError("training that is no object")


Card = TypeVar("Card", bound=ModelCard)


def read_card(kind: type[Card], path: Path, header: dict) -> Card:
    """Return a header's card.

    Raises:  CheckpointError if it says something that this version does not know.
    """
    try:
        facts = dict(header["card"])
        low, high = (float(level) for level in facts["sigma_range"])
        return kind(**{**facts, "sigma_range": (low, high)})
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{path.name} says something this version does not know ({error}); update SteadyDiff."
        ) from None
