"""A fit inside a WebUI's run, without a WebUI: it is the core's, is kept, and is found again."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from steadydiff.denoiser import Run
from steadydiff.drift.correction import PLAIN, Correction
from steadydiff.drift.digest import digest
from steadydiff.drift.fit import FitSettings, Problem, fit
from steadydiff.drift.fit_plan import FitPlan, without_outliers
from steadydiff.drift.recorder import refine, unit_noise
from steadydiff.errors import SettingsError, SteadyDiffError
from steadydiff.hosts.webui import fit as webui_fit
from steadydiff.hosts.webui.attach import WebuiHost
from steadydiff.hosts.webui.fit import FitKey, FitRequest, fit_next, use_matching
from steadydiff.hosts.webui.run import RunSetup
from steadydiff.samplers import gaussian_denoiser, sample_euler
from tools.launch.no_float64 import HERE, device

SIGMAS = (10.0, 4.0, 1.5, 0.5, 0.0)
RUN = Run("ve", SIGMAS)
SHAPE = (2, 4, 4)
BATCH, CFG = 4, 3.0
PLAN = FitPlan(16, refine=2, settings=FitSettings(trust=0.0))
POSITIVE, NEGATIVE = gaussian_denoiser(0.3, 0.8), gaussian_denoiser(0.1, 0.8)


def guided(x, sigma, cfg=CFG):
    return NEGATIVE(x, sigma) + cfg * (POSITIVE(x, sigma) - NEGATIVE(x, sigma))


class Cancelled(BaseException):
    """As hosts end a run at the user's wish."""


class Denoiser(torch.nn.Module):
    """What a measurement uses of a CFGDenoiser; `calls` are its, and it is cancelled before number `stop`."""

    def __init__(self):
        super().__init__()
        sd_model = SimpleNamespace(alphas_cumprod=torch.linspace(0.99, 0.01, 1000))
        self.inner_model = SimpleNamespace(inner_model=sd_model)
        self.steps, self.total_steps, self.step = RUN.steps, RUN.steps, 0
        self.p, self.calls, self.stop = SimpleNamespace(rng=SimpleNamespace(next=None)), [], None

    def forward(self, x, sigma, cond_scale, uncond=None):
        if len(self.calls) == self.stop:
            raise Cancelled
        self.calls.append(len(x))
        return guided(x, sigma, cond_scale)

    def combine_denoised(self, x_out, *others):
        return x_out

    combine_denoised_for_edit_model = combine_denoised


def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return sample_euler(lambda x, sigma: model(x, sigma, **extra_args), x, sigmas.tolist())


@pytest.fixture
def request_(tmp_path):
    key = FitKey(tmp_path / "auto", ["hash", {"lora": [["a", "1"]]}], "a/model", "Karras")
    return FitRequest(key, PLAN, "a prompt")


@pytest.fixture
def model():
    return Denoiser()


def measure(model, request, sigmas=SIGMAS, cfg=CFG, x=None, uncond=None):
    """Measure in a run; returns the kept fit, its file and whether it was there before."""
    sampler, found = SimpleNamespace(func=euler), []
    fit_next(sampler, WebuiHost(), request, lambda *results: found.append(results))
    x = torch.zeros((BATCH, *SHAPE), dtype=torch.float64) if x is None else x
    levels = torch.tensor(sigmas, device=x.device)
    sent = {"cond_scale": cfg, "uncond": uncond}
    sampler.func(model, x, extra_args=sent, callback=None, disable=False, sigmas=levels)
    assert sampler.func is euler
    return found[0]


def setup_of(model, sigmas=SIGMAS, cfg=CFG):
    kwargs = {"sigmas": torch.tensor(sigmas), "extra_args": {"cond_scale": cfg}}
    x = torch.zeros((BATCH, *SHAPE), dtype=torch.float64)
    return RunSetup.of(euler, model, x, kwargs, WebuiHost().route(model))


@pytest.mark.slow
def test_the_fit_is_the_cores(model, request_):
    kept, file, before = measure(model, request_)
    noise = unit_noise(SHAPE, range(32)).double() * SIGMAS[0]
    own = without_outliers(sample_euler(guided, noise[16:], refine(SIGMAS, PLAN.refine)))
    problem = Problem(sample_euler, guided, noise[:16], RUN, POSITIVE, own, POSITIVE)
    expected = fit(problem, PLAN.settings)
    assert kept.fit.correction == expected.correction and not before
    assert kept.fit.scores.keys() == expected.scores.keys() and len(expected.scores) > 1
    for name, score in expected.scores.items():
        assert kept.fit.scores[name] == pytest.approx(score, rel=1e-4)
    assert {*model.calls} == {BATCH}
    assert file.name.startswith("a_model_euler_4_cfg3_") and [*file.parent.iterdir()] == [file]
    assert kept.is_own and kept.made_for.sigmas == pytest.approx(SIGMAS)


@pytest.mark.slow
def test_a_device_without_float64_finds_the_same(model, request_):
    here = measure(model, request_)[0].fit
    with device():
        x = torch.zeros((BATCH, *SHAPE)).to(HERE)
        there = measure(model, replace(request_, again=True), x=x)[0].fit
    assert there.correction == here.correction and there.scores.keys() == here.scores.keys()
    assert there.before.j == pytest.approx(here.before.j, abs=1e-4)


@pytest.mark.slow
def test_it_measures_once_or_again_when_asked(model, request_):
    first = measure(model, request_)[0]
    count = len(model.calls)
    assert measure(model, request_)[::2] == (first, True) and len(model.calls) == count
    assert measure(model, replace(request_, again=True))[::2] == (first, False)
    assert len(model.calls) == 2 * count


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        {"cfg": 2.0},
        {"sigmas": (10.0, 4.0, 1.4, 0.5, 0.0)},
        {"weights": ["hash", {}]},
        {"plan": replace(PLAN, pictures=32)},
    ],
)
def test_another_model_or_run_has_another_fit(model, request_, other):
    measure(model, request_)
    run = {name: value for name, value in other.items() if name in ("cfg", "sigmas")}
    key = replace(request_.key, weights=other.get("weights", request_.key.weights))
    found = use_matching(setup_of(model, **run), key, other.get("plan", PLAN))
    assert found.patches == () and found.said.startswith("no fit for euler, 4 steps, cfg ")
    assert not use_matching(setup_of(model), request_.key, PLAN).said.startswith("no fit")


@pytest.mark.slow
def test_a_cancelled_measurement_goes_on_where_it_ended(model, request_):
    expected = measure(model, request_)[0]
    file = next(request_.key.folder.iterdir())
    text, count = file.read_text(), len(model.calls)
    file.unlink()
    made = 0
    for _ in range(2):
        model.calls.clear()
        model.stop = count // 3
        with pytest.raises(Cancelled):
            measure(model, request_)
        made += len(model.calls)
        assert [one.suffix for one in request_.key.folder.iterdir()] == [".safetensors"]
    model.calls.clear()
    model.stop = None
    assert measure(model, request_)[0] == expected and file.read_text() == text
    assert len(model.calls) < 0.6 * count and made + len(model.calls) < 1.7 * count
    assert [*request_.key.folder.iterdir()] == [file]


@pytest.mark.slow
def test_real_pictures_take_the_place_of_its_own(model, request_):
    measure(model, request_)
    count = len(model.calls)
    real = 0.3 + 0.8 * torch.randn((9, *SHAPE), generator=torch.Generator().manual_seed(1))
    pictures = replace(request_, references=real, source="9 pictures of /there", seen="9")
    kept, _, before = measure(model, pictures)
    assert not before and not kept.is_own and len(model.calls) < 2 * count
    assert measure(model, pictures)[::2] == (kept, True)
    assert measure(model, replace(pictures, references=real.flip(-1)))[2]  # of another size, or drawn anew
    assert not measure(model, replace(pictures, seen="others"))[2]  # of the same folder
    with pytest.raises(SettingsError, match="at least 8 images"):
        measure(model, replace(pictures, references=real[:7], again=True))
    with pytest.raises(SteadyDiffError, match="4 channels|shape|channels"):
        measure(model, replace(pictures, references=real.repeat(1, 2, 1, 1), again=True))


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "uncond", "fits"), [(5.0, (), True), (-5.0, None, True), (-5.0, (), False)])
def test_pictures_of_something_else_than_the_prompt_asks_for_are_refused(model, request_, mean, uncond, fits):
    """Beyond the mean of either prompt; a host may leave the second prompt out."""
    real = mean + 0.1 * torch.randn((9, *SHAPE), generator=torch.Generator().manual_seed(1))
    pictures = replace(request_, references=real, source="9 pictures of /there")
    with nullcontext() if fits else pytest.raises(SettingsError, match="not what the prompt asks for"):
        measure(model, pictures, uncond=uncond)
    assert len([*request_.key.folder.glob("*.json")]) == fits


@pytest.mark.slow
def test_how_far_it_is_is_said(model, request_):
    said = []
    measure(model, replace(request_, say=said.append))
    assert said[0].startswith("About to measure: the time of ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("correction", "titles"),
    [
        (PLAIN, []),
        (Correction(factor=0.93), ["Time Shift"]),
        (Correction(scale=1.08, later=True, factor=1.1), ["Time Shift", "Epsilon Scaling"]),
    ],
)
def test_what_matches_is_applied(model, request_, monkeypatch, correction, titles):
    chosen = fit

    def choose(*args):
        return replace(chosen(*args), correction=correction)

    monkeypatch.setattr(webui_fit, "fit", choose)
    measure(model, request_)
    found = use_matching(setup_of(model), request_.key, PLAN)
    assert [patch.settings.title for patch in found.patches] == titles
    assert found.said == (f"fit {correction}" if titles else "the fit leaves this model as it is")


@pytest.mark.slow
def test_a_damaged_file_is_named(model, request_):
    file = measure(model, request_)[1]
    file.write_text("{}")
    with pytest.raises(SettingsError, match=f"{file.name} cannot be read .* delete it, or measure again"):
        use_matching(setup_of(model), request_.key, PLAN)
    assert measure(model, replace(request_, again=True))[2] is False


def test_a_sampler_without_levels_of_its_own_is_refused(model, request_):
    def ddim(model, x, timesteps, extra_args=None, callback=None, disable=None):
        raise AssertionError

    sampler = SimpleNamespace(func=ddim)
    fit_next(sampler, WebuiHost(), request_, lambda *results: None)
    with pytest.raises(SettingsError, match="sampler ddim"):
        sampler.func(model, torch.zeros(BATCH, *SHAPE), extra_args={}, timesteps=torch.tensor([1, 400, 800]))


def test_the_key_is_the_same_in_every_session(request_, model):
    key, _, file = request_.key.of(setup_of(model), PLAN)
    assert key == request_.key.of(setup_of(Denoiser()), PLAN)[0] != digest() and key[:8] in file.name
