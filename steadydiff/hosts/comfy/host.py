"""What the adapter must know of ComfyUI and of a model there, and the names under which it leaves things."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...denoiser import Run, Space
from ..patch import states_of

KEY = "steadydiff"
"""Under this name our wrappers and networks hang on a model, and the session on a run's model options."""


CALL_KEY = "steadydiff_call"
"""Under this name a call's transformer options hold what a resource notes on the sampler's own calls only."""


logger = logging.getLogger("steadydiff")


@dataclass(frozen=True)
class ComfyHost:
    """What the adapter must know of the host, handed over by the face.

    outer_sample:  the host's name for wrappers around a whole run
    predict_noise: its name for wrappers around one guided model call
    in_training:   whether the host is training right now
    check_interrupted: raises if the user cancelled
    sampler_sample: its name for wrappers around a sampler
    apply_model:    its name for wrappers around one call of the network
    area_and_mult:  its function of a prompt, x and sigma that says where in x the prompt counts, how much
    say:            shows a text on the node that is executing
    """

    outer_sample: str
    predict_noise: str
    in_training: Callable[[], bool] = lambda: False
    check_interrupted: Callable[[], None] = lambda: None
    sampler_sample: str = "sampler_sample"
    apply_model: str = "apply_model"
    area_and_mult: Callable[[dict, Tensor, Tensor], Any] = lambda prompt, x, sigma: None
    say: Callable[[str], None] = lambda text: None


def run_of(model_sampling: Any, sigmas: Tensor, seed: int | None = None) -> Run:
    """Return the facts of a run over these levels; HostError for a model whose states we do not know."""
    states = states_of(model_sampling)
    return Run(states.space, tuple(sigmas.tolist()), seed, states.noise)


def sigma_data_of(model_sampling: Any, space: Space) -> float:
    """Return the standard deviation of the data that a model's input scaling assumes; 1 in flow."""
    return float(getattr(model_sampling, "sigma_data", 1.0)) if space == "ve" else 1.0


def sampler_name(sampler: Any) -> str | None:
    """Return a sampler's name as the host lists it ("ddim" is its "euler"), None if it does not tell."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", None)
    if name is None:
        return None
    return name.removeprefix("sample_").removesuffix("_function").replace("unipc", "uni_pc")
