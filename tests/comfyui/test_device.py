"""Our nodes in ComfyUI on a simulated device that knows no float64, as Apple's (MPS)."""

import json
import re
import sys

import pytest
import torch
from safetensors.torch import load_file

from tools.launch import tiny_models
from tools.launch.inprocess import PACK, defaults_of, load
from tools.launch.no_float64 import HERE, device

# Those of the host that keep clear of float64 and of random numbers made on the device themselves.
SAMPLERS = ("euler", "heun", "dpmpp_2m", "dpmpp_sde")
PREDICTIONS = ("EpsilonScaling", "BandScaling", "TimeShift", "DiffIER")
NOISE = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["epsilon", "flow"])
def both(request, host, make_model, monkeypatch):
    """The same model on the CPU and on the device."""
    management = load("comfy.model_management")

    def plenty(dev=None, torch_free_too=False, torch_total_too=False):
        return (2**33, 2**33) if torch_free_too or torch_total_too else 2**33

    for name in ("get_free_memory", "get_total_memory"):  # the host asks drivers
        monkeypatch.setattr(management, name, plenty)
    with torch.inference_mode(False):  # they are trained as well
        here, moved = make_model(request.param), make_model(request.param)
    with torch.inference_mode(False), torch.no_grad(), device():
        moved.model.to(HERE)
        yield here, host.Patcher(moved.model, load_device=HERE, offload_device=HERE)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_method_samples_there_as_here(name, pack, both):
    node = pack[f"SteadyDiff{name}"]
    here, there = (node.execute(model=model, **defaults_of(node))[0] for model in both)
    for sampler in SAMPLERS:
        found = tiny_models.sample(there, sampler, noise=NOISE)
        assert torch.allclose(found.cpu(), tiny_models.sample(here, sampler, noise=NOISE), atol=1e-4), sampler


def test_a_state_is_corrected_there_as_here(pack, both, host, modules):
    found = []
    for model in both:
        device = model.load_device
        space = modules["hosts.patch"].states_of(model.get_model_object("model_sampling")).space
        network = torch.nn.Conv2d(4, 4, 1).requires_grad_(False)
        network.weight.data, network.bias.data = 0.01 * torch.ones(4, 4, 1, 1), torch.zeros(4)
        network.config = modules["networks.antibias_prompt"].PromptConfig()
        patcher = host.Patcher(network.to(device), load_device=device, offload_device=device)
        card = modules["files.antibias"].AntiBiasCard(target="residual", space=space)
        prompt = modules["hosts.comfy.antibias"].LoadedPrompt(patcher, card)
        node = pack["SteadyDiffAntiBiasPrompt"]
        corrected = node.execute(model, prompt, **defaults_of(node))[0]
        model.model.model_config = host.supported.BASE({})
        head = modules["files.mdss"].Head(0.02 * torch.ones(4, 32, 3, 3), torch.zeros(4))
        loaded = modules["hosts.comfy.mdss"].LoadedHead(
            head, modules["files.mdss"].MdssCard(form="lora", space=space), "made for this test"
        )
        node = pack["SteadyDiffMDSS"]
        corrected = node.execute(corrected, loaded, **defaults_of(node))[0]
        found.append([tiny_models.sample(corrected, sampler, noise=NOISE).cpu() for sampler in SAMPLERS])
        plain = tiny_models.sample(model, SAMPLERS[0], noise=NOISE).cpu()
        assert not torch.allclose(found[-1][0], plain, atol=1e-3)
    assert all(torch.allclose(here, there, atol=1e-4) for here, there in zip(*found, strict=True))


def test_a_measurement_and_a_calibration_are_made_there_as_here(pack, both, host, conds, sigmas_of):
    ends, euler, made = (conds["positive"], conds["negative"]), host.samplers.sampler_object("euler"), []
    for model in both:
        run = {"cfg": 2.0, "seed": 5, "count": 3, "batch_size": 2, "refine": 2, "paper_curves": True}
        run |= {"latent_image": {"samples": torch.zeros(1, 4, 8, 8)}, "sigmas": sigmas_of(model, 4)}
        measured = pack["SteadyDiffMeasure"].execute(
            model=model, positive=ends[0], negative=ends[1], sampler=euler, **run
        )
        schedule = pack["SteadyDiffCalibrate"].execute(model, *ends, euler, measured[2], "norm", 3)[0]
        made.append(json.loads(schedule)["values"])
    assert made[0] == pytest.approx(made[1], abs=1e-4)


def test_auto_correct_chooses_there_as_here(pack, both, conds, kept):
    node, ends = pack["SteadyDiffAuto"], {name: conds[name] for name in ("positive", "negative")}
    run = {"steps": 4, "cfg": 2.0, "quality": "quick", "batch_size": 8, "measure": "again"}
    run |= {"latent_image": {"samples": torch.zeros(1, 4, 8, 8)}, **ends}
    told = []
    for model in both:
        lists = {name: [one] for name, one in (defaults_of(node) | run | {"model": model}).items()}
        made, info, _ = node.execute(**lists, images=[]).args
        told.append(info)
        assert tiny_models.sample(made, noise=NOISE).isfinite().all()
    number = r"[-+]?\d+(?:\.\d+)?"
    here, there = ([float(one) for one in re.findall(number, info)] for info in told)
    assert here == pytest.approx(there, abs=0.02)
    assert re.sub(number, "", told[0]) == re.sub(number, "", told[1])


def test_a_node_trains_there_as_here(pack, both, host, conds, kept, monkeypatch):
    node, losses = pack["SteadyDiffTrainAntiBias"], []
    folders = load("folder_paths")
    monkeypatch.setattr(folders, "output_directory", str(kept.parent / "output"))
    monkeypatch.setitem(
        folders.folder_names_and_paths, "steadydiff_antibias", ([str(kept.parent)], {".safetensors"})
    )
    samples = torch.randn((8, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    small = {"steps": 2, "batch_size": 4, "channels": 4, "most_steps": 9, "samples": {"samples": samples}}
    for model, name in zip(both, ("here", "there"), strict=True):
        model.model.model_config = host.supported.BASE({})
        given = {"model": model, "positive": conds["positive"], "name": name}
        lists = {key: [one] for key, one in (defaults_of(node) | small | given).items()}
        prompt, told = node.execute(**lists).args
        losses.append(told["loss"])
        weights = prompt.patcher.model.state_dict()
        assert all(weight.isfinite().all() for weight in weights.values())
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_model_is_fine_tuned_by_mdss_there_as_here(rank, pack, both, host, conds, kept, monkeypatch):
    node, losses = pack["SteadyDiffTrainMDSS"], []
    paths = kept.parent / "made.safetensors", kept.parent / "state.safetensors"
    monkeypatch.setattr(
        sys.modules[f"{PACK}.nodes.shared.model_folder"].ModelFolder, "paths", lambda *_: paths
    )
    if not rank:  # the host does not know a whole checkpoint of so small a model
        monkeypatch.setattr(sys.modules[f"{PACK}.nodes.train_mdss"], "from_file", lambda *_: (None, None))
    samples = torch.randn((8, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    small = {"steps": 1, "batch_size": 4, "lora_rank": rank, "samples": {"samples": samples}}
    for model in both:
        device = model.load_device
        monkeypatch.setattr(load("comfy.model_management"), "get_torch_device", lambda device=device: device)
        for path in paths:
            path.unlink(missing_ok=True)
        given = defaults_of(node) | small | {"model": model, "positive": conds["positive"]}
        told = node.execute(**{key: [one] for key, one in given.items()}).args[-1]
        losses.append(told["loss"])
        assert all(weight.isfinite().all() for weight in load_file(paths[0]).values())
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
