"""The adapter for state methods without ComfyUI: what it refuses, writes and leaves alone."""

from types import SimpleNamespace

import pytest
import torch

from steadydiff.errors import HostError, SettingsError
from steadydiff.files.antibias import AntiBiasCard
from steadydiff.hosts.comfy.antibias import LoadedPrompt, attach_prompt
from steadydiff.hosts.comfy.attach import attach, patches_of, without_ours
from steadydiff.hosts.comfy.host import KEY, ComfyHost
from steadydiff.hosts.patch import Patch, window_sigmas
from steadydiff.samplers import gaussian_denoiser

SIGMAS = torch.tensor([10.0, 4.0, 1.0, 0.0])


class VE:
    def percent_to_sigma(self, percent):
        return 10.0 * (1 - percent)

    def calculate_input(self, sigma, x):
        return x / (sigma**2 + 1) ** 0.5

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return latent + sigma * noise


class SD15:
    latent_channels = 4


training = SimpleNamespace(now=False)
HOST = ComfyHost("outer", "predict", in_training=lambda: training.now, sampler_sample="sampler")


class Patcher:
    """What the adapter uses of a ModelPatcher."""

    def __init__(self, model=None):
        self.model = model or SimpleNamespace(model_config=SD15())
        self.wrappers, self.additional = {}, {}

    def get_model_object(self, name):
        return {"model_sampling": VE(), "latent_format": SD15()}[name]

    def get_additional_models_with_key(self, key):
        return self.additional.get(key, [])

    def set_additional_models(self, key, models):
        self.additional[key] = models

    def add_wrapper_with_key(self, level, key, wrapper):
        assert key == KEY
        self.wrappers[level] = wrapper

    def get_wrappers(self, level, key):
        return [self.wrappers[level]] if level in self.wrappers else []

    def remove_wrappers_with_key(self, level, key):
        self.wrappers.pop(level, None)

    def remove_additional_models(self, key):
        del self.additional[key]

    def clone(self):
        twin = Patcher(self.model)
        twin.wrappers, twin.additional = dict(self.wrappers), dict(self.additional)
        return twin


class Sampler:
    """What the adapter uses of a KSAMPLER."""

    def __init__(self, function):
        self.sampler_function = function

    def sample(self, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None):
        shown = callback and (lambda step: callback(step["i"], step["denoised"], step["x"], len(sigmas) - 1))
        return self.sampler_function(guider, noise, sigmas, extra_args, shown)


class Executor:
    def __init__(self, sampler):
        self.original, self.class_obj = sampler.sample, sampler

    def __call__(self, *args):
        return self.original(*args)


class Guider:
    """Around an exact denoiser; notes the states it is asked with."""

    def __init__(self, patcher):
        self.model_patcher, self.called, self.model_options = patcher, [], {}

    def __call__(self, x, sigma, seed=None):
        assert seed == 5
        self.called.append(x.clone())
        return gaussian_denoiser()(x, sigma)


def sample_euler(model, x, sigmas, extra_args, callback=None, disable=None):
    """As hosts write it: the state that is asked with is the one gone on with."""
    for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        denoised = model(x, sigma.expand(len(x)), **extra_args)
        if callback:
            callback({"x": x, "i": i, "denoised": denoised})
        x = x + (x - denoised) / sigma * (sigma_next - sigma)
    return x


def sample_temporary(model, x, sigmas, extra_args, callback=None, disable=None):
    def call(x, sigma, **more):
        return model(x * 1.0, sigma, **more)

    return sample_euler(call, x, sigmas, extra_args, callback)


def prompt(function=torch.ones_like, **card):
    network = lambda x: function(x)  # noqa: E731  # a function object that can carry a config
    network.config = SimpleNamespace(latent_channels=card.pop("channels", 4))
    card = {"target": "phi", "space": "ve", **card}
    return LoadedPrompt(SimpleNamespace(model=network), AntiBiasCard(**card), name="net.safetensors")


def attached(loaded=None, **settings):
    return attach_prompt(Patcher(), loaded or prompt(), HOST, **settings)


def sampled(model, function=sample_euler, noise=None):
    guider, start = Guider(model), torch.ones(2, 4, 3, 3) if noise is None else noise
    executor = Executor(Sampler(function))
    arguments = (guider, SIGMAS, {"seed": 5}, lambda *shown: None, start)
    return model.wrappers["sampler"](executor, *arguments), guider.called


def test_every_state_but_the_first_is_corrected_and_the_users_noise_is_not_touched():
    noise = torch.ones(2, 4, 3, 3)
    _, called = sampled(attached(strength=0.5), noise=noise)
    plain = sampled(attached(strength=0.0))[1]
    assert torch.equal(called[0], plain[0]) and torch.equal(noise, torch.ones_like(noise))
    torch.testing.assert_close(called[1], plain[1] + 0.5 * 17**0.5)


def test_step_starts_are_the_same_calls_for_a_sampler_that_asks_once_a_step():
    every, starts = (sampled(attached(calls=calls))[0] for calls in ("every", "step starts"))
    assert torch.equal(every, starts)


def test_the_model_is_left_alone_and_the_network_is_the_clones():
    model, loaded = Patcher(), prompt()
    clone = attach_prompt(model, loaded, HOST)
    assert not model.wrappers and not model.additional
    clone.additional[KEY] = [prompt(torch.zeros_like).patcher]  # as hosts clone it
    assert torch.equal(sampled(clone)[0], sampled(attached(strength=0.0))[0])


def test_training_samples_plainly(monkeypatch):
    monkeypatch.setattr(training, "now", True)
    assert torch.equal(sampled(attached())[0], sampled(attached(strength=0.0))[0])


def test_a_sampler_that_asks_with_a_temporary_is_refused():
    with pytest.raises(HostError, match="sampler temporary does not ask .* choose euler, heun"):
        sampled(attached(), sample_temporary)


def test_packed_latents_are_refused():
    with pytest.raises(HostError, match="takes latents of 4 channels and this run's have 1"):
        sampled(attached(), noise=torch.ones(2, 1, 30))


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        ({"space": "flow"}, "trained for states of the kind flow, and this model has ve"),
        ({"latent_format": "Flux"}, "latents of the format Flux, and this model has SD15"),
        ({"channels": 16}, "latent channels: 16, and this model has 4"),
        ({"family": "SDXL"}, "models of the family SDXL, and this model has SD15"),
        ({"sigma_data": 0.5}, "sigma_data 0.5, and this model has 1.0"),
    ],
)
def test_networks_for_other_models_are_refused_when_attached(card, sentence):
    with pytest.raises(HostError, match=sentence):
        attached(prompt(**card))


def test_settings_without_sense_are_refused_when_attached():
    with pytest.raises(SettingsError, match="two would correct twice"):
        attach_prompt(attached(), prompt(), HOST)
    with pytest.raises(SettingsError, match="calls is one of every, step starts; got 'never'"):
        attached(calls="never")
    with pytest.raises(SettingsError, match="not above end_percent.* got 0.8 and 0.2"):
        attached(window=(0.8, 0.2))


def test_the_window_is_in_the_hosts_units():
    assert window_sigmas(VE(), 0.25, 0.75) == (7.5, 2.5)
    assert window_sigmas(VE(), 0.0, 1.0) == (float("inf"), 0.0)
    assert window_sigmas(VE(), 0.4, 0.4) == (0.0, 0.0)


def test_what_is_attached_is_seen_told_and_taken_off_again():
    model = attached(strength=0.5)
    assert [str(patch) for patch in patches_of(model, HOST)] == [
        "Anti-Bias Prompt net.safetensors, strength 0.5, 0 to 100 % of the run"
    ]
    bare = without_ours(model, HOST)
    assert bare.wrappers == {} and bare.additional == {} and len(model.additional[KEY]) == 1


def test_a_method_nobody_has_heard_of_corrects_states_is_told_and_switched_off(seventh, caplog):
    caplog.set_level("INFO", "steadydiff")
    found, _ = sampled(attach(Patcher(), Patch(seventh(0.2)), HOST))
    nudged = seventh(0.2).wrap(gaussian_denoiser(), None)
    by_hand = sample_euler(lambda x, sigma: nudged(x, sigma), torch.ones(2, 4, 3, 3), SIGMAS, {})
    torch.testing.assert_close(found, by_hand)
    assert "Nudged attached" in caplog.text and "nudged 3 states" in caplog.text
    plain, _ = sampled(attached(strength=0.0))
    for off in (Patch(seventh(0.0)), Patch(seventh(0.2), 0.4, 0.4)):
        assert torch.equal(sampled(attach(Patcher(), off, HOST))[0], plain)
    part, _ = sampled(attach(Patcher(), Patch(seventh(0.2), 0.0, 0.5), HOST))  # down to sigma 5
    assert not torch.allclose(part, found) and not torch.allclose(part, plain)
