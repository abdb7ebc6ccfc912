"""Measuring and calibrating in the host: with its samplers, on its models, through the nodes."""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch

from steadydiff.drift.measurement import Measurement
from steadydiff.schedules import Schedule

STEPS = 5


@pytest.fixture
def measure(pack, host, conds, sigmas_of):
    """Run the measuring node; returns its four outputs."""

    def measure(model, sampler="euler", *, steps=STEPS, sigmas=None, **widgets):
        settings = {"cfg": 2.0, "seed": 5, "count": 3, "batch_size": 2, "refine": 2} | widgets
        settings.setdefault("latent_image", {"samples": torch.zeros(1, 4, 8, 8)})
        return (
            pack["SteadyDiffMeasure"]
            .execute(
                model=model,
                positive=conds["positive"],
                negative=conds["negative"],
                sampler=host.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler,
                sigmas=sigmas_of(model, steps) if sigmas is None else sigmas,
                **settings,
            )
            .args
        )

    return measure


@pytest.fixture
def calibrate(pack, host, conds):
    """Run the calibrating node; returns its outputs, the last of them apart where `report` is wanted."""

    def calibrate(model, measurement, sampler="euler", method="norm", count=3, report=False):
        chosen = host.samplers.sampler_object(sampler)
        ends = conds["positive"], conds["negative"]
        *made, said = (
            pack["SteadyDiffCalibrate"].execute(model, *ends, chosen, measurement, method, count).args
        )
        return said if report else made

    return calibrate


@pytest.fixture(scope="module")
def measurements():
    """By model: what `measured` found."""
    return {}


@pytest.fixture
def measured(model, measure, measurements):
    """The measurement of two samples of the model with Euler."""
    if model not in measurements:
        measurements[model] = measure(model, count=2)[2]
    return measurements[model]


@pytest.fixture
def calls(model, log):
    """Count the model calls of a patched clone."""
    counted = log()
    clone = model.clone()

    def around(apply_model, args):
        counted.append(args["timestep"])
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(around)
    return clone, counted


UNSTEPPED = ("dpm_fast", "dpm_adaptive")


def test_every_sampler_is_measured_or_refused(sampler, model, measure):
    if sampler in UNSTEPPED:
        with pytest.raises(ValueError, match="cannot be taken step by step"):
            measure(model, sampler)
        return
    found = Measurement.from_json(measure(model, sampler, steps=3, count=2)[2])
    assert len(found.quotient) == 3 and all(0.2 < quotient < 5 for quotient in found.quotient)
    assert found.quotient[0] == pytest.approx(1, abs=0.05)


@pytest.mark.drawn
def test_outputs_are_what_they_say(model, measure):
    plot, report, measurement, reference = measure(model)
    assert plot.ndim == 4 and plot.shape[-1] == 3 and 0 <= plot.min() < plot.max() <= 1
    found = Measurement.from_json(measurement)
    assert json.loads(report)["summary"] == pytest.approx(found.summary())
    assert reference["samples"].shape == (3, 4, 8, 8)
    facts = found.made_for
    assert (facts.sampler, facts.scheduler, facts.steps, facts.cfg) == ("euler", "simple", STEPS, 2.0)
    assert found.reference == "own samples of 10 steps" and found.label == ""
    again, compared, *_ = measure(model, measurement=measurement, reference=reference)
    assert again.shape == plot.shape and "compared_with" in json.loads(compared)


def test_the_measured_run_is_the_hosts_run(model, host, measure, sample, sigmas_of, conds):
    """The norms equal those of the states and estimates that the host's own sampler reports."""
    from steadydiff.drift.recorder import unit_noise
    from steadydiff.metrics.norms import predicted_norm

    noise, sigmas, seen = unit_noise((4, 8, 8), [5, 6]), sigmas_of(model, STEPS), []
    sample(
        model, sigmas=sigmas, noise=noise, cfg=2.0, seed=5, callback=lambda i, d, x, n: seen.append((x, d))
    )
    flow = isinstance(model.get_model_object("model_sampling"), host.sampling.CONST)
    expected = [
        predicted_norm(x, d, sigma.item(), "flow" if flow else "ve").mean().item()
        for (x, d), sigma in zip(seen, sigmas, strict=False)
    ]
    found = Measurement.from_json(measure(model, count=2)[2])
    assert found.sampling_norm == pytest.approx(expected, rel=1e-5)


def test_batches_make_no_difference(model, measure):
    one, other = (Measurement.from_json(measure(model, count=4, batch_size=size)[2]) for size in (4, 1))
    assert one.quotient == pytest.approx(other.quotient, rel=1e-4)
    assert one.variance_error == pytest.approx(other.variance_error, abs=1e-3)


def test_corrected_and_uncorrected_are_told_apart(model, measure, patched):
    bare = measure(model)
    corrected = patched(model, scale=1.05)
    given = Measurement.from_json(measure(corrected, reference=bare[3])[2])
    plain = Measurement.from_json(measure(model, reference=bare[3])[2])
    assert given.label.startswith("scale 1.05")
    assert given.training_norm == pytest.approx(plain.training_norm, rel=1e-6)
    assert given.sampling_norm[0] == pytest.approx(plain.sampling_norm[0], rel=1e-6)
    assert given.sampling_norm[-1] != pytest.approx(plain.sampling_norm[-1], rel=1e-3)
    # Its own clean samples come from the bare model, so a schedule for six steps does not stand in the way.
    with_schedule = patched(model, schedule=Schedule("table", (1.01,) * STEPS).to_json())
    assert torch.equal(measure(with_schedule)[3]["samples"], bare[3]["samples"])


def test_the_papers_curves_cost_one_run_more(calls, measure):
    model, counted = calls
    plain = measure(model, count=2)
    runs = len(counted)
    counted.clear()
    plot, report, measurement, _ = measure(model, count=2, paper_curves=True)
    found, before = Measurement.from_json(measurement), Measurement.from_json(plain[2])
    assert len(counted) == runs + STEPS and plot.shape[1] > plain[0].shape[1]
    assert found.sampling_norm == before.sampling_norm and before.delta == ()
    assert (len(found.delta), len(found.step_delta), len(found.estimate_error)) == (STEPS + 1, STEPS, STEPS)
    assert abs(found.delta[0]) < 1e-3 * found.sigmas[0] ** 2  # it begins at noised clean samples
    assert "training_norms" not in json.loads(report)["measurement"]


def test_whose_samples_were_the_reference_is_said(model, measure, calibrate):
    """Also where a measurement's own samples are given to another."""
    unseen = "few-step error only, not the model's own bias"
    own = measure(model)
    again = measure(model, reference=own[3])
    real = measure(model, reference={"samples": torch.randn(3, 4, 8, 8)})
    for found, expected in ((own, True), (again, True), (real, False)):
        assert (json.loads(found[1])["shows"] == unseen) is expected
        assert (unseen in calibrate(model, found[2], report=True)) is expected
    assert Measurement.from_json(real[2]).reference == "given"


def test_pictures_that_ship_serve_where_no_reference_is_connected(model, measure, calibrate):
    def encode(picture):
        return torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), 8)[:, [0, 1, 2, 0]] - 0.5

    shipped = {"stand_in": "shipped pictures", "count": 3}
    vae = SimpleNamespace(encode=encode, spacial_compression_encode=lambda: 8)
    found = measure(model, vae=vae, **shipped)
    assert Measurement.from_json(found[2]).reference == "3 shipped pictures"
    assert ", against 3 shipped pictures, which show also" in json.loads(found[1])["shows"]
    assert "The reference was shipped pictures" in calibrate(model, found[2], report=True)
    again = measure(model, reference=found[3], count=3)
    assert Measurement.from_json(again[2]) == Measurement.from_json(found[2])
    with pytest.raises(Exception, match="shipped pictures need the vae that encodes them; connect it"):
        measure(model, **shipped)


def test_measuring_leaves_no_trace(model, measure, sample):
    before, wrappers = sample(model), str(model.model_options)
    measure(model)
    assert torch.equal(sample(model), before) and str(model.model_options) == wrappers


def test_calibration_meets_the_norms_and_fills_in_what_it_is_for(model, measure, calibrate, patched):
    *_, measurement, reference = measure(model, steps=10)
    text, plot, shared = calibrate(model, measurement)
    assert text == shared and plot.ndim == 4
    schedule = Schedule.from_json(text)
    assert schedule.mode == "table" and len(schedule.values) == 10 and schedule.values[-1] == 1
    facts = schedule.made_for
    assert (facts.sampler, facts.scheduler, facts.cfg, facts.steps) == ("euler", "simple", 2.0, 10)
    corrected = patched(model, schedule=text)
    after = Measurement.from_json(measure(corrected, steps=10, reference=reference, batch_size=3)[2])
    before = Measurement.from_json(measurement)
    bound = [
        0.8 < value < 1.25 and value != 1 for value in schedule.values
    ]  # not at the edge of what is tried
    drift = [
        [
            abs(math.log(s / t))
            for s, t, inside in zip(m.sampling_rms[1:], before.training_rms[1:], bound[:-1], strict=True)
            if inside
        ]
        for m in (before, after)
    ]
    assert sum(drift[1]) < 0.5 * sum(drift[0])


@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde", "uni_pc"])
def test_calibration_costs_at_most_three_runs(calls, measure, calibrate, name):
    model, counted = calls
    measurement = measure(model)[2]
    counted.clear()
    measure(model, name, count=2, reference={"samples": torch.randn(1, 4, 8, 8)})
    run = len(counted) - STEPS  # sampling alone
    counted.clear()
    schedule = Schedule.from_json(calibrate(model, measurement, name)[0])
    assert len(counted) <= 3 * run
    assert schedule.made_for.sampler == name and all(0.8 <= value <= 1.25 for value in schedule.values)


def test_a_sampler_that_draws_noise_is_calibrated_on_32_samples(calls, measure, calibrate):
    """As many at a time as were asked for; where fewer were measured, it is said."""
    model, counted = calls
    measurement = measure(model, count=40, steps=3)[2]
    counted.clear()
    said = calibrate(model, measurement, "euler_ancestral", count=16, report=True)
    sizes = {len(timestep) for timestep in counted}  # cond and uncond together
    assert said.startswith("Found on 32 samples") and "Standard error" in said and sizes == {32}
    assert calibrate(model, measurement, "euler", count=16, report=True).startswith("Found on 16 samples")
    few = calibrate(model, measure(model, count=6, steps=3)[2], "euler_ancestral", report=True)
    assert few.startswith("Found on 6 samples") and "32 samples are wanted, 6 were measured" in few


def test_what_is_wanted_is_of_the_samples_that_are_run(model, measure, calibrate):
    """Norms of samples that are not among the first three change nothing."""
    found = measure(model, count=6, steps=4)[2]
    other = json.loads(found)
    other["training_norms"][3:] = [[2 * norm for norm in row] for row in other["training_norms"][3:]]
    other["curves"]["training_rms"] = [2 * norm for norm in other["curves"]["training_rms"]]
    assert calibrate(model, json.dumps(other))[0] == calibrate(model, found)[0]
    other["training_norms"][0][2] *= 1.1
    assert calibrate(model, json.dumps(other))[0] != calibrate(model, found)[0]
    earlier = json.loads(found)
    del earlier["training_norms"]
    assert Schedule.from_json(calibrate(model, json.dumps(earlier))[0]).values[-1] == 1


def test_the_states_are_brought_to_the_spectrum_of_clean_pictures(calls, measure, calibrate, patched):
    """One run suffices, and the corrected states' variance is nearer to what it should be."""
    model, counted = calls
    *_, measurement, reference = measure(model, steps=10)
    counted.clear()
    text = calibrate(model, measurement, method="variance")[0]
    assert len(counted) == 10
    corrected = patched(model, schedule=text)
    after = Measurement.from_json(measure(corrected, steps=10, reference=reference)[2])
    errors = [
        sum(map(abs, measured.variance_error[1:-1]))
        for measured in (Measurement.from_json(measurement), after)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_fits_are_of_the_papers_form(model, measure, calibrate):
    measurement = measure(model)[2]
    norm, linear, uniform = (
        Schedule.from_json(calibrate(model, measurement, method=method)[0])
        for method in ("norm", "linear", "uniform")
    )
    assert (linear.mode, uniform.mode) == ("linear", "uniform")
    assert len(set(uniform.values)) == 1
    assert uniform.values[0] == pytest.approx(sum(norm.values[:-1]) / (STEPS - 1))
    slopes = [a - b for a, b in zip(linear.values, linear.values[1:], strict=False)]
    assert slopes == pytest.approx([slopes[0]] * (STEPS - 1))


def test_use_elsewhere_warns_and_names_the_difference(
    model, measure, calibrate, patched, sample, sigmas_of, caplog
):
    text = calibrate(model, measure(model)[2])[0]
    corrected = patched(model, schedule=text)
    with caplog.at_level(logging.WARNING, "steadydiff"):
        sample(corrected, steps=STEPS, cfg=2.0)
        assert not [one for one in caplog.records if one.name == "steadydiff"]  # the host warns of its own
        sample(corrected, "heun", steps=STEPS, cfg=5.0)
    assert "cfg 5.0, made for 2.0" in caplog.text and "sampler heun, made for euler" in caplog.text


# --- bad input: a sentence, and no model call


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"reference": {"samples": torch.zeros(2, 16, 8, 8)}},
            r"the model's own shape, \[4, 8, 8\] here; got \[16",
        ),
        ({"reference": {"samples": torch.zeros(2, 4, 4, 8)}}, "encode the pictures with this model's VAE"),
        ({"latent_image": {"samples": torch.ones(1, 16, 8, 8)}}, "latents have 4 channels, got 16"),
        ({"sigmas": torch.tensor([])}, "sigmas holds no step"),
        ({"sigmas": torch.tensor([0.3, 0.2, 0.0])}, "set denoise to 1"),
        ({"sampler": "dpm_adaptive"}, "choose one that does, e.g. euler"),
        ({"measurement": "{}"}, "a measurement is JSON of format"),
        ({"sampler": object()}, "a object does not show its steps"),
    ],
)
def test_bad_input_is_refused_before_the_first_model_call(calls, measure, settings, message):
    model, counted = calls
    with pytest.raises(Exception, match=message):
        measure(model, **settings)
    assert not counted


def test_what_cannot_be_calibrated_is_refused(calls, measure, calibrate):
    model, counted = calls
    measurement = measure(model)[2]
    counted.clear()
    with pytest.raises(ValueError, match="not of the CFG"):
        calibrate(model, measurement, "euler_cfg_pp")
    with pytest.raises(ValueError, match="cannot be taken step by step"):
        calibrate(model, measurement, "dpm_fast")
    other = json.loads(measurement)
    other["made_for"]["model"] = "Flux"
    with pytest.raises(ValueError, match="made on a Flux, this is a BaseModel"):
        calibrate(model, json.dumps(other))
    old = json.loads(measurement)
    del old["clean_spectrum"]
    with pytest.raises(ValueError, match="holds no spectrum; measure again"):
        calibrate(model, json.dumps(old), method="variance")
    assert not counted


def test_what_cannot_be_calibrated_is_told_before_a_measurement_is_asked_for(
    sampler, model, calls, measure, measurements, calibrate, pack, host, conds
):
    if (model, "brief") not in measurements:
        measurements[model, "brief"] = measure(model, steps=2, count=2)[2]
    measured, (model, counted) = measurements[model, "brief"], calls
    ends = conds["positive"], conds["negative"]
    chosen = host.samplers.sampler_object(sampler)

    def verdict(call):
        try:
            return None if call() else ""
        except ValueError as error:
            return str(error)

    early = verdict(
        lambda: (
            pack["SteadyDiffCalibrate"].check_lazy_status(model, *ends, chosen, None, "norm", 2)
            == ["measurement"]
        )
    )
    assert not counted
    assert early == verdict(lambda: calibrate(model, measured, sampler, count=2))
    assert pack["SteadyDiffCalibrate"].check_lazy_status(model, *ends, chosen, measured, "norm", 2) == []


def test_nan_from_the_model_is_a_sentence(model, measure):
    broken = model.clone()
    broken.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * math.nan)
    with pytest.raises(Exception, match="a clean sample holds NaN|the model's answer at step 1"):
        measure(broken)


def test_cancel_ends_it_and_leaves_no_trace(model, host, measure, sample):
    before, calls = sample(model), []
    cancelled = model.clone()

    def stop(args):
        calls.append(1)
        if len(calls) == 15:
            host.management.interrupt_current_processing(True)
        return args["denoised"]

    cancelled.set_model_sampler_post_cfg_function(stop)
    with pytest.raises(host.management.InterruptProcessingException):
        measure(cancelled)
    assert len(calls) == 15
    assert torch.equal(sample(model), before)
