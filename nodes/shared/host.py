"""What ComfyUI calls things, for the adapter, which imports no host, and how its versions differ."""

import sys
from inspect import signature

import comfy.sample
from comfy import model_management, model_patcher, samplers
from comfy.patcher_extension import WrappersMP

from ...steadydiff.errors import HostError
from ...steadydiff.hosts.comfy.host import ComfyHost
from ...steadydiff.model_names import name_of


def executing_node() -> str | None:
    """Return the id of the node that is executing, None where the host does not tell."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:  # old hosts
        return None
    context = get_executing_context()
    return None if context is None else context.node_id


def say(text: str, node: str | None = None) -> None:
    """Show a text on a node, else on the one that is executing, where the host can; it stays until the next
    one."""
    node = node or executing_node()
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    send = getattr(getattr(server, "instance", None), "send_progress_text", None)
    if send is not None and node is not None:
        send(text, node)


HOST = ComfyHost(
    outer_sample=WrappersMP.OUTER_SAMPLE,
    predict_noise=WrappersMP.PREDICT_NOISE,
    in_training=lambda: bool(getattr(model_management, "in_training", False)),
    check_interrupted=model_management.throw_exception_if_processing_interrupted,
    sampler_sample=WrappersMP.SAMPLER_SAMPLE,
    apply_model=WrappersMP.APPLY_MODEL,
    area_and_mult=samplers.get_area_and_mult,
    say=say,
)


def fitted_latent(model, latent: dict):
    """Return a latent's samples as core's samplers do: an empty one in the model's own channels and size.

    latent: what a LATENT wire carries; its "downscale_ratio_..." say what one of its empty samples stands for
    """
    fix = comfy.sample.fix_empty_latent_channels
    ratios = ("downscale_ratio_spacial", "downscale_ratio_temporal")  # unknown to the oldest hosts
    known = {name: latent.get(name) for name in ratios if name in signature(fix).parameters}
    return fix(model, latent["samples"], **known)


def fitted_shape(model, latent: dict) -> tuple[int, ...]:
    """Return the shape [C, *S] of a latent's samples, fitted as `fitted_latent` does; HostError for samples
    of several kinds, such as a film with its sound, which only a whole run can take."""
    samples = fitted_latent(model, latent)
    if getattr(samples, "is_nested", False):
        raise HostError(
            f"a {name_of(model.model)} draws latents of {len(samples.unbind())} kinds together, such as a "
            f"film and its sound; connect a model that draws one kind to measure it"
        )
    return tuple(samples.shape[1:])


def patcher_of(network):
    """Put a network into the host's keeping; the oldest host we support has one kind of patcher only."""
    kind = getattr(model_patcher, "CoreModelPatcher", model_patcher.ModelPatcher)
    return kind(
        network,
        load_device=model_management.get_torch_device(),
        offload_device=model_management.unet_offload_device(),
    )
