"""ComfyUI's own CLIP and CLIP_VISION as ARPO's scorer, where both truly project into one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...arpo.clip_scorer import IDENTIFIED, TextMemory, unit
from ...arpo.embeddings import identity_of
from ...errors import HostError

TOWERS = ("clip_l", "clip_g", "clip_h")  # as the host's text encoders call CLIP's inside them


@dataclass(frozen=True)
class HostClipScorer:
    """A `Scorer` of what the host has loaded.

    clip: a CLIP; of an encoder with several CLIPs the one that fits the image encoder
    vision: a CLIP_VISION

    Raises:  HostError if there is no projection, or none that fits.
    """

    clip: Any
    vision: Any
    texts: TextMemory = field(init=False)
    _name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_name", fitting_tower(self.clip.cond_stage_model, self.vision.model))
        object.__setattr__(self, "texts", TextMemory(self._encode))

    @cached_property
    def identity(self) -> str:
        """Differs between encoders; none for one with patches, such as LoRAs, which nobody can name."""
        if getattr(getattr(self.clip, "patcher", None), "patches", None):
            return ""
        tokens = [token for token, *_ in self._tokens(IDENTIFIED)[0]]
        facts = self._name, getattr(self.clip, "layer_idx", None), tokens
        return identity_of(getattr(self.clip.cond_stage_model, self._name), *facts)

    @torch.no_grad()
    def picture(self, picture: Tensor) -> Tensor:
        return unit(self.vision.encode_image(picture[None])["image_embeds"])[0]

    def fits(self, texts: Sequence[str]) -> list[bool]:
        return [len(self._tokens(text)) == 1 for text in texts]  # longer ones come in several windows

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> Tensor:
        self.clip.load_model()
        tokens = [[token for token, *_ in self._tokens(text)[0]] for text in texts]
        return getattr(self.clip.cond_stage_model, self._name).encode(tokens)[1]

    def _tokens(self, text: str) -> list[list[tuple]]:
        return self.clip.tokenize(text)[self._name.removeprefix("clip_")]


def fitting_tower(encoder: Any, vision: Any) -> str:
    """The name of the CLIP inside a text encoder whose projection fits that of an image encoder."""
    wanted = getattr(getattr(vision, "visual_projection", None), "weight", None)
    if wanted is None:
        raise HostError("this CLIP_VISION has no projection; load one of a CLIP, such as CLIP-ViT-L or -H")
    found = {name: getattr(encoder, name) for name in TOWERS if hasattr(encoder, name)}
    if not found:
        raise HostError(
            f"a {type(encoder).__name__} holds no CLIP; connect the text encoder of SD1.5 or SDXL"
        )
    reasons = []
    for name, tower in found.items():
        projection = getattr(getattr(tower.transformer, "text_projection", None), "weight", None)
        if projection is None or _is_identity(projection):
            reasons.append(f"{name} came without its projection, as in most checkpoints")
        elif len(projection) != len(wanted):
            reasons.append(
                f"{name} projects to {len(projection)} numbers, the image encoder to {len(wanted)}"
            )
        else:
            return name
    raise HostError(
        f"{'; '.join(reasons)}. Load the whole CLIP (for instance clip_l from its own file), or let CLIP "
        "Scorer use open_clip"
    )


def _is_identity(weight: Tensor) -> bool:
    """What the host fills in where a checkpoint has none."""
    return weight.shape[0] == weight.shape[1] and torch.equal(
        weight.cpu(), torch.eye(len(weight), dtype=weight.dtype)
    )
