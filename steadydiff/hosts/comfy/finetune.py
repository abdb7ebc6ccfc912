"""ComfyUI: fine-tunes a model's own network by MDSS, as a copy in a precision to train in.

Duck-typed like `comfy.py`. The host builds the copy by the model's own class, prepares captions and calls the
network as in any run; the user's model stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...denoiser import Space
from ...errors import HostError, SettingsError
from ...methods.mdss import Prediction
from ...model_names import name_of
from ...networks.xi_head import TwoHeads
from ...training.mdss import MdssBase
from ..patch import known_layer, states_of, training_sigmas
from .attach import ComfyHost
from .train import Samples, check_input

BLOCKS = ("input_blocks", "middle_block", "output_blocks", "joint_blocks", "double_blocks", "single_blocks")
"""Where the networks we know keep their repeated parts."""

Prepare = Callable[[Any, Any, Tensor], list[dict]]
"""(model, conditioning, a state) -> conditioning as a running guider holds it."""


class TrainedLevels(NamedTuple):
    """How a model was trained: its states and the deviation of their noise, what its network answers, and
    its noise levels, least first."""

    space: Space
    prediction: Prediction
    sigmas: Tensor
    noise: float = 1.0


def schedule_of(model: Any) -> TrainedLevels:
    """Return how a model was trained.

    Raises:  HostError by name for a model that cannot be trained here.
    """
    known_layer(model.get_model_object("diffusion_model"), name_of(model.model))
    if model.patches:
        raise HostError(
            "this model carries LoRAs or other changes of its weights; connect it as its loader gives it, or "
            "merge and save it first"
        )
    check_input(model)
    model_sampling = model.get_model_object("model_sampling")
    space, noise = states_of(model_sampling)
    prediction = prediction_of(model_sampling, space)
    return TrainedLevels(space, prediction, training_sigmas(model_sampling), noise)


def prediction_of(model_sampling: Any, space: Space) -> Prediction:
    """Return what the network answers, told by what the host makes of it at one level; HostError by name."""
    sigma, none, one = torch.tensor([0.5]), torch.zeros(1, 1), torch.ones(1, 1)
    found = torch.cat(
        [
            model_sampling.calculate_input(sigma, one),
            model_sampling.calculate_denoised(sigma, none, one),
            model_sampling.calculate_denoised(sigma, one, none),
        ]
    )
    scale = 1.25**-0.5  # of the network's input
    known: dict[Prediction, tuple] = {"eps": (scale, 1.0, -0.5), "v": (scale, 0.8, -0.5 * scale)}
    if space == "flow":
        known = {"velocity": (1.0, 1.0, -0.5)}
    for prediction, values in known.items():
        if torch.allclose(found.flatten(), torch.tensor(values), atol=1e-4):
            return prediction
    own = next(kind for kind in type(model_sampling).__mro__ if "calculate_denoised" in vars(kind))
    raise HostError(
        f"MDSS trains models that predict noise, v or a flow's velocity; this one is of the kind "
        f"{own.__name__}"
    )


def rebuilt(model: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Build the host's model anew, its weights in this precision, and without its samplers' view of states.

    Call it outside inference mode, whose tensors cannot be trained.

    Raises:  HostError for weights that are kept in a form of their own.
    """
    own, kept = model.model, model.model.model_config
    config = object.__new__(type(kept))  # it has every attribute asked for, so that copy.copy cannot copy it
    changed = {"unet_config": {**kept.unet_config, "dtype": dtype}, "manual_cast_dtype": None}
    vars(config).update({**vars(kept), **changed})
    fresh = type(own)(config, model_type=own.model_type)
    network = fresh.diffusion_model
    try:
        network.load_state_dict(own.diffusion_model.state_dict())
    except (RuntimeError, TypeError) as error:
        raise HostError(
            f"the weights of this {name_of(own)} are quantised or changed by another node; load the "
            f"model in 16 or 32 bits ({str(error).splitlines()[0]})"
        ) from error
    fresh.model_sampling = _Bare(model.get_model_object("model_sampling"))
    _keep_apart(network)
    return fresh.to(device)


def _keep_apart(network: nn.Module) -> None:
    """Flux's blocks add to what their norms keep for the backward pass; let these keep copies."""
    for name in ("double_blocks", "single_blocks"):
        for layer in getattr(network, name, nn.ModuleList()).modules():
            if isinstance(layer, nn.LayerNorm):
                layer.register_forward_pre_hook(lambda layer, inputs: (inputs[0].clone(),))


class _Bare(nn.Module):
    """The host's model_sampling, but for states and answers, which stay as the network has them."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.timestep = own.timestep

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x

    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        return output


def checkpoint_blocks(network: nn.Module) -> None:
    """Let a network work out its blocks' passes twice, to keep less of them in memory."""
    for block in _blocks(network):
        block.forward = partial(_twice, block.forward)


def _twice(forward: Callable, *inputs: Any, **more: Any) -> Any:
    def on_copies(*inputs: Any, **more: Any) -> Any:
        """Flux's blocks also add to what they are given, which the second pass needs as it was."""
        own = {name: _copy(value) for name, value in more.items()}
        return forward(*(_copy(value) for value in inputs), **own)

    return checkpoint(on_copies, *inputs, use_reentrant=False, **more)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    for name in BLOCKS:
        for block in getattr(network, name, ()):
            # The host walks through the layers of a UNet's blocks itself.
            yield from block if isinstance(block, nn.Sequential) else (block,)


def finetune_base(
    model: Any,
    name: str,
    schedule: TrainedLevels,
    samples: Samples,
    host: ComfyHost,
    prepare: Prepare,
    fresh: Any,
) -> MdssBase:
    """Return what MDSS trains: the network of `fresh`, which is the model rebuilt, on these samples."""
    data = samples.latents(model)

    def draw(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rows, captions = samples.draw(n, rng)
        return data[rows], captions

    def evaluate(trained: TwoHeads, x: Tensor, at: Tensor, captions: Tensor) -> tuple[Tensor, Tensor | None]:
        sigma = schedule.sigmas.to(x)[at]
        with torch.no_grad():
            [prompt] = prepare(model, samples.conditioning(captions), x)
            part = host.area_and_mult(prompt, x, sigma)
            if part is None:
                raise SettingsError("a caption counts in a part of the run only; give captions without times")
            conds = {key: cond.concat([]) for key, cond in part.conditioning.items()}
        return trained(x, sigma, evaluate=partial(fresh.apply_model, transformer_options={}, **conds))

    space, prediction, sigmas, noise = schedule
    return MdssBase(name, fresh.diffusion_model, space, prediction, sigmas, draw, evaluate, noise)
