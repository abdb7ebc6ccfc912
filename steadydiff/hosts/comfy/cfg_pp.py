"""What CFG++ samplers need: they pick up branches through post-CFG functions of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..patch import POST_CFG


def added_functions(more: dict, extra: dict) -> Sequence[Callable[[dict], Any]]:
    """Return the post-CFG functions that a sampler adds to its call's arguments, beside the run's own."""
    own = len(extra.get("model_options", {}).get(POST_CFG, ()))
    return more.get("model_options", {}).get(POST_CFG, ())[own:]


def show_branches(
    functions: Sequence[Callable[[dict], Any]], denoised: Tensor, x: Tensor, sigma: Tensor
) -> None:
    """Show CFG++ samplers the branches they wait for, where no host is called: all are the clean estimate."""
    branches = {f"{name}denoised": denoised for name in ("", "cond_", "uncond_")}
    for function in functions:
        function({**branches, "input": x, "sigma": sigma})
