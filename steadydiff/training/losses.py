"""How far a predicted correction is from the bias it should undo, one number per sample; and its weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..denoiser import Space, signal_level

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


def snr_weight(sigma: Tensor, space: Space, cap: float) -> Tensor:
    """Return the signal-to-noise ratio (alpha / sigma)², at most `cap`.

    Shapes:  sigma, result [B].
    Source:  Zhang et al., ICLR 2025, equation 12, without a cap (cap = inf). With none, the last steps take
             all of the weight; about 5 is what trains well.
    """
    return (signal_level(sigma, space) / sigma).square().clamp(max=cap)
