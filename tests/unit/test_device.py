"""A device that knows no float64, as Apple's (MPS): sampling, measuring and training keep clear of it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from steadydiff.denoiser import Guided, Run
from steadydiff.drift.calibration import calibrate, calibrate_variance
from steadydiff.drift.digest import digest
from steadydiff.drift.fit import FitSettings, Problem
from steadydiff.drift.fit import fit as fit_correction
from steadydiff.drift.gap import GapRecorder
from steadydiff.drift.recorder import Recorder, noise_for, unit_noise
from steadydiff.hosts.patch import training_sigmas
from steadydiff.methods.antibias_prompt import AntiBiasPrompt, PromptModel
from steadydiff.methods.band_scaling import BandScaling
from steadydiff.methods.diffier import MODES, DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.methods.mdss import MDSS, XiModel
from steadydiff.methods.time_shift import TimeShift
from steadydiff.metrics.frechet import frechet_distance, moments
from steadydiff.metrics.kid import kernel_distance
from steadydiff.metrics.precision_recall import precision_recall
from steadydiff.metrics.running import RunningCovariance
from steadydiff.metrics.spectrum import spectrum
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from steadydiff.networks.xi_head import TwoHeads
from steadydiff.samplers import gaussian_denoiser, sample_euler, sample_heun
from steadydiff.schedules import Schedule
from steadydiff.training.antibias import PLAN as PROMPT_PLAN
from steadydiff.training.antibias import AntiBiasBase as PromptBase
from steadydiff.training.antibias import AntiBiasRecipe as PromptRecipe
from steadydiff.training.antibias import PromptLoss
from steadydiff.training.loop import fit
from steadydiff.training.mdss import PLAN, MdssBase, MdssLoss, MdssRecipe
from tools.launch.no_float64 import HERE, device

SHAPE, COUNT = (2, 8, 8), 4
RUNS = {
    "ve": Run("ve", (14.6, 3.0, 1.0, 0.3, 0.0), 1),
    "flow": Run("flow", (0.98, 0.9, 0.6, 0.2, 0.0), 1),
}
spaces = pytest.mark.parametrize("space", RUNS)


@pytest.fixture(autouse=True)
def there():
    with device():
        yield


def noise(*seeds):
    return unit_noise(SHAPE, seeds or range(COUNT)).to(HERE)


def guided(space):
    return Guided(gaussian_denoiser(0.2, 0.6, space), gaussian_denoiser(0.0, 0.8, space), 3.0)


def test_the_device_is_one():
    x = torch.ones(3).to(HERE)
    assert (x + 1).device == HERE and torch.zeros(2, device=HERE).device == HERE
    assert float((x * 2).sum()) == 6 and x.cpu().double().tolist() == [1, 1, 1]
    for wrong in (x.double, lambda: torch.ones(3).double().to(HERE), lambda: x.to(torch.float64)):
        with pytest.raises(TypeError, match="no float64"):
            wrong()
    with pytest.raises(RuntimeError, match="on two"):
        x + torch.ones(3)


# --- sampling ---------------------------------------------------------------------------------------------


def methods(space):
    levels = {"space": space, "sigma_range": (0.0, float("inf"))}
    yield EpsilonScaling(1.01)
    yield EpsilonScaling(1.01, 0.002, sigma_high=5.0, sigma_low=0.25)
    yield EpsilonScaling(schedule=Schedule("table", (1.01, 1.02, 1.0, 1.01)))
    yield BandScaling(EpsilonScaling(1.01), EpsilonScaling(0.99))
    yield TimeShift()
    yield TimeShift(levels=20, table=tuple(torch.linspace(0.01, 0.99, 100).tolist()))
    yield from (DiffIER(mode=mode, iterations=1) for mode in MODES)
    yield MDSS(XiModel(lambda x, sigma: 0.01 * x, **levels))
    yield AntiBiasPrompt(PromptModel(lambda x: 0.01 * x, "residual", **levels))


@pytest.mark.slow
@spaces
@pytest.mark.parametrize("sampler", [sample_euler, sample_heun])
def test_every_method_samples_there(space, sampler):
    run = RUNS[space]
    for method in methods(space):
        final = sampler(method.wrap(guided(space), run), noise() * run.sigmas[0], run.sigmas)
        assert final.device == HERE and final.isfinite().all(), method


# --- measuring --------------------------------------------------------------------------------------------


@pytest.mark.slow
@spaces
def test_a_model_is_measured_and_calibrated_there(space):
    run, clean, first = RUNS[space], 0.6 * noise(), noise() * RUNS[space].sigmas[0]
    recorder = Recorder(run, range(run.steps))
    recorded = recorder.around(guided(space))
    recorder.sample(sample_euler, recorded, first)
    recorder.train(recorded, clean, noise_for(clean, range(COUNT)).to(HERE))
    wanted = recorder.measurement(0, "given").training_rms
    assert calibrate(sample_euler, guided(space), first, run, wanted).calls
    assert calibrate_variance(sample_euler, guided(space), first, run, spectrum(clean)).calls


@spaces
def test_the_gap_is_measured_there(space):
    run = RUNS[space]
    recorder = GapRecorder(run, range(run.steps))
    denoise = DiffIER(iterations=1).wrap(recorder.around(guided(space)), run)
    recorder.sample(sample_euler, denoise, noise() * run.sigmas[0])
    assert recorder.gap().calls


@pytest.mark.slow
@spaces
def test_a_correction_is_fitted_there(space):
    """By a model that takes the noise for larger than it is."""
    run, exact = RUNS[space], gaussian_denoiser(0.0, 0.6, space)

    def planted(x, sigma):
        return x - 1.1 * (x - exact(x, sigma)) if space == "ve" else exact(x, sigma) * 0.9

    pictures = {name: unit_noise(SHAPE, range(at, at + 16)) for at, name in ((0, "x"), (16, "real"))}
    done = {}
    for where in (HERE, torch.device("cpu")):
        x, real = (pictures[name].to(where) for name in ("x", "real"))
        problem = Problem(sample_euler, planted, x * run.sigmas[0], run, exact, 0.6 * real, exact)
        done[where] = fit_correction(problem, FitSettings(thorough=True, diffier=True, trust=0.0, keep=0.0))
    assert done[HERE].correction == done[torch.device("cpu")].correction
    assert len(done[HERE].scores) > 2


def test_a_digest_is_that_of_the_same_numbers_here():
    assert digest([noise()]) == digest([noise().cpu()])


def test_features_are_compared_there():
    a, b = (torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    gathered = RunningCovariance()
    gathered.add(a.to(HERE))
    assert torch.allclose(gathered.covariance, moments(a)[1])
    assert frechet_distance(*moments(a.to(HERE)), *(m.float().to(HERE) for m in moments(b))) > 0
    assert kernel_distance(a.to(HERE), b.to(HERE)) == kernel_distance(a, b)
    assert precision_recall(a.to(HERE), b.to(HERE)) == precision_recall(a, b)


# --- training ---------------------------------------------------------------------------------------------


def trained(network, loss, plan, folder):
    made = fit(network, loss, replace(plan, steps=2, warmup=1), folder / "state.safetensors")
    assert all(weight.device == HERE and weight.isfinite().all() for weight in made.parameters())


@pytest.mark.slow
@spaces
def test_the_anti_bias_prompt_is_trained_there(space, tmp_path):
    def draw(n, rng):
        return 0.6 * torch.randn((n, *SHAPE), generator=rng), None

    exact = gaussian_denoiser(0.0, 0.6, space)
    base = PromptBase(space, (RUNS[space].sigmas,), draw, lambda x, sigma, _: exact(x, sigma))
    network = PromptNetwork(PromptConfig(2, 4, (1, 1), 1, ())).to(HERE)
    trained(network, PromptLoss(network, base, PromptRecipe(batch=4)), PROMPT_PLAN, tmp_path)


@pytest.mark.parametrize(
    ("variant", "prediction"), [("posterior", "eps"), ("ddim", "v"), ("flow", "velocity")]
)
def test_mdss_is_trained_there(variant, prediction, tmp_path):
    flow = variant == "flow"
    levels = torch.linspace(0.02, 1, 40) if flow else torch.logspace(-1.5, 1, 40)
    sigmas = training_sigmas(SimpleNamespace(sigmas=levels.to(HERE)))  # as a host's model has them

    def draw(n, rng):
        return 0.6 * torch.randn((n, *SHAPE), generator=rng), torch.zeros(n, 1)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity(), torch.nn.Conv2d(2, 2, 1))

        def forward(self, x):
            return self.out(x)

    base = MdssBase(
        "tiny",
        Network().to(HERE),
        "flow" if flow else "ve",
        prediction,
        sigmas,
        draw,
        lambda model, x, at, conditioning: model(x),
    )
    model = TwoHeads(base.network).to(HERE)
    loss = MdssLoss(model, base, MdssRecipe(variant, 2, 8), 100, lambda: 95)
    with model.attached():
        trained(model, loss, PLAN, tmp_path)
