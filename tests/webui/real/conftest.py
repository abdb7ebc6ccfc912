"""The WebUI suite's ground: every real host named in the environment, run as a subprocess, one at a time.

`python3 run.py test --webui` sets up their environments and names the interpreters; the checkouts are the
user's (A1111_ROOT, FORGE_ROOT, REFORGE_ROOT, FORGE_CLASSIC_ROOT, FORGE_NEO_ROOT).
"""

import contextlib
import os
from pathlib import Path

import pytest
import torch

from steadydiff.files import antibias as antibias_files
from steadydiff.files import mdss as mdss_files
from steadydiff.files.checkpoints import save_checkpoint
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from tools.launch import webui

HERE = Path(__file__).parent
PYTHONS = {3: "STEADYDIFF_GRADIO3", 4: "STEADYDIFF_GRADIO4"}
WIDTH = 8  # channels that the tiny model's last layer reads


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.webui)


def pytest_generate_tests(metafunc):
    """Tests that ask for a host, or for what it is without the pack, run with every one."""
    for name in {"packed", "bare", "served"} & set(metafunc.fixturenames):
        marks = [pytest.param(kind, marks=skip(kind), id=kind.name) for kind in webui.KINDS]
        metafunc.parametrize(name, marks, indirect=True, scope="session")


def skip(kind):
    ready = os.environ.get(kind.variable) and os.environ.get(PYTHONS[kind.gradio])
    return [] if ready else [pytest.mark.skip(reason=f"{kind.variable} names no checkout of {kind.name}")]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Files below a host's models folder: two checkpoints, and one of each of our kinds."""
    folder = tmp_path_factory.mktemp("models")
    names = ("tiny", "refiner", "bump", "head")
    tiny, refiner, bump, head = (folder / f"{name}.safetensors" for name in names)
    for file in (tiny, refiner):
        save_checkpoint(file, {"model.diffusion_model.x": torch.zeros(1)}, kind="none", version=1)
    generator = torch.Generator().manual_seed(1)
    network = PromptNetwork(PromptConfig(channels=8, channel_mult=(1, 1), blocks=1, attention_levels=()))
    for value in network.parameters():
        value.data = 0.2 * torch.randn(value.shape, generator=generator)
    antibias_files.save_prompt(bump, network, antibias_files.AntiBiasCard(target="phi", space="ve"))
    weight, bias = 0.05 * torch.randn((4, WIDTH, 3, 3), generator=generator), 0.05 * torch.ones(4)
    card = mdss_files.MdssCard(form="lora", space="ve")
    mdss_files.save_mdss(head, {}, mdss_files.Head(weight, bias), card)
    checkpoints = "Stable-diffusion"
    return {
        f"{checkpoints}/tiny.safetensors": tiny,
        f"{checkpoints}/refiner.safetensors": refiner,
        "steadydiff_antibias/bump.safetensors": bump,
        "steadydiff_mdss/head.safetensors": head,
    }


@pytest.fixture(scope="session")
def start(models):
    """Return a function that starts a host; the one before is stopped, as both may be the same checkout."""
    with contextlib.ExitStack() as running:

        def start(kind, **how):
            running.close()
            python = Path(os.environ[PYTHONS[kind.gradio]])
            return running.enter_context(webui.running(kind, python, models, **how))

        yield start


@pytest.fixture(scope="session")
def packed(request, start):
    """A host with the pack in it."""
    return start(request.param)


@pytest.fixture(scope="session")
def bare(request, start):
    """A host from whose folder the pack was removed after use; nothing of ours is left but files."""
    return start(request.param, extension=False, fresh=False)


@pytest.fixture(scope="session")
def served(request, models, tmp_path_factory):
    """A host's address; of ours it has no file yet."""
    kind, python = request.param, Path(os.environ[PYTHONS[request.param.gradio]])
    own = {name: file for name, file in models.items() if not name.startswith("steadydiff")}
    folder = tmp_path_factory.mktemp(kind.name.replace(" ", "-").lower())
    with webui.serving(kind, python, own, folder) as address:
        yield kind.name, address


ON = {
    "epsilon_scaling": {"scale": 1.05},
    "diffier": {"strength": 0.3, "start_percent": 0.0},
    "antibias_prompt": {"file": "bump.safetensors"},
    "mdss": {"file": "head.safetensors"},
    "time_shift": {"levels": 21.0},  # whole timesteps, as hosts round others in ways of their own
}
OFF = {
    "epsilon_scaling": {"scale": 1.0},
    "diffier": {"strength": 0.0},
    "antibias_prompt": {"file": "bump.safetensors", "strength": 0.0},
    "mdss": {"file": "head.safetensors", "strength": 0.0},
    "time_shift": {"factor": 1.0},
}


@pytest.fixture(scope="session")
def on():
    """Every panel's values at which it acts, as the API takes them by name."""
    return ON


@pytest.fixture(scope="session")
def neutral():
    """Every panel's values at which it is enabled and does nothing."""
    return OFF


@pytest.fixture(scope="session")
def drawn():
    """Return a function that makes pictures and tells their hashes, or, a text, how the host failed.

    `named` are panels' values as the API takes them.
    """

    def drawn(host, named=None, **fields):
        args = {"SteadyDiff": [named]} if named is not None else {}
        try:
            made = host.generate(args=args, **fields)
        except webui.Stop as stop:
            return str(stop).strip().splitlines()[-1]
        assert made["swallowed"] == []
        return made["images"]

    return drawn
