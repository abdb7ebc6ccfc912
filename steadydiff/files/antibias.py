"""The file of an anti-bias prompt model: weights and a header that says what it may be applied to.

Written by the trainers, read by the nodes. The header's facts are `Card`; anything in a file that this
version does not know is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ..errors import CheckpointError, SettingsError, SteadyDiffError
from ..methods.antibias_prompt import Band, PromptModel, Target
from ..networks.antibias_prompt import PromptConfig, PromptNetwork
from .checkpoints import all_finite, load_checkpoint, save_checkpoint
from .model_card import ModelCard, read_card

KIND, VERSION = "antibias_prompt", 1


@dataclass(frozen=True, kw_only=True)
class AntiBiasCard(ModelCard):
    """What a file says of its network.

    target: what its answer stands for, and
    bands:  what was measured of it after its training, as in PromptModel
    """

    target: Target
    bands: tuple[Band, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in get_args(Target):
            raise SettingsError(f"target {self.target!r}")
        bands = tuple(
            band if isinstance(band, Band) else Band(**band) for band in self.bands
        )  # JSON has dicts
        if [band.sigma for band in bands] != sorted(band.sigma for band in bands):
            raise SettingsError("bands that are not in order")
        object.__setattr__(self, "bands", bands)

    def model(self, network: Callable[[Tensor], Tensor]) -> PromptModel:
        """Return the network with what sampling must know of it."""
        facts = self.target, self.space, self.sigma_data, self.sigma_range, self.bands
        return PromptModel(network, *facts)


def save_prompt(path: Path, network: PromptNetwork, card: AntiBiasCard) -> None:
    """Write a network in half precision with its card, whole or not at all."""
    tensors = {name: value.half() for name, value in network.state_dict().items()}
    save_checkpoint(
        path, tensors, kind=KIND, version=VERSION, network=asdict(network.config), card=asdict(card)
    )


def load_prompt(path: Path, ops: Any = torch.nn) -> tuple[PromptNetwork, AntiBiasCard]:
    """Return the network in float32, ready to be asked, and its card; `ops` as in PromptNetwork.

    Raises:  CheckpointError if the file is missing, damaged, not ours, of another version, or says something
             that this version does not know, and if its weights do not fit or are not finite.
    """
    tensors, header = load_checkpoint(path, kind=KIND, version=VERSION)
    card, config = read_card(AntiBiasCard, path, header), _config(path, header)
    with torch.device(
        "meta"
    ):  # first the sizes, so that a header cannot ask for more memory than the file has
        expected = {name: value.shape for name, value in PromptNetwork(config).state_dict().items()}
    if {name: value.shape for name, value in tensors.items()} != expected:
        raise CheckpointError(
            f"{path.name}: its weights are not those of the network its header describes; get the file again."
        )
    if not all_finite(tensors.values()):
        raise CheckpointError(f"{path.name} holds weights that are not finite numbers; its training failed.")
    with torch.random.fork_rng():  # a module's initial weights must not move the caller's random numbers
        network = PromptNetwork(config, ops)
    network.load_state_dict({name: value.float() for name, value in tensors.items()})
    return network.eval().requires_grad_(False), card


def _config(path: Path, header: dict) -> PromptConfig:
    try:
        return PromptConfig(**header["network"])
    except (KeyError, TypeError, SteadyDiffError) as error:
        raise CheckpointError(
            f"{path.name} describes a network this version does not know ({error}); update SteadyDiff."
        ) from None
