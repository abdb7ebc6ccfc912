"""The host suite's ground: a real ComfyUI imported into this process, our pack in it, and tiny random models.

The tests drive ComfyUI's own guiders and samplers. `python3 run.py test` sets STEADYDIFF_COMFYUI to the host.
"""

import gc
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tools.launch import tiny_models
from tools.launch.inprocess import PACK, defaults_of, host_path, load, load_pack

HOST = host_path()
# What the host's own samplers do on every run, with nobody's nodes: torch.tensor() of a tensor (dpm_fast and
# dpm_adaptive), numpy functions on tensors (deis), float32 sigmas for torchsde's float64 (*_sde samplers).
HOST_WARNINGS = (
    "To copy construct from a tensor:UserWarning:comfy.k_diffusion.sampling",
    "__array_wrap__ must accept context:DeprecationWarning:comfy.k_diffusion.deis",
    "Should have t[ab][<>]=t[01] but got:UserWarning:torchsde",
)


class Log(nn.Module):
    """A list that extra calls are noted in as well: of those, a node's own list knows nothing afterwards."""

    def __init__(self):
        super().__init__()
        self.noted = []
        self.append, self.clear = self.noted.append, self.noted.clear

    def __len__(self):
        return len(self.noted)

    def __iter__(self):
        return iter(self.noted)


@pytest.fixture
def said(host, monkeypatch):
    """What is shown on node 7, which is executing."""
    texts = []
    server = SimpleNamespace(send_progress_text=lambda text, node_id: texts.append((node_id, text)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    with load("comfy_execution.utils").CurrentNodeContext("prompt", "7"):
        yield texts


@pytest.fixture
def log():
    """Makes such lists."""
    return Log


def pytest_collection_modifyitems(items):
    """Mark what lies here as needing a host, and skip it only where none is named."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)
            if not HOST:
                item.add_marker(pytest.mark.skip(reason="STEADYDIFF_COMFYUI names no host"))
            for warning in HOST_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning}"))


def pytest_generate_tests(metafunc):
    """Run tests that ask for a `sampler` with every sampler the host knows."""
    if "sampler" in metafunc.fixturenames:
        wanted = HOST and "not host" not in metafunc.config.option.markexpr
        metafunc.parametrize(
            "sampler", tiny_models.host().samplers.SAMPLER_NAMES if wanted else ["all of them"]
        )


@pytest.fixture(scope="session")
def host():
    """The host's modules."""
    return tiny_models.host()


@pytest.fixture(autouse=True, scope="module")
def settled(host):
    """Leave what earlier tests made and imported out of the collections the host makes in every run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def pack(host):
    """Our nodes by id."""
    return load_pack()


@pytest.fixture
def modules(pack):
    """The pack's own modules of the core by name."""
    core = f"{PACK}.steadydiff."
    return {name.removeprefix(core): sys.modules[name] for name in sys.modules if name.startswith(core)}


@pytest.fixture(autouse=True)
def inference():
    """The host executes nodes in this mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Leave plots black but in tests marked `drawn`: drawing one takes longer than the run it shows."""

    def black(figure):
        width, height = (int(length) for length in figure.bbox.size)
        return np.zeros((height, width, 3), np.uint8)

    if not request.node.get_closest_marker("drawn"):
        for name in ("steadydiff.plots", f"{PACK}.steadydiff.plots"):
            if name in sys.modules:
                monkeypatch.setattr(sys.modules[name], "pixels", black)


@pytest.fixture(scope="session")
def make_model(host):
    """Build a tiny randomly initialised SD1-shaped model of one of `tiny_models.KINDS`."""
    return tiny_models.make_model


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
    defaults = defaults_of(node)

    def patch(model, **widgets):
        return node.execute(model=model, **(defaults | widgets))[0]

    return patch


@pytest.fixture(scope="session")
def conds():
    """Three prompts of the tiny models, as the host's text encoders would return them."""
    return tiny_models.conds()


@pytest.fixture(scope="session")
def sigmas_of(host):
    """Return the noise levels of a run, as BasicScheduler does."""
    return tiny_models.sigmas_of


@pytest.fixture(scope="session")
def sample(host):
    """Sample with the host's own guider and sampler."""
    return tiny_models.sample


def scale_by_hand(x, denoised, sigma, scale, space):
    """Epsilon Scaling in plain steps and double precision: find the noise, shrink it, take it away.

    A step from above 4000 is so long in these tests that no more than a trace of it is left.
    """
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
def reference(host):
    """Return a model that is scaled without our code: every branch by itself, just outside the network."""

    def scaled(model, scale_of=1.005):
        kind = model.get_model_object("model_sampling")
        space = "flow" if isinstance(kind, host.sampling.CONST) else "ve"

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
def scales_in_effect(host, patched, sample):
    """Sample and return {sigma: scale} as measured: noise in the model's estimate over that after our node.

    Widgets and schedule go to our node, `options` to `sample`.
    """

    def measure(model, widgets, **options):
        kind = model.get_model_object("model_sampling")
        flow = isinstance(kind, host.sampling.CONST)
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
    defaults = defaults_of(node)
    return lambda **widgets: node.execute(**(defaults | widgets))[0]


@pytest.fixture(scope="session")
def small_unet():
    """The shape of the suite's networks."""
    return tiny_models.unet_config()


@pytest.fixture(scope="session")
def small_sd1(host, tmp_path_factory):
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


@pytest.fixture
def kept(host, monkeypatch, tmp_path):
    """Where measurements are kept."""
    monkeypatch.setattr(load("folder_paths"), "models_dir", str(tmp_path))
    monkeypatch.setattr(load("folder_paths"), "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "steadydiff_schedules" / "auto"


@pytest.fixture
def fit_adapter(pack):
    """The module that fits inside the host's runs, as the pack has loaded it."""
    return sys.modules[f"{PACK}.steadydiff.hosts.comfy.fit"]


@pytest.fixture
def counted(models, log):
    """A model of noise, and a list of its calls."""
    calls, clone = log(), models["epsilon"].clone()

    def around(apply_model, args):
        calls.append(len(args["timestep"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(around)
    return clone, calls


@pytest.fixture
def choose(fit_adapter, monkeypatch):
    """Let the rule choose a correction, which it tries once; returns what the trial drew."""

    def choose(**correction):
        core, drawn = sys.modules[fit_adapter.fit.__module__], []

        def fit(problem, settings, done, on_trial):
            chosen, denoise = core.Correction(**correction), problem.denoise
            for method in chosen.methods(problem.run):
                denoise = method.wrap(denoise, problem.run)
            drawn.append(problem.sampler(denoise, problem.x.clone(), problem.run.sigmas))
            signs = core.Signs(0.0, 1.0, 0.0, 1.0)
            return core.Fit(chosen, "a test wants it", signs, signs, {"plain": (1.0, 0.0)}, 1, 1)

        monkeypatch.setattr(fit_adapter, "fit", fit)
        return drawn

    return choose
