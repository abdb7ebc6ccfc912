"""MDSS's files: an ordinary checkpoint or LoRA, which every host reads, with the second head beside it.

(a) "checkpoint": a checkpoint with the usual output channels. (b) "lora": a LoRA. Either may hold the head
under `steadydiff.xi.*`, which hosts that do not know it leave alone, and has our header. Trainers write
them, nodes read them, `run.py mdss convert` makes (a) from a last layer widened to twice its channels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from ..errors import CheckpointError, SettingsError
from ..methods.mdss import VARIANTS, Variant
from ..networks.xi_head import LAYER
from .checkpoints import all_finite, load_checkpoint, read_tensors, save_checkpoint
from .model_card import ModelCard, read_card

KIND, VERSION = "mdss", 1
XI_PREFIX = "steadydiff.xi."

Form = Literal["checkpoint", "lora"]

UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
"""Under which checkpoints keep a UNet; an empty one is a UNet's own file."""


@dataclass(frozen=True, kw_only=True)
class MdssCard(ModelCard):
    """What a file says of its model.

    form:    what it is to a host that does not know us
    variant: how errors were carried on in training; "" = not known
    k:       over how many steps of the training schedule; -1 = not known
    """

    form: Form
    variant: Variant | Literal[""] = ""
    k: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.form in get_args(Form) and self.variant in (*VARIANTS, "")
        if not known or type(self.k) is not int or self.k < -1:
            raise SettingsError(f"form {self.form!r}, variant {self.variant!r}, k {self.k!r}")


class Head(NamedTuple):
    """The second last layer, in float32: weight [C, D, k, k], bias [C]; a transformer's [E, D] and [E]."""

    weight: Tensor
    bias: Tensor


def save_mdss(
    path: Path,
    tensors: dict[str, Tensor],
    head: Head | None,
    card: MdssCard,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a checkpoint's or LoRA's tensors as they are, with head and card, whole or not at all."""
    found = {f"{XI_PREFIX}{name}": value for name, value in head._asdict().items()} if head else {}
    save_checkpoint(
        path, {**tensors, **found}, kind=KIND, version=VERSION, metadata=metadata, card=asdict(card)
    )


def load_head(path: Path) -> tuple[Head | None, MdssCard]:
    """Return a file's second head, None if it was trained without one, and its card.

    Raises:  CheckpointError if the file is missing, damaged, not one of MDSS, says something that this
             version does not know, or its head is none.
    """
    tensors, header = load_checkpoint(path, kind=KIND, version=VERSION, prefix=XI_PREFIX)
    card = read_card(MdssCard, path, header)
    if not tensors:
        return None, card
    parts = {name.removeprefix(XI_PREFIX): value for name, value in tensors.items()}
    if set(parts) != {"weight", "bias"}:
        raise CheckpointError(f"{path.name} holds a second head of unknown parts; update SteadyDiff.")
    if not all_finite(parts.values()):
        raise CheckpointError(f"{path.name} holds a head that is not finite numbers; its training failed.")
    weight, bias = parts["weight"].float(), parts["bias"].float()
    kernel = weight.shape[2:]
    fits = weight.ndim == 2 or weight.ndim == 4 and kernel[0] == kernel[1] and kernel[0] % 2
    if not fits or bias.shape != weight.shape[:1]:
        raise CheckpointError(
            f"{path.name} holds a second head of an unknown shape ({[*weight.shape]}, {[*bias.shape]}); get "
            f"the file again."
        )
    return Head(weight, bias), card


def convert(source: Path, out: Path, card: MdssCard) -> Head:
    """Split a checkpoint whose last layer was widened to twice its channels into (a), losing nothing.

    The first half of the channels stays the last layer, the second half becomes the head.

    Raises:  CheckpointError if the source is missing or damaged, has a head already, is of a family whose
             last layer we do not know, or was not widened.
    """
    tensors, metadata = read_tensors(source)
    if any(name.startswith(XI_PREFIX) for name in tensors):
        raise CheckpointError(f"{source.name} has its second head apart already; use it as it is.")
    first, last = "input_blocks.0.0.weight", f"{LAYER}.weight"
    shapes = {name: value.ndim for name, value in tensors.items()}
    prefix = next((p for p in UNET_PREFIXES if shapes.get(p + first) == shapes.get(p + last) == 4), None)
    if prefix is None:
        raise CheckpointError(
            f"{source.name} has no layers {first} and {last}, so it is not a UNet of the family of SD1.5, "
            f"SD2 and SDXL; other last layers are not known here."
        )
    weight, bias = tensors[prefix + last], tensors.get(f"{prefix}{LAYER}.bias")
    channels, rows = tensors[prefix + first].shape[1], weight.shape[0]
    if rows != 2 * channels or bias is None or bias.shape != (rows,):
        raise CheckpointError(
            f"{source.name} gives {rows} channels for {channels}, not {2 * channels}; only a last layer "
            f"widened to twice the channels can be split."
        )
    head = Head(weight[channels:], bias[channels:])
    plain = {prefix + last: weight[:channels], f"{prefix}{LAYER}.bias": bias[:channels]}
    save_mdss(out, {**tensors, **plain}, head, card, metadata)
    return head
