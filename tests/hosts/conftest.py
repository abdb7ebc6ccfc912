"""The host suite's ground: a real ComfyUI imported into this process, our pack in it, and tiny random models.

The tests drive ComfyUI's own guiders and samplers. `python3 run.py test` sets STEADYDIFF_COMFYUI to the host.
"""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tools.inprocess import host_path, load, load_pack, prepare_host

HOST = host_path()
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
# What the host's own samplers do on every run, with nobody's nodes: torch.tensor() of a tensor (dpm_fast and
# dpm_adaptive), numpy functions on tensors (deis), float32 sigmas for torchsde's float64 (*_sde samplers).
HOST_WARNINGS = (
    "To copy construct from a tensor:UserWarning:comfy.k_diffusion.sampling",
    "__array_wrap__ must accept context:DeprecationWarning:comfy.k_diffusion.deis",
    "Should have t[ab][<>]=t[01] but got:UserWarning:torchsde",
)


def pytest_collection_modifyitems(items):
    """Mark what lies here as needing a host, and skip it only where none is named."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)
            if not HOST:
                item.add_marker(pytest.mark.skip(reason="STEADYDIFF_COMFYUI names no host"))
            for warning in HOST_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning}"))


@cache
def load_host():
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
    return SimpleNamespace(**{short: load(name) for short, name in names.items()})


def pytest_generate_tests(metafunc):
    """Run tests that ask for a `sampler` with every sampler the host knows."""
    if "sampler" in metafunc.fixturenames:
        wanted = HOST and "not host" not in metafunc.config.option.markexpr
        metafunc.parametrize("sampler", load_host().samplers.SAMPLER_NAMES if wanted else ["all of them"])


@pytest.fixture(scope="session")
def comfy():
    """The host's modules."""
    return load_host()


@pytest.fixture(scope="session")
def pack(comfy):
    """Our nodes by id."""
    return load_pack()


@pytest.fixture(autouse=True)
def inference():
    """The host executes nodes in this mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def make_model(comfy):
    """Build a tiny randomly initialised SD1-shaped model of one of KINDS."""

    def make(kind):
        type_name, settings, skip = KINDS[kind]
        config = comfy.supported.BASE({})
        config.unet_config = unet_config()
        config.sampling_settings = settings
        config.latent_format = comfy.latent_formats.SD15()
        unet = unet_class(comfy, skip)
        model = comfy.base.BaseModel(config, comfy.base.ModelType[type_name], unet_model=unet)
        initialise(model.diffusion_model)
        device = torch.device("cpu")
        return comfy.patcher.CoreModelPatcher(model, load_device=device, offload_device=device)

    return make


def unet_class(comfy, skip):
    class SkipUNet(comfy.base.UNetModel):
        def forward(self, x, *args, **kwargs):
            out = super().forward(x, *args, **kwargs)
            return x + 0.3 * out if skip else out  # calm, so that rounding errors do not grow

    return SkipUNet


def unet_config():
    return {
        **{
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 32,
            "dtype": torch.float32,
        },
        **{"num_res_blocks": [1], "channel_mult": [1], "context_dim": 16, "num_head_channels": 32},
        **{"transformer_depth": [1], "transformer_depth_output": [1, 1], "transformer_depth_middle": 1},
        **{"use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False},
    }


def initialise(network):
    """Fill every weight: the host's layers come with uninitialised memory."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in network.named_parameters():
        values = torch.randn(weight.shape, generator=generator)
        gain = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.02
        weight.data = 1 + values * 0.1 if weight.ndim == 1 and name.endswith("weight") else values * gain


@pytest.fixture(scope="session")
def models(make_model):
    """Models by kind, each built when first asked for; tests patch clones."""

    class Models(dict):
        def __missing__(self, kind):
            self[kind] = make_model(kind)
            return self[kind]

    return Models()


@pytest.fixture(params=["epsilon", "flow"])
def model(request, models):
    return models[request.param]


@pytest.fixture
def patched(pack):
    """Return a model with our node on it, its widgets at their defaults unless given."""
    node = pack["SteadyDiffEpsilonScaling"]
    defaults = {entry.id: entry.default for entry in node.GET_SCHEMA().inputs if hasattr(entry, "default")}

    def patch(model, **widgets):
        return node.execute(model=model, **(defaults | widgets))[0]

    return patch


@pytest.fixture(scope="session")
def conds():
    """Three prompts of the tiny models, as the host's text encoders would return them."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: [[torch.randn((1, 6, 16), generator=generator), {}]]
        for name in ("positive", "negative", "third")
    }


@pytest.fixture(scope="session")
def sigmas_of(comfy):
    """Return the noise levels of a run, as BasicScheduler does."""

    def sigmas_of(model, steps=3, scheduler="simple"):
        return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)

    return sigmas_of


@pytest.fixture(scope="session")
def sample(comfy, conds, sigmas_of):
    """Sample with the host's own guider and sampler."""

    def cfg_guider(model, cfg):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(conds["positive"], conds["negative"])
        guider.set_cfg(cfg)
        return guider

    def sample(
        model, sampler="euler", *, steps=3, sigmas=None, cfg=3.0, guider=None, noise=None, latent=None,
        mask=None, callback=None, seed=7,
    ):  # fmt: skip
        if noise is None:
            noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed))
        return (guider(model) if guider else cfg_guider(model, cfg)).sample(
            noise,
            torch.zeros_like(noise) if latent is None else latent,
            comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler,
            sigmas_of(model, steps) if sigmas is None else sigmas,
            denoise_mask=mask,
            callback=callback,
            disable_pbar=True,
            seed=seed,
        )

    return sample


def scale_by_hand(x, denoised, sigma, scale, space):
    """Epsilon Scaling in plain steps and double precision: find the noise, shrink it, take it away."""
    dtype, x, denoised = x.dtype, x.double(), denoised.double()
    sigma = sigma.double().view(-1, *[1] * (x.ndim - 1))
    alpha = 1 - sigma if space == "flow" else torch.ones_like(sigma)
    eps = (x - alpha * denoised) / sigma
    corrected = (x - sigma * eps / scale) / alpha
    return torch.where(sigma / alpha > 4000, denoised, corrected).to(dtype)


@pytest.fixture(scope="session")
def by_hand():
    return scale_by_hand


@pytest.fixture
def reference(comfy):
    """Return a model that is scaled without our code: every branch by itself, just outside the network."""

    def scaled(model, scale_of=1.005):
        kind = model.get_model_object("model_sampling")
        space = "flow" if isinstance(kind, comfy.sampling.CONST) else "ve"

        def around(apply_model, args):
            x, sigma = args["input"], args["timestep"]
            scale = scale_of(sigma) if callable(scale_of) else scale_of
            return scale_by_hand(x, apply_model(x, sigma, **args["c"]), sigma, scale, space)

        clone = model.clone()
        clone.set_model_unet_function_wrapper(around)
        return clone

    return scaled


@pytest.fixture(scope="session")
def distance():
    """Return how far two results are apart, in units of the second's spread."""
    return lambda a, b: ((a - b).abs().max() / b.std().clamp(min=1)).item()


@pytest.fixture
def scales_in_effect(comfy, patched, sample):
    """Sample and return {sigma: scale} as measured: noise in the model's estimate over that after our node.

    Widgets and schedule go to our node, `options` to `sample`.
    """

    def measure(model, widgets, **options):
        kind = model.get_model_object("model_sampling")
        flow = isinstance(kind, comfy.sampling.CONST)
        noise = {"before": [], "after": []}

        def watch(name):
            def wrapper(executor, x, timestep, model_options, seed):
                denoised = executor(x, timestep, model_options, seed)
                sigma = timestep[0].double()
                eps = (x.double() - (1 - sigma if flow else 1) * denoised.double()) / sigma
                noise[name].append((sigma.item(), eps))
                return denoised

            return wrapper

        outside = model.clone()
        outside.add_wrapper_with_key("predict_noise", "outermost", watch("after"))
        watched = patched(outside, **widgets).clone()
        watched.add_wrapper_with_key("predict_noise", "innermost", watch("before"))
        sample(watched, **options)
        pairs = zip(noise["before"], noise["after"], strict=True)
        return {sigma: (before / after).median().item() for (sigma, before), (_, after) in pairs}

    return measure


@pytest.fixture
def schedule(pack):
    """Return the JSON text our schedule node makes, its widgets at their defaults unless given."""
    node = pack["SteadyDiffSchedule"]
    defaults = {entry.id: entry.default for entry in node.GET_SCHEMA().inputs if hasattr(entry, "default")}
    return lambda **widgets: node.execute(**(defaults | widgets))[0]


@pytest.fixture(scope="session")
def small_unet():
    """The shape of the suite's networks."""
    return unet_config()


@pytest.fixture(scope="session")
def small_sd1(comfy, tmp_path_factory):
    """A checkpoint of SD1's family of one level, with a tiny autoencoder and an ignorant text encoder."""
    config = {
        **{"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_heads": 8},
        **{"channel_mult": [1], "num_res_blocks": [1], "context_dim": 768, "transformer_depth": [1]},
        **{"transformer_depth_output": [1, 1], "transformer_depth_middle": 1, "legacy": False},
        "use_spatial_transformer": True,
    }
    operations = load("comfy.ops").disable_weight_init
    unet = load("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel(**config, operations=operations)
    tensors = {f"model.diffusion_model.{k}": torch.randn(v.shape) / 50 for k, v in unet.state_dict().items()}
    vae = load("comfy.taesd.taesd").TAESD(latent_channels=4).state_dict()
    tensors |= {f"first_stage_model.{k}": torch.randn(v.shape) / 20 for k, v in vae.items()}
    clip = load("comfy.sd1_clip").SD1ClipModel(dtype=torch.float16).state_dict()
    tensors |= {f"cond_stage_model.{k.removeprefix('clip_l.')}": torch.zeros_like(v) for k, v in clip.items()}
    path = tmp_path_factory.mktemp("checkpoints") / "small_sd1.safetensors"
    save_file(tensors, path)
    return path
