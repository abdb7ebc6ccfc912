"""Tiny random SD1-shaped models in a ComfyUI inside this process, and runs of its own guiders and samplers.

The ground of the host suite and of `run.py bench matrix`.
"""

from functools import cache
from types import SimpleNamespace

import torch

from tools.launch.inprocess import load, prepare_host

# name -> (ComfyUI's ModelType, sampling settings, whether the network adds its input to its output, so that
# states end near 1 as those of a trained model do)
KINDS = {
    "epsilon": ("EPS", {}, True),
    "flow": ("FLOW", {"shift": 1.0}, True),
    "v": ("V_PREDICTION", {}, False),
    "zsnr": ("V_PREDICTION", {"zsnr": True}, False),
    "edm": ("EDM", {"sigma_data": 0.5, "sigma_max": 80.0}, False),
    "cosmos": ("FLOW_COSMOS", {"sigma_max": 80.0}, False),
    "cogvideo": ("V_PREDICTION_DDPM", {}, False),
    "image_to_image": ("IMG_TO_IMG_FLOW", {}, False),
}


@cache
def host() -> SimpleNamespace:
    """The host's modules by short names, on the CPU."""
    prepare_host(cpu=True)
    names = {
        **{"base": "comfy.model_base", "management": "comfy.model_management", "samplers": "comfy.samplers"},
        **{"patcher": "comfy.model_patcher", "supported": "comfy.supported_models_base"},
        **{"sampling": "comfy.model_sampling", "latent_formats": "comfy.latent_formats"},
        **{
            "advanced": "comfy_extras.nodes_model_advanced",
            "custom_sampler": "comfy_extras.nodes_custom_sampler",
        },
        **{"eps": "comfy_extras.nodes_eps", "perpneg": "comfy_extras.nodes_perpneg"},
        "advanced_samplers": "comfy_extras.nodes_advanced_samplers",
    }
    found = SimpleNamespace(**{short: load(name) for short, name in names.items()})
    found.Patcher = getattr(found.patcher, "CoreModelPatcher", found.patcher.ModelPatcher)  # new since 0.3.64
    return found


def make_model(kind: str):
    """A tiny randomly initialised model of one of KINDS."""
    comfy = host()
    type_name, settings, skip = KINDS[kind]
    config = comfy.supported.BASE({})
    config.unet_config = unet_config()
    config.sampling_settings = settings
    config.latent_format = comfy.latent_formats.SD15()
    model = comfy.base.BaseModel(config, comfy.base.ModelType[type_name], unet_model=_unet_class(skip))
    initialise(model.diffusion_model)
    device = torch.device("cpu")
    return comfy.Patcher(model, load_device=device, offload_device=device)


def _unet_class(skip: bool) -> type:
    class SkipUNet(host().base.UNetModel):
        def forward(self, x, *args, **kwargs):
            out = super().forward(x, *args, **kwargs)
            return x + 0.3 * out if skip else out  # calm, so that rounding errors do not grow

    return SkipUNet


def unet_config() -> dict:
    return {
        **{
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 32,
            "dtype": torch.float32,
        },
        **{"num_res_blocks": [0], "channel_mult": [1], "context_dim": 16, "num_head_channels": 32},
        **{"transformer_depth": [], "transformer_depth_output": [0], "transformer_depth_middle": 1},
        **{"use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False},
    }


def initialise(network) -> None:
    """Fill every weight, and SD3's table of positions: the host's layers come with uninitialised memory."""
    generator = torch.Generator().manual_seed(0)
    tables = [(name, table) for name, table in network.named_buffers() if name == "pos_embed"]
    for name, weight in [*network.named_parameters(), *tables]:
        values = torch.randn(weight.shape, generator=generator)
        gain = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.02
        weight.data = 1 + values * 0.1 if weight.ndim == 1 and name.endswith("weight") else values * gain


@cache
def conds() -> dict[str, list]:
    """Three prompts of the tiny models, as the host's text encoders would return them."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: [[torch.randn((1, 6, 16), generator=generator), {}]]
        for name in ("positive", "negative", "third")
    }


def sigmas_of(model, steps: int = 3, scheduler: str = "simple") -> torch.Tensor:
    """The noise levels of a run, as BasicScheduler returns them."""
    return host().samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def cfg_guider(model, cfg: float, positive=None, negative=None):
    """The host's own guider, with the prompts above unless others are given."""
    guider = host().samplers.CFGGuider(model)
    guider.set_conds(positive or conds()["positive"], negative or conds()["negative"])
    guider.set_cfg(cfg)
    return guider


def sample(
    model, sampler="euler", *, steps=3, sigmas=None, cfg=3.0, guider=None, noise=None, latent=None,
    mask=None, callback=None, seed=7,
) -> torch.Tensor:  # fmt: skip
    """Sample with the host's own guider and sampler.

    guider: function of the model
    """
    if noise is None:
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed))
    return (guider(model) if guider else cfg_guider(model, cfg)).sample(
        noise,
        torch.zeros_like(noise) if latent is None else latent,
        host().samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler,
        sigmas_of(model, steps) if sigmas is None else sigmas,
        denoise_mask=mask,
        callback=callback,
        disable_pbar=True,
        seed=seed,
    )
