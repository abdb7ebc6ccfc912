"""Every family of models that the host knows, small: what is off changes no bit, what is on changes pictures,
and a refusal names the model."""

import sys

import pytest
import torch

from steadydiff.errors import HostError
from steadydiff.model_names import name_of
from steadydiff.networks import xi_head
from tools.launch import tiny_families, tiny_models
from tools.launch.inprocess import PACK, defaults_of, load

pytestmark = pytest.mark.filterwarnings("ignore:.*autocast_gpu_dtype:DeprecationWarning")  # the host's

NEUTRAL = {
    "EpsilonScaling": {"scale": 1.0},
    "BandScaling": {"coarse": 1.0, "fine": 1.0},
    "TimeShift": {"factor": 1.0},
    "DiffIER": {"strength": 0.0},
}
ACTIVE = {
    "EpsilonScaling": {"scale": 1.05},
    "BandScaling": {"coarse": 1.0, "fine": 1.1},
    "TimeShift": {"factor": 0.9},
    "DiffIER": {"strength": 0.3},
}
# MDSS trains a second head on these; all others are refused by name.
TRAINED = {
    *("SD15", "SD20", "SDXL", "SSD1B", "SDXLRefiner"),
    *("SD3", "Flux", "FluxSchnell", "Flux2", "LongCatImage", "Chroma", "Lumina2", "ZImage"),
}
REFUSED = "mixes noise and picture in a way SteadyDiff does not know"


@pytest.fixture(scope="module", params=tiny_families.FAMILIES, ids=lambda family: family.name)
def family(request, host):
    if not hasattr(load("comfy.supported_models"), request.param.name):
        pytest.skip(f"this host has no {request.param.name} yet")
    return request.param


@pytest.fixture(scope="module")
def model(family):
    with torch.inference_mode():
        return tiny_families.make(family)


@pytest.fixture
def draw(family, sample):
    """Sample with CFG from a batch of noise, its first row always the same."""
    generator = torch.Generator().manual_seed(1)
    prompts = [[[torch.randn((1, *family.text), generator=generator), dict(family.more)]] for _ in range(2)]
    noise = torch.randn((2, *family.shape), generator=generator)

    def run(model, rows=1, **more):
        guider = lambda model: tiny_models.cfg_guider(model, 3.0, *prompts)  # noqa: E731
        return sample(model, noise=noise[:rows], steps=2, guider=guider, **more)

    return run


def attached(pack, model, widgets):
    for name, values in widgets.items():
        node = pack[f"SteadyDiff{name}"]
        model = node.execute(model=model, **(defaults_of(node) | values))[0]
    return model


def test_off_is_off_and_on_is_on(family, model, pack, draw, distance):
    plain = draw(model)
    assert plain.isfinite().all()
    if family.space is None:
        for name, values in ACTIVE.items():
            with pytest.raises(Exception, match=REFUSED):
                attached(pack, model, {name: values})
        return
    assert torch.equal(draw(attached(pack, model, NEUTRAL)), plain)
    for name, values in ACTIVE.items():
        found = draw(attached(pack, model, {name: values}))
        assert found.isfinite().all() and distance(found, plain) > 1e-5, name
    assert torch.equal(draw(model), plain)


def test_states_are_built_as_the_family_builds_them(family, model, pack):
    states_of = sys.modules[f"{PACK}.steadydiff.hosts.patch"].states_of
    if family.space:
        assert states_of(model.get_model_object("model_sampling")).space == family.space


def test_a_batch_and_a_mask(family, model, pack, draw, distance):
    if family.space is None:
        return
    ours = attached(pack, model, {"EpsilonScaling": ACTIVE["EpsilonScaling"]})
    assert distance(draw(ours, rows=2)[:1], draw(ours)) < 2e-2  # sums of batches round otherwise
    if not family.masked:
        return
    mask = torch.zeros(1, 1, *family.shape[1:])
    mask[..., : family.shape[-1] // 2] = 1
    latent = torch.randn((1, *family.shape), generator=torch.Generator().manual_seed(2))
    kept = draw(ours, mask=mask, latent=latent)[..., family.shape[-1] // 2 :]
    assert distance(kept, latent[..., family.shape[-1] // 2 :]) < 1e-3


def test_mdss_trains_it_or_refuses_it_by_its_name(family, model, pack):
    finetune = sys.modules[f"{PACK}.steadydiff.hosts.comfy.finetune"]
    try:
        found = finetune.schedule_of(model)
    except Exception as error:
        assert type(error).__name__ == HostError.__name__
        assert name_of(model.model) in str(error) or REFUSED in str(error)
        assert family.name not in TRAINED
    else:
        assert found.space == family.space and family.name in TRAINED


def test_a_head_in_the_place_of_the_last_layer_answers_as_it(family, model, draw, monkeypatch):
    if family.name not in TRAINED:
        return
    network = model.model.diffusion_model
    layer, made = xi_head.last_layer(network), []
    bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias

    def forward(x, *args, **kwargs):
        with xi_head.capture(layer) as seen:
            answer = own(x, *args, **kwargs)
        head = xi_head.apply_head(seen[0], layer.weight, bias)
        made.append((xi_head.to_latent(network, head, x.shape[-2:]), answer))
        return answer

    own = network.forward
    monkeypatch.setattr(network, "forward", forward)
    draw(model, rows=2)
    for found, answer in made:
        torch.testing.assert_close(found, answer[:, : found.shape[1]])
    assert made
