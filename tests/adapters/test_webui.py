"""The WebUI adapter without a WebUI: two hosts of stand-ins around an exact denoiser, and the core's runs.

Over 400 lines, half of them the stand-ins, which nothing else uses.
"""

import copy
import functools
import inspect
import math
from types import SimpleNamespace

import pytest
import torch

from steadydiff.denoiser import Guided, Run
from steadydiff.errors import HostError, SettingsError
from steadydiff.files.mdss import Head
from steadydiff.hosts.patch import POST_CFG, Patch, nest, states_of
from steadydiff.hosts.webui.attach import WebuiHost, attach, detach
from steadydiff.hosts.webui.run import UnitConversion, run_sigmas, sigma_timestep, timestep_sigma
from steadydiff.methods.antibias_prompt import AntiBiasPrompt, PromptModel
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.methods.mdss import MDSS, XiModel
from steadydiff.methods.time_shift import TimeShift
from steadydiff.samplers import gaussian_denoiser, sample_euler

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ABAR = torch.cumprod(1 - BETAS, 0)
TIMESTEPS = torch.tensor([1, 201, 401, 601, 801])
SIGMAS = timestep_sigma(TIMESTEPS.flip(0), ABAR).double()
MEANS = {"cond": 1.5, "uncond": -0.5}
CFG = 3.0


class Network(torch.nn.Module):
    """Its last layer reads the conditioning, so that a head's output is known: `cond` and `uncond` differ."""

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity(), torch.nn.Conv2d(1, 2, 1))

    def forward(self, x, sigma, mean, transformer_options=None):
        self.out(mean.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:]).float())
        shifted = gaussian_denoiser(0.0, 0.7)(x - mean.view(-1, 1, 1, 1), sigma)
        return shifted + mean.view(-1, 1, 1, 1)


class InnerModel(torch.nn.Module):
    """A1111's k-diffusion or timestep wrapper of a model."""

    def __init__(self, sd_model, vp):
        super().__init__()
        self.inner_model, self._vp = sd_model, vp

    def forward(self, x, level, cond):
        network = self.inner_model.model.diffusion_model
        if not self._vp:
            return network(x, level, cond)
        sigma = timestep_sigma(level, ABAR).to(x)
        ve = x * (sigma**2 + 1).sqrt().view(-1, 1, 1, 1)
        return (ve - network(ve, sigma, cond)) / sigma.view(-1, 1, 1, 1)


class A1111(torch.nn.Module):
    """CFGDenoiser's order of events: positive rows, negative rows, guidance, mask."""

    def __init__(self, vp=False, conds=((0, 1.0),), skip=False):
        super().__init__()
        diffusion = SimpleNamespace(diffusion_model=Network())
        sd_model = SimpleNamespace(model=diffusion, alphas_cumprod=ABAR, is_sd1=True)
        self.__dict__["inner_model"] = InnerModel(sd_model, vp)
        self.mask, self.nmask, self.init_latent, self.steps, self.step = None, None, None, 4, 0
        self.conds, self.skip, self.p = conds, skip, None
        self.need_last_noise_uncond = False

    @property
    def network(self):
        return self.inner_model.inner_model.model.diffusion_model

    def update_inner_model(self):
        pass

    def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
        negative = x_out[-len(conds_list) :]
        denoised = negative.clone()
        for i, conds in enumerate(conds_list):
            for row, weight in conds:
                denoised[i] += (x_out[row] - negative[i]) * (weight * cond_scale)
        return denoised

    def combine_denoised_for_edit_model(self, x_out, cond_scale):
        raise NotImplementedError

    def forward(self, x, sigma, cond_scale):
        many, batch = len(self.conds), len(x)
        x_in, sigma_in = torch.cat([x.repeat_interleave(many, 0), x]), sigma.repeat(many + 1)
        means = torch.tensor([MEANS["cond"]] * many * batch + [MEANS["uncond"]] * batch).to(x)
        for row in range(many * batch):
            means[row] += row % many
        conds_list = [[(i * many + row, weight) for row, weight in self.conds] for i in range(batch)]
        called = many * batch if self.skip else len(x_in)
        parts = [slice(at, min(at + 2, called)) for at in range(0, called, 2)]  # as with little memory
        x_out = torch.cat([self.inner_model(x_in[part], sigma_in[part], cond=means[part]) for part in parts])
        self.last_noise_uncond = x_out[-batch:].clone()
        if self.skip:
            x_out = torch.cat([x_out, x_out[[conds[0][0] for conds in conds_list]]])
        denoised = self.combine_denoised(x_out, conds_list, means[-batch:], 1.0 if self.skip else cond_scale)
        if self.mask is not None:
            denoised = denoised * self.nmask + self.init_latent * self.mask
        self.step += 1
        return denoised


class Predictor:
    sigma_data = 1.0

    def calculate_input(self, sigma, x):
        return x / (sigma**2 + 1) ** 0.5

    def percent_to_sigma(self, percent):
        return float(timestep_sigma(torch.tensor([(1 - percent) * 999]), ABAR))


class Patcher:
    """A UnetPatcher whose clones copy their options deeply, as Forge's do."""

    def __init__(self, model):
        self.model, self.model_options = model, {}

    def clone(self):
        clone = Patcher(self.model)
        clone.model_options = copy.deepcopy(self.model_options)
        return clone

    def set_model_sampler_post_cfg_function(self, function):
        self.model_options[POST_CFG] = [*self.model_options.get(POST_CFG, ()), function]

    def set_model_unet_function_wrapper(self, function):
        self.model_options["model_function_wrapper"] = function

    def add_conditioning_modifier(self, function):
        self.model_options["conditioning_modifiers"] = [function]


def sampling_function(model, x, timestep, uncond, cond, cond_scale, model_options, seed=None):
    """Forge's: prompts in one pass, the last first, then guidance and the post-CFG functions."""
    kinds = [1, 0] if cond_scale != 1 else [0]
    means = torch.tensor([MEANS["uncond"], MEANS["cond"]][-len(kinds) :]).to(x).repeat_interleave(len(x))
    c = {"mean": means, "transformer_options": {"cond_or_uncond": kinds}}
    called = {"input": x.repeat(len(kinds), 1, 1, 1), "timestep": timestep.repeat(len(kinds)), "c": c}
    around = model_options.get("model_function_wrapper", plainly)
    out = around(model.diffusion_model, called).chunk(len(kinds))
    negative = out[0] if len(kinds) == 2 else torch.zeros_like(x)
    denoised = negative + (out[-1] - negative) * cond_scale
    for function in model_options.get(POST_CFG, ()):
        args = {
            "denoised": denoised,
            "cond": cond,
            "uncond": uncond,
            "model": model,
            "sigma": timestep,
            "uncond_denoised": negative,
            "cond_denoised": out[-1],
            "input": x,
            "model_options": model_options,
        }
        denoised = function(args)
    return denoised


def plainly(apply_model, called):
    return apply_model(called["input"], called["timestep"], **called["c"])


class Forge(torch.nn.Module):
    """Forge's CFGDenoiser."""

    def __init__(self, vp=False):
        super().__init__()
        model = SimpleNamespace(diffusion_model=Network(), predictor=Predictor())
        objects = SimpleNamespace(unet=Patcher(model))
        sd_model = SimpleNamespace(forge_objects=objects, alphas_cumprod=ABAR)
        self.inner_model, self.vp = SimpleNamespace(inner_model=sd_model), vp
        self.mask, self.steps, self.step, self.p = None, 4, 0, None
        self.need_last_noise_uncond, self.joins = False, True

    @property
    def network(self):
        return self.inner_model.inner_model.forge_objects.unet.model.diffusion_model

    def update_inner_model(self):
        pass

    def forward(self, x, sigma, cond_scale, model_options=None):
        if self.vp:
            sigma = timestep_sigma(sigma, ABAR).to(x)
            x = x * (sigma**2 + 1).sqrt().view(-1, 1, 1, 1)
        unet = self.inner_model.inner_model.forge_objects.unet
        conds = [{"model_conds": {"c_crossattn": SimpleNamespace(cond=torch.zeros(1, 77, 1))}}]
        options = {**unet.model_options, **(model_options or {})}  # reForge's way
        if model_options and self.joins:  # Neo's
            options[POST_CFG] = [*unet.model_options.get(POST_CFG, ()), *model_options[POST_CFG]]
        called = unet.model, x, sigma, conds, conds, cond_scale, options, 0
        for modifier in unet.model_options.get("conditioning_modifiers", ()):
            called = modifier(*called)
        denoised = sampling_function(*called)
        negative = gaussian_denoiser(MEANS["uncond"], 0.7)(x, sigma)
        self.last_noise_uncond = (x - negative) / sigma.view(-1, 1, 1, 1)
        return (x - denoised) / sigma.view(-1, 1, 1, 1) if self.vp else denoised


def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """k-diffusion's, which asks with its own state and goes on with that."""
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
        x = x + (x - denoised) / sigma * (following - sigma)
    return x


def ddim(model, x, timesteps, extra_args=None, callback=None, disable=None):
    """The hosts' own, on VP states."""
    for at in range(len(timesteps) - 1, 0, -1):
        a, following = ABAR[timesteps[at]], ABAR[timesteps[at - 1]]
        eps = model(x, float(timesteps[at]) * x.new_ones(len(x)), **extra_args)
        clean = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = following.sqrt() * clean + (1 - following).sqrt() * eps
    return x


class Report:
    def __init__(self):
        self.summary, self.errors, self.warnings = None, [], []

    def done(self, summary):
        self.summary = summary

    def failed(self, message):
        self.errors.append(message)

    def warned(self, message):
        self.warnings.append(message)


HOST = WebuiHost(sampling_function)
HEAD = Head(torch.tensor([[[[0.1]]], [[[-0.2]]]]), torch.zeros(2))
X = torch.randn((2, 2, 3, 5), generator=torch.Generator().manual_seed(1), dtype=torch.float64) * SIGMAS[0]


def network(seen):
    """An anti-bias network."""
    return 0.05 * seen.tanh()


def antibias(start=None):
    return Patch(AntiBiasPrompt(PromptModel(network, "phi", "ve")))


def mdss(start, branches="positive"):
    return Patch(MDSS(XiModel(start.route.second_output("a head", HEAD, branches), "ve"), 0.5))


PLANS = {
    "epsilon scaling": lambda start: Patch(EpsilonScaling(1.02, slope=0.001)),
    "diffier": lambda start: Patch(DiffIER(), 0.0, 1.0),
    "diffier norm": lambda start: Patch(DiffIER("norm"), 0.0, 1.0),
    "antibias": antibias,
    "mdss": mdss,
    "time shift": lambda start: Patch(TimeShift(0.9)),
    "guided mdss": functools.partial(mdss, branches="guided"),
}
HOSTS = {"a1111": A1111, "forge": Forge}


def sample(model, plans, function=euler, x=X, cfg=CFG):
    """One run as a host makes it; return its result and report."""
    sampler, report = SimpleNamespace(func=function), Report()
    if plans is not None:
        attach(sampler, plans, HOST, report)
        attach(sampler, plans, HOST, report)  # Forge calls twice; it must count once
        assert inspect.signature(sampler.func) == inspect.signature(function)
    levels = {"timesteps": TIMESTEPS} if function is ddim else {"sigmas": SIGMAS}
    result = sampler.func(model, x, extra_args={"cond_scale": cfg}, disable=False, callback=None, **levels)
    assert sampler.func is function and "forward" not in vars(model)
    return result, report


def by_the_core(name, cfg=CFG):
    """The same run by the core's own sampler, states corrected in place as its contract says."""
    run = Run("ve", tuple(SIGMAS.tolist()))
    guided = Guided(*(gaussian_denoiser(mean, 0.7) for mean in MEANS.values()), cfg)
    cond, uncond = MEANS.values()
    mean = cond if name == "mdss" else uncond + cfg * (cond - uncond)
    xi = mean * torch.tensor([0.1, -0.2], dtype=torch.float64).view(1, 2, 1, 1)
    settings = {
        "epsilon scaling": EpsilonScaling(1.02, slope=0.001),
        "diffier": DiffIER(sigma_high=float("inf")),
        "diffier norm": DiffIER("norm", sigma_high=float("inf")),
        "antibias": antibias().settings,
        "time shift": TimeShift(0.9),
    }.get(name) or MDSS(XiModel(lambda x, sigma: xi.expand_as(x), "ve"), 0.5)
    return sample_euler(settings.wrap(guided, run), X.clone(), run.sigmas)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("host", HOSTS)
def test_a_run_is_the_cores(host, name):
    result, report = sample(HOSTS[host](), [PLANS[name]])
    assert report.errors == [] and "4 model calls" in report.summary or name == "diffier"
    torch.testing.assert_close(result, by_the_core(name), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(result, sample(HOSTS[host](), None)[0], atol=1e-3), "it must act"


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("host", HOSTS)
def test_ddim_is_euler_in_other_units(host, name):
    spread = (SIGMAS**2 + 1).sqrt()
    result, _ = sample(HOSTS[host](vp=True), [PLANS[name]], ddim, X / spread[0])
    torch.testing.assert_close(result * spread[-1], by_the_core(name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", (euler, ddim))
@pytest.mark.parametrize("host", HOSTS)
def test_neutral_settings_and_failures_change_no_bit(host, function):
    neutral = [
        lambda start: Patch(EpsilonScaling(1.0)),
        lambda start: Patch(DiffIER(strength=0)),
        lambda start: Patch(AntiBiasPrompt(PromptModel(network, "phi", "ve"), 0.0)),
        lambda start: Patch(TimeShift(1.0)),
        lambda start: Patch(TimeShift(0.9), 0.5, 0.5),
        lambda start: Patch(EpsilonScaling(space="velocity")),
        lambda start: Patch(AntiBiasPrompt(PromptModel(network, "phi", "flow"))),
    ]
    vp = function is ddim
    result, report = sample(HOSTS[host](vp), neutral, function)
    torch.testing.assert_close(result, sample(HOSTS[host](vp), None, function)[0], rtol=0, atol=0)
    assert len(report.errors) == 2 and "velocity" in report.errors[0] and "flow" in report.errors[1]


def test_prompts_joined_by_and_are_asked_again_as_one():
    """DiffIER asks all prompts again, however the host has divided them into passes."""
    model = A1111(conds=((0, 1.0), (1, 0.5)))
    result, report = sample(model, [PLANS["diffier"]])
    first, second = (gaussian_denoiser(MEANS["cond"] + more, 0.7) for more in (0, 1))
    negative = gaussian_denoiser(MEANS["uncond"], 0.7)

    class Joined:
        cfg = CFG

        def __call__(self, x, sigma):
            u = negative(x, sigma)
            return u + CFG * (first(x, sigma) - u) + CFG * 0.5 * (second(x, sigma) - u)

    run = Run("ve", tuple(SIGMAS.tolist()))
    expected = sample_euler(DiffIER(sigma_high=float("inf")).wrap(Joined(), run), X.clone(), run.sigmas)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
    assert report.summary.endswith("8 model calls, 4 of them extra")


def test_a_skipped_negative_prompt_is_not_asked_again():
    result, _ = sample(A1111(skip=True), [PLANS["diffier"]])
    alone = Guided(gaussian_denoiser(MEANS["cond"], 0.7), gaussian_denoiser(MEANS["cond"], 0.7), 1.0)
    run = Run("ve", tuple(SIGMAS.tolist()))
    expected = sample_euler(DiffIER(sigma_high=float("inf")).wrap(alone, run), X.clone(), run.sigmas)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ("antibias", "mdss"))
def test_a_masked_state_is_corrected_where_it_is_free(name):
    model, called = A1111(), []
    model.init_latent, model.mask = torch.zeros_like(X), torch.zeros_like(X[0])
    model.mask[..., :2] = 1
    model.nmask = 1 - model.mask

    def watched(model, x, sigmas, extra_args=None, callback=None, disable=None):
        before = x.clone()
        model(x, sigmas[0] * x.new_ones(2), **extra_args)
        model(x, sigmas[1] * x.new_ones(2), **extra_args)
        called.append(x - before)
        return x

    first = X.clone()
    sample(model, [PLANS[name]], watched, first)
    assert torch.equal(first, X), "the user's own latent stays"
    assert not called[0][..., :2].any() and called[0][..., 2:].all()


def test_after_a_refiner_states_are_left_alone_and_guidance_is_still_corrected():
    model = Forge()
    first = model.inner_model.inner_model

    def swapping(model, x, sigmas, extra_args=None, callback=None, disable=None):
        model(x, sigmas[0] * x.new_ones(2), **extra_args)
        model.inner_model = Forge().inner_model
        model.update_inner_model()
        before = x.clone()
        scaled = model(x, sigmas[1] * x.new_ones(2), **extra_args)
        assert torch.equal(x, before)
        return scaled

    result, _ = sample(model, [PLANS["epsilon scaling"], antibias, mdss], swapping)
    plain, _ = sample(Forge(), None, swapping)
    assert not torch.allclose(result, plain)
    for sd_model in (first, model.inner_model.inner_model):
        assert sd_model.forge_objects.unet.model_options == {}


@pytest.mark.parametrize("host", HOSTS)
def test_the_call_in_which_a_refiner_comes_leaves_the_state_alone(host):
    """Hosts change the model inside a call, when MDSS is at work already."""
    moved = []

    class Swapping(HOSTS[host]):
        def forward(self, x, sigma, cond_scale):
            if self.step == 1:
                self.__dict__["inner_model"] = HOSTS[host]().inner_model
                self.update_inner_model()
            return super().forward(x, sigma, cond_scale)

    def watched(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for model.step, sigma in enumerate(sigmas[:3]):
            before = x.clone()
            model(x, sigma * x.new_ones(2), **extra_args)
            moved.append(not torch.equal(x, before))
        return x

    _, report = sample(Swapping(), [mdss], watched)
    assert moved == [True, False, False] and report.errors == []
    assert report.summary == "MDSS cleaned the state after 1 of 1 model calls; 3 model calls"


@pytest.mark.parametrize("host", HOSTS)
def test_an_interrupted_run_leaves_nothing_behind(host):
    class Interrupted(Exception):  # noqa: N818  # as the host calls it
        pass

    def cut(model, x, sigmas, extra_args=None, callback=None, disable=None):
        model(x, sigmas[0] * x.new_ones(2), **extra_args)
        raise Interrupted

    model, sampler = HOSTS[host](), SimpleNamespace(func=cut)
    attach(sampler, [*PLANS.values()][:1] + [antibias, mdss], HOST, Report())
    with pytest.raises(Interrupted):
        sampler.func(model, X, sigmas=SIGMAS, extra_args={"cond_scale": CFG})
    assert sampler.func is cut and "forward" not in vars(model) and "combine_denoised" not in vars(model)
    assert not model.network.out[2]._forward_pre_hooks
    if host == "forge":
        assert model.inner_model.inner_model.forge_objects.unet.model_options == {}


@pytest.mark.parametrize("name", ["epsilon scaling", "diffier", "mdss"])
@pytest.mark.parametrize("host", HOSTS)
def test_hooks_of_a_run_that_is_over_are_transparent(host, name):
    """Another extension puts its own over ours meanwhile, and afterwards puts back what was there: ours."""
    model, fresh, kept = HOSTS[host](), HOSTS[host](), {}
    hooked = ["forward", "update_inner_model", *(["combine_denoised"] if host == "a1111" else [])]
    objects = getattr(model.inner_model.inner_model, "forge_objects", SimpleNamespace(unet=None))

    def meanwhile(model, x, sigmas, extra_args=None, callback=None, disable=None):
        kept.update({name: getattr(model, name) for name in hooked}, unet=objects.unet)
        for one in hooked:
            setattr(model, one, functools.partial(lambda ours, *args, **more: ours(*args, **more), kept[one]))
        return euler(model, x, sigmas, extra_args)

    given = {"sigmas": SIGMAS, "extra_args": {"cond_scale": CFG}}
    sampler, plain = SimpleNamespace(func=meanwhile), euler(fresh, X, **given)
    for _ in range(3):
        attach(sampler, [PLANS[name]], HOST, Report())
        theirs = functools.partial(lambda ours, *args, **more: ours(*args, **more), sampler.func)
        sampler.func = theirs  # one more that stays
        torch.testing.assert_close(sampler.func(model, X, **given), by_the_core(name), rtol=1e-6, atol=1e-6)
        for one in hooked:
            setattr(model, one, kept[one])
        objects.unet = kept["unet"]
        torch.testing.assert_close(euler(model, X, **given), plain, rtol=0, atol=0)


def broken(*args):
    raise RuntimeError("a mistake of ours")


@pytest.mark.parametrize("host", HOSTS)
def test_a_method_that_cannot_be_added_leaves_the_others_at_work(host, monkeypatch):
    monkeypatch.setattr(DiffIER, "wrap", broken)
    result, report = sample(HOSTS[host](), [PLANS["epsilon scaling"], PLANS["diffier"]])
    torch.testing.assert_close(result, by_the_core("epsilon scaling"), rtol=1e-6, atol=1e-6)
    assert len(report.errors) == 1 and "Epsilon Scaling" in report.summary and "DiffIER" not in report.summary


FAILING = {
    "state": lambda start: Patch(AntiBiasPrompt(PromptModel(broken, "phi", "ve"))),
    "after": lambda start: Patch(MDSS(XiModel(broken, "ve"), 0.5)),
    "answer": PLANS["epsilon scaling"],
    "second output": mdss,
}


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.parametrize("function", (euler, ddim))
@pytest.mark.parametrize("host", HOSTS)
def test_what_fails_within_a_run_is_told_and_the_run_goes_on(host, function, name, monkeypatch):
    plan, vp = FAILING[name], function is ddim
    if name == "answer":
        monkeypatch.setattr(EpsilonScaling, "wrap", lambda self, denoise, run: broken)
    model = HOSTS[host](vp)
    if name == "second output":  # the layer is there and never asked
        model.network.forward = lambda x, sigma, mean, **more: Network.forward(
            SimpleNamespace(out=lambda seen: None), x, sigma, mean
        )
    result, report = sample(model, [plan], function)
    assert torch.equal(result, sample(HOSTS[host](vp), None, function)[0])
    first = 2 if name == "state" else 1  # the prompt's first call is as it was
    assert len(report.errors) == 1 and f"from model call {first} on" in report.errors[0]
    assert ("a mistake of ours" in report.errors[0]) is (name != "second output")


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_that_cannot_be_hooked_samples_without_us(host, monkeypatch):
    model = HOSTS[host]()
    monkeypatch.setattr(type(HOST.route(model)), "install", broken)
    result, report = sample(model, [*PLANS.values()][:1])
    assert torch.equal(result, sample(model, None)[0])
    assert len(report.errors) == 1 and report.summary is None


def test_an_error_of_the_hosts_own_model_stays_its_error():
    model = A1111()
    model.network.forward = broken
    with pytest.raises(RuntimeError, match="mistake"):
        sample(model, [antibias])


def test_detaching_gives_back_the_samplers_own_function():
    sampler = SimpleNamespace(func=euler)
    detach(sampler)
    assert sampler.func is euler
    attach(sampler, [antibias], HOST, Report())
    detach(sampler)
    assert sampler.func is euler


@pytest.mark.parametrize("name", ["sample_lcm", "sample_unipc", "unipc"])
@pytest.mark.parametrize("plan", [antibias, mdss])
def test_a_sampler_that_drops_its_state_is_reported(name, plan):
    def function(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return x

    function.__name__ = name
    _, report = sample(A1111(), [plan], function)
    said = f"{name.removeprefix('sample_')} does not go on with the state"
    assert report.summary is None and said in report.errors[0]


def test_step_starts_are_found_without_the_model_or_the_users_noise():
    class Rng:
        def next(self):
            raise AssertionError("the picture's noise is the user's")

    model, found = A1111(), []
    model.p = SimpleNamespace(rng=Rng())

    def plan(start):
        found.append(start.step_calls())
        return antibias()

    def heun(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            slope = (x - model(x, sigma * x.new_ones(len(x)), **extra_args)) / sigma
            there = x + slope * (following - sigma)
            again = (there - model(there, following * x.new_ones(len(x)), **extra_args)) / following
            x = x + (slope + again) / 2 * (following - sigma)
        return x

    sample(model, [plan], heun)
    assert found == [(0, 2, 4, 6)] and model.step == 8
    assert vars(model.p.rng) == {}


@pytest.mark.parametrize("host", HOSTS)
def test_ddim_cfg_pp_steps_along_scaled_noise(host):
    seen = []

    def ddim_cfgpp(model, x, timesteps, extra_args=None, callback=None, disable=None):
        model.need_last_noise_uncond = True
        model(x, float(timesteps[-1]) * x.new_ones(len(x)), **extra_args)
        seen.append(model.last_noise_uncond)
        return x

    for scale in (1.02, 1.0):
        plans = [lambda start, scale=scale: Patch(EpsilonScaling(scale))]
        sampler = SimpleNamespace(func=ddim_cfgpp)
        attach(sampler, plans, HOST, Report())
        sampler.func(HOSTS[host](vp=True), X / 5, timesteps=TIMESTEPS, extra_args={"cond_scale": CFG})
    torch.testing.assert_close(seen[0] * 1.02, seen[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("joins", (True, False), ids=("neo", "reforge"))
def test_samplers_that_bring_a_post_cfg_function_see_scaled_branches_once(joins):
    seen = []

    def euler_cfg_pp(model, x, sigmas, extra_args=None, callback=None, disable=None):
        def keep(args):
            seen.append(args["uncond_denoised"])
            return args["denoised"]

        options = {"model_options": {POST_CFG: [keep]}}
        return model(x, sigmas[0] * x.new_ones(len(x)), **extra_args, **options)

    model = Forge()
    model.joins = joins
    plain, _ = sample(model, None, euler_cfg_pp)
    scaled, report = sample(model, [lambda start: Patch(EpsilonScaling(1.02))], euler_cfg_pp)
    for before, after in ((plain, scaled), seen):
        torch.testing.assert_close(after, X - (X - before) / 1.02, rtol=1e-6, atol=1e-6)
    assert report.errors == []
    sample(model, [PLANS["diffier"]], euler_cfg_pp)
    assert len(seen) == 3, "the sampler is not shown what DiffIER asks"


def partner(model, by_hand):
    """Put beside us another extension that keeps a running average of its calls, as APG's momentum does; made
    `by_hand` it goes by the sampler's calls, and what is asked in between sees it as they found it."""
    average, before = 0.0, {}

    def guide(denoised):
        nonlocal average
        own = model.step not in before
        moved = denoised - 0.5 * (before.setdefault(model.step, average) if by_hand else average)
        average = moved if own or not by_hand else average
        return moved

    if isinstance(model, Forge):
        unet = model.inner_model.inner_model.forge_objects.unet
        unet.set_model_sampler_post_cfg_function(lambda args: guide(args["denoised"]))
    else:
        guidance = model.combine_denoised
        model.combine_denoised = lambda *called: guide(guidance(*called))
    return model


def counted(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Euler, by which the model can tell the sampler's calls."""
    for model.step, levels in enumerate(zip(sigmas, sigmas[1:], strict=False)):  # noqa: B020
        x = euler(model, x, levels, extra_args)
    return x


@pytest.mark.parametrize(
    "plan",
    [
        *PLANS.values(),
        lambda start: Patch(DiffIER("renoise", iterations=2), 0.0, 1.0),
        lambda start: Patch(MDSS(mdss(start).settings.model, 0.0)),
    ],
)
@pytest.mark.parametrize("host", HOSTS)
def test_what_others_keep_from_call_to_call_takes_in_the_samplers_calls_alone(host, plan):
    results = [sample(partner(HOSTS[host](), by_hand), [plan], counted)[0] for by_hand in (False, True)]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert not torch.allclose(results[0], sample(HOSTS[host](), [plan])[0], atol=0.1)


def test_units_there_and_back():
    units, level = UnitConversion(ABAR), torch.tensor([400.5, 3.0])
    state, sigma = units.state(X, level)
    torch.testing.assert_close(units.back(state, sigma), X, rtol=1e-6, atol=1e-6)
    clean = units.clean(state, X, sigma)
    torch.testing.assert_close(units.prediction(state, clean, sigma), X, rtol=1e-5, atol=1e-5)
    assert UnitConversion().state(X, level)[0] is X


def test_sigmas_of_every_kind_of_sampler():
    exact = ((1 - ABAR[[801, 1]]) / ABAR[[801, 1]]).sqrt().float()
    torch.testing.assert_close(timestep_sigma(torch.tensor([801, 1]), ABAR), exact, rtol=1e-5, atol=0)
    assert run_sigmas(euler, {"sigmas": SIGMAS}, 4, None) == tuple(SIGMAS.tolist())
    assert len(run_sigmas(ddim, {"timesteps": TIMESTEPS}, 4, ABAR)) == 5
    fast = run_sigmas(euler, {"sigma_max": 10.0, "sigma_min": 0.1, "n": 3}, 4, None)
    assert fast == pytest.approx((10, 1, 0.1, 0))
    with pytest.raises(HostError, match="noise levels"):
        run_sigmas(euler, {"eta": 1}, 4, None)


def test_spaces_are_found_by_trying():
    class Flow:
        def calculate_input(self, sigma, x):
            return x

        def noise_scaling(self, sigma, noise, latent, max_denoise=False):
            return sigma * noise + (1 - sigma) * latent

    class Odd(Flow):
        def noise_scaling(self, sigma, noise, latent, max_denoise=False):
            return noise * sigma + latent

    assert (states_of(Predictor()).space, states_of(Flow()).space) == ("ve", "flow")
    with pytest.raises(HostError, match="Odd"):
        states_of(Odd())


def test_a_schedule_for_other_settings_is_warned_of():
    from steadydiff.schedules import MadeFor, Schedule

    made = Schedule("table", (1.01,) * 4, MadeFor(sampler="heun", cfg=CFG))
    _, report = sample(A1111(), [lambda start: Patch(EpsilonScaling(schedule=made))])
    assert report.warnings == ["the schedule does not fit this run: sampler euler, made for heun"]


def test_a_schedule_for_other_levels_is_read_off_and_says_where_it_ends():
    from steadydiff.schedules import MadeFor, Schedule

    def scaled(values, sigmas):
        made = Schedule("table", values, MadeFor(sigmas=sigmas))
        return sample(A1111(), [lambda start: Patch(EpsilonScaling(schedule=made))])

    levels = SIGMAS.tolist()
    result, report = scaled((1.1, 1.0), (levels[0], levels[3], 0.0))
    logs = [math.log(sigma / levels[3]) / math.log(levels[0] / levels[3]) for sigma in levels[:4]]
    expected, quiet = scaled([1 + 0.1 * share for share in logs], levels)
    torch.testing.assert_close(result, expected)
    assert quiet.warnings == [] and "made for" in report.warnings[0] and "nearest" not in report.warnings[0]
    assert "below" in scaled((1.1, 1.0), (levels[0], levels[2], 0.0))[1].warnings[0]


def test_a_part_that_ends_before_it_begins_is_reported():
    _, report = sample(A1111(), [lambda start: Patch(EpsilonScaling(), 0.6, 0.4)])
    assert "start_percent" in report.errors[0] and report.summary is None
    assert issubclass(HostError, Exception) and issubclass(SettingsError, ValueError)


@pytest.mark.parametrize("host", HOSTS)
def test_a_method_nobody_has_heard_of_acts_is_told_and_switched_off(host, sixth):
    result, report = sample(HOSTS[host](), [lambda start: Patch(sixth(1.3))])
    guided = Guided(*(gaussian_denoiser(mean, 0.7) for mean in MEANS.values()), CFG)
    by_hand = sample_euler(lambda x, sigma: 1.3 * guided(x, sigma), X.clone(), SIGMAS.tolist())
    torch.testing.assert_close(result, by_hand, rtol=1e-6, atol=1e-6)
    assert report.summary == "Brightened times 1.3 at 4 of 4 steps; 4 model calls"
    assert report.warnings == ["made for nothing"]
    off, _ = sample(HOSTS[host](), [lambda start: Patch(sixth(1.3), 0.5, 0.5)])
    assert torch.equal(off, sample(HOSTS[host](), None)[0])


@pytest.mark.parametrize("host", HOSTS)
def test_a_method_nobody_has_heard_of_corrects_states_is_told_and_switched_off(host, seventh):
    result, report = sample(HOSTS[host](), [lambda start: Patch(seventh(0.2))])
    guided = Guided(*(gaussian_denoiser(mean, 0.7) for mean in MEANS.values()), CFG)
    by_hand = sample_euler(seventh(0.2).wrap(guided, None), X.clone(), SIGMAS.tolist())
    torch.testing.assert_close(result, by_hand, rtol=1e-6, atol=1e-6)
    assert report.summary == "Nudged nudged 4 states; 4 model calls"
    off, report = sample(HOSTS[host](), [lambda start: Patch(seventh(0.2), 0.5, 0.5)])
    assert torch.equal(off, sample(HOSTS[host](), None)[0])
    assert report.summary == "Nudged off; 4 model calls"


BOTH = pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
RUN = Run("ve", tuple(SIGMAS.tolist()))
SPREAD = (SIGMAS**2 + 1).sqrt()
SHIFT = TimeShift(0.9)


def shifted_by_the_core(*methods, start=X):
    guided = Guided(*(gaussian_denoiser(mean, 0.7) for mean in MEANS.values()), CFG)
    return sample_euler(nest(guided, methods, RUN), start.clone(), RUN.sigmas)


@BOTH
@pytest.mark.parametrize("sampler", [euler, ddim])
def test_it_stands_innermost_whatever_else_is_on(host, sampler):
    methods = SHIFT, DiffIER(strength=0.3, sigma_high=math.inf), EpsilonScaling(1.02)
    start = X if sampler is euler else X / SPREAD[0]
    plans = [lambda setup, one=one: Patch(one) for one in reversed(methods)]
    result, report = sample(host(vp=sampler is ddim), plans, sampler, start)
    assert report.errors == [] and "Time Shift noise level times 0.9 at 4 of 4 steps" in report.summary
    result = result if sampler is euler else result * SPREAD[-1]
    torch.testing.assert_close(result, shifted_by_the_core(*methods), rtol=1e-4, atol=1e-4)


@BOTH
def test_it_shifts_in_its_part_of_the_run_only(host):
    levels, model, within = [], host(), TimeShift(0.9, sigma_high=2.0, sigma_low=0.5)
    model.network.register_forward_pre_hook(lambda network, args: levels.append(args[1].tolist()))

    class Part(Patch):
        def resolve(self, levels):
            return within

    result, report = sample(model, [lambda setup: Part(within)])
    expected = [0.9 * sigma if 0.5 <= sigma <= 2.0 else sigma for sigma in RUN.sigmas[:-1]]
    assert sorted({sigma for one in levels for sigma in one}, reverse=True) == pytest.approx(expected)
    torch.testing.assert_close(result, shifted_by_the_core(within), rtol=1e-6, atol=1e-6)
    assert expected != [*RUN.sigmas[:-1]] and report.errors == []


@pytest.mark.parametrize("whole", [False, True])
def test_a_model_of_velocities_is_asked_at_whole_timesteps(whole):
    called, model = [], A1111(vp=True)
    inner = model.inner_model
    if whole:
        object.__setattr__(inner, "predict_eps_from_z_and_v", None)
    inner.inner_model.model.diffusion_model.register_forward_pre_hook(
        lambda network, args: called.append(sigma_timestep(args[1], ABAR)[0])
    )
    sample(model, [lambda setup: Patch(SHIFT)], ddim, X / SPREAD[0])
    assert len(called) > 4 and all((abs(one - one.round()) < 2e-3) == whole for one in called)


def test_timesteps_and_sigmas_are_the_same_levels():
    at = torch.tensor([0.0, 0.3, 1.0, 17.6, 500.0, 998.9, 999.0])
    torch.testing.assert_close(sigma_timestep(timestep_sigma(at, ABAR), ABAR), at, rtol=1e-4, atol=2e-3)
    assert sigma_timestep(torch.tensor([1e-6, 1e6]), ABAR).tolist() == [0.0, 999.0]


def test_another_extensions_wrapper_of_the_network_works_on():
    model, theirs = Forge(), []

    def wrapper(apply_model, args):
        theirs.append(float(args["timestep"][0]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    unet = model.inner_model.inner_model.forge_objects.unet
    unet.set_model_unet_function_wrapper(wrapper)
    result, _ = sample(model, [lambda setup: Patch(SHIFT)])
    torch.testing.assert_close(result, shifted_by_the_core(SHIFT), rtol=1e-6, atol=1e-6)
    assert theirs == pytest.approx([0.9 * sigma for sigma in RUN.sigmas[:-1]])
    assert model.inner_model.inner_model.forge_objects.unet is unet
    assert unet.model_options == {"model_function_wrapper": wrapper}


def test_a_network_that_is_called_past_us_is_told():
    model = Forge()

    @functools.wraps(euler)
    def past_us(own, *args, **kwargs):
        model.inner_model.inner_model.forge_objects.unet.model_options.clear()
        return euler(own, *args, **kwargs)

    _, report = sample(model, [lambda setup: Patch(SHIFT)], past_us)
    assert "4 of 4 answers of the model did not pass through SteadyDiff" in report.errors[0]
