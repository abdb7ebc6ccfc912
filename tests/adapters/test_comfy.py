"""The ComfyUI adapter without ComfyUI: a host of stand-ins with the attributes the adapter relies on."""

import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch

from steadydiff.denoiser import Run
from steadydiff.errors import HostError, SettingsError
from steadydiff.hosts.comfy.attach import attach
from steadydiff.hosts.comfy.host import KEY, ComfyHost, sampler_name
from steadydiff.hosts.comfy.session import cfg_of
from steadydiff.hosts.patch import POST_CFG, Patch, states_of
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.samplers import gaussian_denoiser, sample_euler
from steadydiff.schedules import MadeFor, Schedule

SIGMAS = torch.tensor([10.0, 4.0, 1.0, 0.0])


class VE:
    def percent_to_sigma(self, percent):
        return 10.0 * (1 - percent)

    def calculate_input(self, sigma, x):
        return x / (sigma**2 + 1) ** 0.5

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return latent + sigma * noise


class Flow(VE):
    noise_scale = 1.0

    def calculate_input(self, sigma, x):
        return x

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return (1 - sigma) * latent + sigma * self.noise_scale * noise


class Backwards(Flow):
    """As kinds that start from a picture instead of noise."""

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return latent


class Unknown(VE):
    """As CogVideoX's: noised in one way, shown in another."""

    def calculate_input(self, sigma, x):
        return x


class Bent(Flow):
    """Its noise is not in proportion to the level."""

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return (1 - sigma) * latent + sigma**2 * noise


class Loud(Flow):
    noise_scale = 8.0


training = SimpleNamespace(now=False)
HOST = ComfyHost("outer", "predict", in_training=lambda: training.now)


@dataclass
class Patcher:
    """What the adapter uses of a ModelPatcher."""

    model_sampling: object = field(default_factory=VE)
    wrappers: dict = field(default_factory=dict)
    model: object = None

    def get_model_object(self, name):
        return getattr(self, name)

    def clone(self):
        return Patcher(
            self.model_sampling,
            {kind: {k: w.copy() for k, w in found.items()} for kind, found in self.wrappers.items()},
        )

    def get_wrappers(self, kind, key):
        return self.wrappers.get(kind, {}).get(key, [])

    def get_additional_models_with_key(self, key):
        return []

    def add_wrapper_with_key(self, kind, key, wrapper):
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, kind, key):
        self.wrappers.get(kind, {}).pop(key, None)


class Executor:
    """The host's chain of wrappers around one of its methods."""

    def __init__(self, function, guider, wrappers):
        self.function, self.class_obj, self.wrappers = function, guider, wrappers

    def __call__(self, *args, **kwargs):
        if not self.wrappers:
            return self.function(*args, **kwargs)
        rest = Executor(self.function, self.class_obj, self.wrappers[1:])
        return self.wrappers[0](rest, *args, **kwargs)


class Guider:
    """What the adapter uses of a guider, around an exact denoiser of data N(0, 1)."""

    cfg = 4.0

    def __init__(self, model, denoise=None):
        self.model_patcher, self.model_options, self.received = model, {}, {}
        self.denoise = denoise or gaussian_denoiser()

    def __call__(self, x, sigma, model_options=None):
        wrappers = self.model_patcher.get_wrappers("predict", KEY)
        return Executor(self.predict, self, wrappers)(x, sigma, model_options or {}, 5)

    def predict(self, x, sigma, model_options, seed):
        assert seed == 5
        denoised = self.denoise(x, sigma)
        for function in model_options.get(POST_CFG, []):
            args = {
                "denoised": denoised,
                "uncond_denoised": denoised,
                "uncond": [],
                "input": x,
                "sigma": sigma,
            }
            denoised = function({**args, "cond_denoised": denoised, "cond": None})
        return denoised

    def sample(self, sigmas=SIGMAS, sampler=None, **more):
        wrappers = self.model_patcher.get_wrappers("outer", KEY)
        run = Executor(self.outer_sample, self, wrappers)
        return run(torch.ones(2, 4, 3, 3), torch.zeros(2, 4, 3, 3), sampler, sigmas, None, **more)

    def outer_sample(self, noise, latent, sampler, sigmas, denoise_mask=None, **more):
        self.received = more
        return sample_euler(self, noise * float(sigmas[0]), sigmas.tolist())


def patched(model=None, window=(0.0, 1.0), **settings):
    return attach(model or Patcher(), Patch(EpsilonScaling(**settings), *window), HOST)


def test_a_run_equals_the_method_wrapped_around_the_model():
    x, sigmas = torch.full((2, 4, 3, 3), 10.0), SIGMAS.tolist()
    plain = gaussian_denoiser()
    expected = sample_euler(lambda x, sigma: x - (x - plain(x, sigma)) / 1.02, x, sigmas)
    torch.testing.assert_close(Guider(patched(scale=1.02)).sample(), expected)


def test_attaching_leaves_the_model_alone_and_keeps_one_wrapper_per_level():
    model = Patcher()
    once = patched(model)
    twice = patched(once)
    assert model.wrappers == {}
    assert len(once.get_wrappers("outer", KEY)[0].__self__.patches) == 1
    for kind in ("outer", "predict"):
        assert [len(wrapper.__self__.patches) for wrapper in twice.get_wrappers(kind, KEY)] == [2]


def test_arguments_of_newer_hosts_pass_through():
    guider = Guider(patched())
    guider.sample(callback="c", latent_shapes=[1])
    assert guider.received == {"callback": "c", "latent_shapes": [1]}


def test_the_session_ends_with_the_run_whatever_ends_it():
    class Cancelled(BaseException):
        """As the host's: no Exception."""

    def cancel(x, sigma):
        assert KEY in guider.model_options
        raise Cancelled

    guider = Guider(patched(), cancel)
    with pytest.raises(Cancelled):
        guider.sample()
    assert guider.model_options == {}


def test_a_call_outside_a_run_is_not_touched():
    x, sigma = torch.ones(1, 4, 3, 3), torch.ones(1)
    guider = Guider(patched(scale=1.2), lambda x, sigma: x)
    assert guider(x, sigma) is x


def test_training_opens_no_session(monkeypatch):
    monkeypatch.setattr(training, "now", True)
    plain = Guider(Patcher()).sample()
    assert torch.equal(Guider(patched(scale=1.2)).sample(), plain)


def test_a_samplers_own_post_cfg_function_sees_scaled_branches_and_others_do_not():
    seen = {}

    def note(name):
        def function(args):
            seen[name] = args["uncond_denoised"], args["cond_denoised"]
            return args["denoised"]

        return function

    functions = [note("model's"), note("sampler's")]
    guider = Guider(patched(scale=1.25), lambda x, sigma: torch.zeros_like(x))
    guider.model_options[POST_CFG] = functions[:1]
    options = {POST_CFG: functions}
    guider.outer_sample = lambda *_: guider(torch.ones(1, 4, 3, 3), torch.ones(1), options)
    guider.sample()
    assert seen["model's"][0].unique().tolist() == [0.0]
    assert seen["sampler's"][0].unique().tolist() == pytest.approx([0.2])
    assert seen["sampler's"][1].unique().tolist() == [0.0]  # there was no such branch
    assert options == {POST_CFG: functions}


def test_percentages_are_read_from_the_model_that_runs():
    model = patched(window=(0.25, 0.75))
    [attachment] = model.get_wrappers("outer", KEY)
    resolved = attachment.__self__.patches[0].resolve(model.model_sampling)
    assert (resolved.sigma_high, resolved.sigma_low) == (7.5, 2.5)
    whole = Patch(EpsilonScaling()).resolve(VE())
    assert (whole.sigma_high, whole.sigma_low) == (math.inf, 0.0)


def test_equal_percentages_are_off():
    plain = Guider(Patcher()).sample()
    for part in (0.0, 0.4, 1.0):
        assert torch.equal(Guider(patched(window=(part, part), scale=1.2)).sample(), plain)


def test_reversed_percentages_are_refused():
    with pytest.raises(SettingsError, match="start_percent is not above end_percent.* got 0.8 and 0.2"):
        Guider(patched(window=(0.8, 0.2))).sample()


def test_sampling_classes():
    assert states_of(Flow()) == ("flow", 1.0)
    assert states_of(VE()) == ("ve", 1.0)
    assert states_of(Loud()) == ("flow", 8.0)
    for kind in (Unknown, Backwards, Bent):
        with pytest.raises(HostError, match=f"does not know \\({kind.__name__}"):
            patched(Patcher(kind()))


def test_velocity_is_refused_when_attached():
    with pytest.raises(SettingsError, match="needs a flow model and this is none"):
        patched(space="velocity")


def test_misfits_are_refused_before_the_first_call():
    table = Schedule("table", (1.1, 1.2))
    guider = Guider(patched(schedule=table), lambda *_: pytest.fail("the model was called"))
    with pytest.raises(SettingsError, match="has 2 steps, the run has 3"):
        guider.sample()


def test_a_run_over_other_levels_reads_its_scales_off():
    """A schedule of another number of steps acts as one that was made for this run."""
    known = Schedule("table", (1.3, 1.2, 1.1, 1.0), MadeFor(sigmas=(20.0, 5.0, 1.25, 0.3125, 0.0)))
    sigmas = (10.0, 2.5, 0.0)
    found = Guider(patched(schedule=known)).sample(torch.tensor(sigmas))
    own = Schedule("table", (1.25, 1.15), MadeFor(sigmas=sigmas))
    torch.testing.assert_close(found, Guider(patched(schedule=own)).sample(torch.tensor(sigmas)))


def test_differences_are_told_once_a_run(caplog):
    made_for = MadeFor(sampler="dpmpp_2m", cfg=7.0)
    guider = Guider(patched(schedule=Schedule("table", (1.1, 1.2, 1.0), made_for)))
    guider.sample(sampler=SimpleNamespace(sampler_function=sample_euler))
    [message] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.endswith("this run: sampler euler, made for dpmpp_2m; cfg 4.0, made for 7.0")


def test_a_guider_with_two_scales_has_no_cfg_to_compare(caplog):
    guider = Guider(patched(schedule=Schedule("table", (1.1, 1.2, 1.0), MadeFor(cfg=7.0))))
    guider.cfg1 = 3.0
    guider.sample()
    assert not caplog.records


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("sample_euler", "euler"),
        ("sample_unipc_bh2", "uni_pc_bh2"),
        ("dpm_fast_function", "dpm_fast"),
        ("sample_res_multistep_cfg_pp", "res_multistep_cfg_pp"),
    ],
)
def test_sampler_names(function, name):
    assert sampler_name(SimpleNamespace(sampler_function=SimpleNamespace(__name__=function))) == name


def test_a_sampler_without_a_function_has_no_name():
    assert sampler_name(object()) is None


def test_what_was_done_is_logged(caplog):
    with caplog.at_level("INFO", "steadydiff"):
        Guider(patched(schedule=Schedule("table", (1.25, 1.5, 1.0)))).sample()
    assert caplog.messages == [
        "SteadyDiff: Epsilon Scaling attached (table schedule of 3 steps, space auto, 0 to 100 % of the run)",
        "SteadyDiff: Epsilon Scaling lambda 1.25 to 1.5 at 2 of 3 steps; 3 model calls",
    ]


def test_diffier_runs_inside_epsilon_scaling_with_the_runs_seed():
    """Attached outside it, yet its own calls are not scaled: by hand, the core's methods in that order."""
    x, run = torch.full((2, 4, 3, 3), 10.0), Run("ve", tuple(SIGMAS.tolist()), 3)
    method = DiffIER(sigma_high=math.inf, divide_by_cfg=False)
    inside = method.wrap(gaussian_denoiser(), run)
    expected = sample_euler(EpsilonScaling(1.02).wrap(inside, run), x, SIGMAS.tolist())
    model = attach(patched(scale=1.02), Patch(method), HOST)
    torch.testing.assert_close(Guider(model).sample(seed=3), expected)


def test_calls_of_ours_are_checked_for_cancel_counted_and_unseen_by_the_sampler(caplog):
    seen, checks = [], []
    host = replace(HOST, check_interrupted=lambda: checks.append(1))
    guider = Guider(attach(Patcher(), Patch(DiffIER(iterations=2)), host))
    options = {POST_CFG: [lambda args: seen.append(args["input"]) or args["denoised"]]}
    x = torch.ones(1, 4, 3, 3)
    guider.outer_sample = lambda *_, **__: guider(x, torch.ones(1), options)
    with caplog.at_level("INFO", "steadydiff"):
        guider.sample()
    assert len(seen) == 1 and torch.equal(seen[0], x)
    assert len(checks) == 2
    assert caplog.messages[-1].endswith("renoise at 3 of 3 steps; 3 model calls, 2 of them extra")


def test_a_second_diffier_is_refused():
    once = attach(Patcher(), Patch(DiffIER()), HOST)
    with pytest.raises(SettingsError, match="DiffIER is on this model already"):
        attach(once, Patch(DiffIER("norm")), HOST)


def test_the_weight_of_a_guider():
    assert cfg_of(SimpleNamespace(cfg=7.5)) == 7.5
    assert cfg_of(SimpleNamespace(cfg=1.0, cfg1=2.0, cfg2=3.0)) == 3.0
    assert cfg_of(object()) == 1.0


def test_a_method_nobody_has_heard_of_is_attached_windowed_told_and_switched_off(sixth, caplog):
    caplog.set_level("INFO", "steadydiff")
    x, plain = torch.full((2, 4, 3, 3), 10.0), gaussian_denoiser()

    def by_hand(low):
        return lambda x, sigma: plain(x, sigma) * (1.3 if sigma[0] >= low else 1.0)

    whole = attach(patched(scale=1.0), Patch(sixth(1.3)), HOST)
    torch.testing.assert_close(Guider(whole).sample(), sample_euler(by_hand(0.0), x, SIGMAS.tolist()))
    assert "Brightened attached" in caplog.text
    assert "Brightened times 1.3 at 3 of 3 steps; 3 model calls" in caplog.text
    assert "SteadyDiff: Brightened: made for nothing" in caplog.text
    part = attach(Patcher(), Patch(sixth(1.3), 0.0, 0.7), HOST)  # down to sigma 3
    torch.testing.assert_close(Guider(part).sample(), sample_euler(by_hand(3.0), x, SIGMAS.tolist()))
    for off in (Patch(sixth(1.0)), Patch(sixth(1.3), 0.4, 0.4)):
        assert torch.equal(Guider(attach(Patcher(), off, HOST)).sample(), Guider(Patcher()).sample())
