"""How far a predicted correction is from the bias it should undo, one number per sample; and its weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..denoiser import Space, signal_level
from ..methods.antibias_prompt import input_scale

GROUP = 16  # samples of one noise level among which the contrastive loss tells apart

Metric = Callable[[Tensor, Tensor], Tensor]
"""(prompt, bias, both [B, C, *S]) -> [B]"""


def l1(prompt: Tensor, bias: Tensor) -> Tensor:
    """Mean absolute difference. Shapes: [B, C, *S] twice, result [B]."""
    return (prompt - bias).abs().flatten(1).mean(1)


def l2(prompt: Tensor, bias: Tensor) -> Tensor:
    """Mean squared difference. Shapes: [B, C, *S] twice, result [B]."""
    return (prompt - bias).square().flatten(1).mean(1)


def contrastive(prompt: Tensor, bias: Tensor) -> Tensor:
    """InfoNCE: how badly each prompt tells its own bias from the others of its group.

    Shapes:  prompt, bias [B, C, *S], groups of GROUP in a row at one noise level; result [B].
    Source:  Zhang et al., ICLR 2025, appendix C, names InfoNCE over a batch of one t and leaves similarity
             and temperature open. Our reading: how much nearer a bias is to the prompt than to 0, in squared
             distance, over the mean square by which two biases differ in one element. That is the likelihood
             ratio for a bias that is mostly noise, so the best prompt is the mean bias, its size included;
             plain squared distances would reward a prompt for the small norm of a bias and pin no size.
    """
    prompts, biases = (x.flatten(1).unflatten(0, (-1, GROUP)) for x in (prompt, bias))  # [B/G, G, D]
    variance = biases.var(1, keepdim=True).mean(-1, keepdim=True).clamp(min=1e-12)
    likelihood = prompts @ biases.mT / variance  # the prompt's own square is the same for all and cancels
    own = torch.arange(GROUP, device=bias.device).repeat(len(biases))
    return F.cross_entropy(likelihood.flatten(0, 1), own, reduction="none")


LOSSES: dict[str, Metric] = {"l2": l2, "l1": l1, "contrastive": contrastive}

DEGREES = {"l2": 2, "l1": 1, "contrastive": 0}
"""A loss of s times as large prompts and biases is s to this power times as large."""

Weight = Literal["ve", "vp"]
"""In which units a bias is weighed by the signal-to-noise ratio: "ve" those of the state, "vp" those of the
base model's input scaling. On flow models they are one."""

WEIGHTS: tuple[Weight, ...] = get_args(Weight)


def snr_weight(sigma: Tensor, space: Space, cap: float) -> Tensor:
    """Return the signal-to-noise ratio (alpha / sigma)², at most `cap`.

    Shapes:  sigma, result [B].
    Source:  Zhang et al., ICLR 2025, equation 12, without a cap (cap = inf). With none, the last steps take
             all of the weight; about 5 is what trains well.
    """
    return (signal_level(sigma, space) / sigma).square().clamp(max=cap)


def prompt_weight(
    sigma: Tensor, space: Space, cap: float, sigma_data: float = 1.0, degree: int = 2, weight: Weight = "ve"
) -> Tensor:
    """Return what the loss of a prompt and a bias in the base model's input scaling weighs.

    The paper weighs the bias Phi of the state by the signal-to-noise ratio. Prompt and bias here are
    sqrt(sigma² + sigma_data²) times as small on "ve" models, which has to be made up for: squared for l2, so
    that the weight is min(SNR, cap)·(sigma² + sigma_data²). Without ("vp") high noise hardly counts.

    Shapes:  sigma, the level at which the step arrived, and result [B].
    Units:   degree is the loss's, see DEGREES.
    Source:  Zhang et al., ICLR 2025, equations 11 and 12; the cap is ours, see snr_weight.
    """
    ratio = snr_weight(sigma, space, cap)
    return ratio if weight == "vp" else ratio * input_scale(sigma, space, sigma_data) ** degree
