"""The anti-bias prompt in every sampler of the host: neutral is off, on corrects its own state."""

import functools
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tools.launch.inprocess import defaults_of

DOCS = Path(__file__).resolve().parents[2] / "docs" / "antibias_prompt.md"

REFUSED = ("uni_pc", "uni_pc_bh2")


@pytest.fixture
def patched(pack, host):
    """Return a function that puts our node, with any network, on a model."""
    node = pack["SteadyDiffAntiBiasPrompt"]
    module = sys.modules[node.__module__]
    card_of = sys.modules[module.LoadedPrompt.__module__].AntiBiasCard
    defaults = defaults_of(node)

    def patch(model, network, target="phi", card=None, **widgets):
        space = "flow" if isinstance(model.get_model_object("model_sampling"), host.sampling.CONST) else "ve"
        patcher = host.Patcher(network, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))
        prompt = module.LoadedPrompt(
            patcher, card_of(target=target, space=space, **(card or {})), name="made for this test"
        )
        return node.execute(model, prompt, **(defaults | widgets))[0]

    return patch


class Network(nn.Module):
    """Stands in for a trained one: x to a small correction of the same shape."""

    def __init__(self, function):
        super().__init__()
        self.function, self.seen = function, []
        self.config = type("Config", (), {"latent_channels": 4})

    def forward(self, x):
        self.seen.append(x.clone())
        return self.function(x)


@pytest.fixture
def bump():
    return Network(lambda x: 0.1 * torch.tanh(3 * x))


@pytest.fixture(autouse=True)
def in_families(models, host):
    """The suite's models are built without a configuration of a family."""
    for kind in ("epsilon", "flow"):
        models[kind].model.model_config = host.supported.BASE({})


def test_neutral_settings_and_a_network_of_zeros_change_no_bit_behind_masks(
    sampler, model, patched, sample, bump
):
    plain = sample(model, sampler)
    assert torch.equal(sample(patched(model, bump, start_percent=0.3, end_percent=0.3), sampler), plain)
    generator, mask = torch.Generator().manual_seed(5), torch.zeros(1, 1, 8, 8)
    mask[..., 3:] = 1
    noise, latent = torch.randn((2, 2, 4, 8, 8), generator=generator)
    options = {"noise": noise, "latent": latent, "mask": mask}
    plain = sample(model, sampler, **options)
    assert torch.equal(sample(patched(model, bump, strength=0.0), sampler, **options), plain)
    if sampler not in REFUSED:
        assert torch.equal(sample(patched(model, Network(torch.zeros_like)), sampler, **options), plain)


@pytest.fixture
def state_module(pack):
    """The adapter, as the pack loaded it."""
    own = sys.modules[pack["SteadyDiffAntiBiasPrompt"].__module__].attach_prompt.__module__
    return sys.modules[own.replace("comfy.antibias", "comfy.state")]


def test_one_correction_is_that_step_started_from_the_corrected_state(
    sampler, model, host, state_module, sample, sigmas_of, distance
):
    """At the first call, where every sampler's state is known: bit for bit, if it asks at the given sigma."""
    own = host.samplers.sampler_object(sampler)
    if sampler in REFUSED:
        with pytest.raises(Exception, match=f"{sampler} does not ask.*choose euler"):
            state_module.check_sampler(own, "Anti-Bias Prompt")
        return
    space = "flow" if isinstance(model.get_model_object("model_sampling"), host.sampling.CONST) else "ve"
    function, run = own.sampler_function, state_module.Run(space, tuple(sigmas_of(model).tolist()))

    def correction(x):
        return 0.4 * torch.tanh(3 * x)

    prompt = sys.modules[state_module.__package__.replace("hosts.comfy", "methods.antibias_prompt")]

    def from_there(model, x, sigmas, *args, **kwargs):
        at = sigmas[:1]
        start = prompt.rectify(x, correction, prompt.input_scale(at, space), torch.ones_like(at))
        return function(model, start, sigmas, *args, **kwargs)

    method = prompt.AntiBiasPrompt(prompt.PromptModel(correction, "phi", space), calls=(0,))
    own.sampler_function = state_module.rectify_states(function, method, run)
    corrected = sample(model, own)
    own.sampler_function = functools.wraps(function)(from_there)
    expected = sample(model, own)
    recomputed = sampler in ("dpm_fast", "dpm_adaptive")
    assert distance(corrected, expected) < 1e-4 if recomputed else torch.equal(corrected, expected)
    own.sampler_function = function
    assert not torch.allclose(corrected, sample(model, own), rtol=1e-3, atol=1e-3)


def test_the_table_in_the_docs_says_how_often_it_is_applied(sampler, models, patched, sample, bump, caplog):
    found = []
    for calls in ("every", "step starts"):
        if sampler in REFUSED:
            found.append("refused")
            continue
        try:
            with caplog.at_level("INFO", "steadydiff"):
                sample(patched(models["epsilon"], bump, calls=calls), sampler, steps=4)
            found.append(re.search(r"before (\d+ of \d+) model calls", caplog.messages[-1])[1])
        except ValueError as error:
            assert "choose one that does" in str(error)
            found.append("refused")
    assert f"| {sampler} | {' | '.join(found)} |" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("sampler_name", ["euler", "heun", "dpmpp_2m"])
def test_masks_keep_what_they_keep_and_batches_are_as_single_samples(
    sampler_name, model, patched, sample, bump, distance
):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    latent = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(2))
    plain, corrected = (
        sample(m, sampler_name, latent=latent, mask=mask) for m in (model, patched(model, bump))
    )
    assert torch.allclose(corrected[..., :4], plain[..., :4], atol=1e-4)
    assert distance(corrected[..., 4:], plain[..., 4:]) > 1e-3
    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    both = sample(patched(model, bump), sampler_name, noise=noise)
    alone = torch.cat([sample(patched(model, bump), sampler_name, noise=one[None]) for one in noise])
    assert distance(both, alone) < 1e-4


STEPS = 8


@pytest.fixture
def corrections(host, patched, sample):
    """Sample while a node tells the model another level; returns what was added at each call, in units of
    what the network is shown, with a network that answers 1 everywhere."""

    def corrections(model, name, sigmas, lie, **widgets):
        own, added = host.samplers.sampler_object(name), []

        def lying(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
            def told(x, sigma, **more):
                before = x.clone()
                prediction = model(x, sigma * lie(sigma[0].item()), **more)
                added.append(x.mean().item() - before.mean().item())
                return prediction

            added.clear()  # of the run that finds which calls start a step
            told.inner_model = model.inner_model
            return own.sampler_function(told, x, sigmas, extra_args, callback, disable, **options)

        sample(
            patched(model, Network(torch.ones_like), target="residual", **widgets),
            host.samplers.KSAMPLER(lying),
            sigmas=sigmas,
        )
        return added

    return corrections


def wanted(model, host, sigmas):
    """The step's fraction at each level but the last, from its formula, times the scale of the state."""
    flow = isinstance(model.get_model_object("model_sampling"), host.sampling.CONST)
    pairs = list(zip(sigmas.tolist(), sigmas.tolist()[1:], strict=False))[:-1]
    scales = [1.0 if flow else (after**2 + 1) ** 0.5 for _, after in pairs]
    fractions = [max(1 - after / before, -1) for before, after in pairs]
    return [0.0, *(fraction * scale for fraction, scale in zip(fractions, scales, strict=True))]


LIES = {
    "none": lambda sigma: 1.0,
    "lower": lambda sigma: 0.8,
    "a little lower": lambda sigma: 0.97,
    "higher": lambda sigma: 1.1,
    "in the middle": lambda sigma: 0.9 if 0.4 < sigma < 4 else 1.0,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("calls", ["every", "step starts"])
def test_the_steps_are_the_samplers_whatever_level_a_node_tells_the_model(
    lie, calls, model, host, corrections, sigmas_of
):
    """As Detail Daemon and Lying Sigma do."""
    sigmas = sigmas_of(model, STEPS)
    for name in ("euler", "dpmpp_2m"):
        found = corrections(model, name, sigmas, LIES[lie], calls=calls)
        assert found == pytest.approx(wanted(model, host, sigmas), abs=1e-4)
    found = corrections(model, "heun", sigmas, LIES[lie])
    assert found[0::2] == pytest.approx(wanted(model, host, sigmas), abs=1e-4)
    assert found[1::2] == pytest.approx(wanted(model, host, sigmas)[1:], abs=1e-4)


@pytest.mark.parametrize("lie", ["none", "lower"])
def test_the_steps_of_an_inverted_run_are_its_own(lie, model, host, corrections, sigmas_of):
    """Core's FlipSigmas, as for unsampling: a state came from the level below, and the step's sign turns."""
    [sigmas] = host.custom_sampler.FlipSigmas.execute(sigmas_of(model, STEPS)).args
    found = corrections(model, "euler", sigmas, LIES[lie])
    assert found == pytest.approx(wanted(model, host, sigmas), abs=1e-4)


def test_models_it_was_not_trained_for_are_refused(models, patched, bump):
    for card, sentence in (
        ({"latent_format": "Flux"}, "latents of the format Flux, and this model has SD15"),
        ({"family": "SDXL"}, "models of the family SDXL, and this model has BASE"),
        ({"sigma_data": 0.5}, "sigma_data 0.5, and this model has 1.0"),
    ):
        with pytest.raises(Exception, match=sentence):
            patched(models["epsilon"], bump, card=card)


def test_two_on_one_model_are_refused(models, patched, bump):
    with pytest.raises(Exception, match="Anti-Bias Prompt is on this model already"):
        patched(patched(models["epsilon"], bump), bump)


def test_memory_that_runs_out_in_our_network_leaves_no_trace(model, host, patched, sample):
    """A batch then goes sample by sample; where not one fits, the host's own error says so and it goes on."""
    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    room = 2

    def narrow(x):
        if len(x) > room:
            raise host.management.OOM_EXCEPTION("full")
        return 0.4 * torch.tanh(3 * x)

    ours = patched(model, Network(narrow))
    plain, expected = sample(model, noise=noise), sample(ours, noise=noise)
    room = 1
    assert torch.equal(sample(ours, noise=noise), expected)
    room = 0
    with pytest.raises(host.management.OOM_EXCEPTION, match="not enough memory for the anti-bias model"):
        sample(ours, noise=noise)
    room = 2
    assert torch.equal(sample(model, noise=noise), plain)
    assert torch.equal(sample(ours, noise=noise), expected)


def test_measure_drift_names_it(pack, models, patched, bump, conds, sigmas_of, host):
    model = models["epsilon"]
    measured = pack["SteadyDiffMeasure"].execute(
        model=patched(model, bump, strength=0.5),
        positive=conds["positive"],
        negative=conds["negative"],
        sampler=host.samplers.sampler_object("euler"),
        sigmas=sigmas_of(model, 3),
        latent_image={"samples": torch.zeros(1, 4, 8, 8)},
        **{"cfg": 2.0, "seed": 5, "count": 2, "batch_size": 2, "refine": 1},
    )
    label = json.loads(measured.args[2])["label"]
    assert label == "Anti-Bias Prompt made for this test, strength 0.5, 0 to 100 % of the run"
