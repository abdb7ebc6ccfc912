"""Cross-host truth: the same tiny network, first noise and noise levels give the latents that ComfyUI gives.

ComfyUI runs in this process, with our nodes; the WebUI beside it, with our panels.
"""

import contextlib
import sys

import pytest
import torch

from tools.launch import inprocess
from tools.launch.console import Stop
from tools.launch.environment import ROOT

SAMPLERS = {"Euler": "euler", "Heun": "heun", "DPM++ 2M": "dpmpp_2m"}
AT = (799, 599, 399, 249, 99)  # timesteps, so that no host has to round its sigmas
NODES = {
    "epsilon_scaling": "SteadyDiffEpsilonScaling",
    "diffier": "SteadyDiffDiffIER",
    "antibias_prompt": "SteadyDiffAntiBiasPrompt",
    "mdss": "SteadyDiffMDSS",
    "time_shift": "SteadyDiffTimeShift",
}
CFG, PROMPTS = 3.0, ("a cat", "a dog")
CLOSE = 1e-4
FOUND: dict[str, dict] = {}
"""Latents by host and sampler, without us and with everything on."""
OWN = {"Forge Classic": {"skip_early_cond": -1.0}}  # at 0 it still leaves guidance out at the first step

pytestmark = pytest.mark.skipif(
    inprocess.host_path() is None, reason="STEADYDIFF_COMFYUI names no ComfyUI to compare with"
)


@pytest.fixture(scope="module")
def tiny():
    """The hosts' tiny model, here."""
    sys.path.insert(0, str(ROOT / "tools" / "webui_host"))
    try:
        yield inprocess.load("tiny")
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def sigmas(tiny):
    levels = ((1 - tiny.alphas_cumprod()) / tiny.alphas_cumprod()).sqrt().float()
    return [*levels[list(AT)].tolist(), 0.0]


@pytest.fixture(scope="module")
def comfyui(tiny, sigmas, models):
    """Return a function: ComfyUI's last latents of a sampler with some of our nodes."""
    inprocess.prepare_host(cpu=True)
    pack = inprocess.load_pack("custom_nodes_x_SteadyDiffTruth")
    base, supported = inprocess.load("comfy.model_base"), inprocess.load("comfy.supported_models_base")
    samplers, patcher = inprocess.load("comfy.samplers"), inprocess.load("comfy.model_patcher")

    class Network(tiny.TinyNetwork):
        dtype = torch.float32

    config = supported.BASE({"disable_unet_model_creation": True})
    config.latent_format = inprocess.load("comfy.latent_formats").LatentFormat()
    model = base.BaseModel(config, base.ModelType.EPS)
    model.diffusion_model = Network()
    device = torch.device("cpu")
    plain = patcher.CoreModelPatcher(model, load_device=device, offload_device=device)
    conds = [[[tiny.encode_prompts([prompt]), {}]] for prompt in PROMPTS]

    def node(model, name, values):
        node = pack[NODES[name]]
        module = sys.modules[node.__module__]
        defaults = {one.id: one.default for one in node.GET_SCHEMA().inputs if hasattr(one, "default")}
        values, file = dict(values), values.get("file")
        values.pop("file", None)
        first = []
        if name == "antibias_prompt":
            first = [module.from_file(models[f"steadydiff_antibias/{file}"])]
        elif name == "mdss":
            head, card = module.load_head(models[f"steadydiff_mdss/{file}"])
            first = [module.LoadedHead(head, card, file)]
        return node.execute(model, *first, **(defaults | values))[0]

    def latents(sampler, named):
        patched = plain
        for name, values in named.items():
            patched = node(patched, name, values)
        guider = samplers.CFGGuider(patched)
        guider.set_conds(*conds)
        guider.set_cfg(CFG)
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(7))
        with torch.inference_mode():
            return guider.sample(
                noise,
                torch.zeros_like(noise),
                samplers.sampler_object(SAMPLERS[sampler]),
                torch.tensor(sigmas),
                disable_pbar=True,
            )

    return latents


@pytest.fixture
def latents(packed, sigmas, tmp_path):
    """Return a function: the host's last latents of a sampler with some of our panels."""

    def latents(sampler, named):
        file = tmp_path / "latents.pt"
        made = packed.generate(
            args={"SteadyDiff": [named]},
            sampler_name=sampler,
            steps=len(AT),
            cfg_scale=CFG,
            sigmas=sigmas,
            prompt=PROMPTS[0],
            negative_prompt=PROMPTS[1],
            latents=str(file),
            options=OWN.get(packed.kind.name),
        )
        assert made["swallowed"] == [] and ("run" in str(made["infotexts"])) == bool(named)
        (found,) = torch.load(file)
        return found

    return latents


def distance(found, expected):
    """The largest difference, in the expected latents' standard deviations."""
    return ((found - expected).abs().max() / expected.std()).item()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_latents_are_comfyuis(latents, comfyui, on, sampler):
    plain, apart = comfyui(sampler, {}), {}
    cases = {"nothing": {}, **{name: {name: values} for name, values in on.items()}, "all": on}
    for name, named in cases.items():
        expected = comfyui(sampler, named)
        apart[name] = distance(latents(sampler, named), expected)
        assert not named or (expected - plain).abs().max() > 0.01 * plain.std()
    assert max(apart.values()) < CLOSE, apart


def test_other_samplers_differ_no_more_than_the_hosts_do_without_us(packed, latents, on):
    """Compared with each host before this one, for every sampler that both have."""
    found, worse = {}, {}
    for sampler in {*packed.ask("samplers")} - {*SAMPLERS}:
        with contextlib.suppress(Stop):  # a few cannot go by imposed noise levels
            found[sampler] = [latents(sampler, named) for named in ({}, on)]
    for other, theirs in FOUND.items():
        for sampler in found.keys() & theirs.keys():
            plain, ours = (distance(*pair) for pair in zip(found[sampler], theirs[sampler], strict=True))
            if ours > 2 * plain + CLOSE:
                worse[other, sampler] = plain, ours
    FOUND[packed.kind.name] = found
    assert worse == {}
