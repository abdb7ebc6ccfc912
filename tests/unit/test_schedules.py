"""Schedules: the paper's tables, TSR and DCW against their own updates, and schedules as data."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steadydiff.denoiser import SPACES, derivative, signal_level
from steadydiff.errors import SettingsError
from steadydiff.methods.epsilon_scaling import scale_epsilon
from steadydiff.samplers import gaussian_denoiser
from steadydiff.schedules import (
    SCHEDULE_MODES,
    MadeFor,
    Schedule,
    dcw_schedule,
    linear_schedule,
    read_table,
    snr_schedule,
    table_schedule,
    uniform_schedule,
)

VE = (14.6, 8.0, 3.0, 1.0, 0.3, 0.03, 0.0)
FLOW = (1.0, 0.95, 0.8, 0.5, 0.2, 0.05, 0.0)
SIGMAS = {"ve": VE, "flow": FLOW}


def test_uniform_and_linear_by_hand():
    assert uniform_schedule(3, 1.005) == (1.005, 1.005, 1.005)
    assert linear_schedule(3, 0.25, 1.5) == (2.0, 1.75, 1.5)  # noisiest first, t = 0 at the last step
    assert uniform_schedule(0, 1.1) == ()


@pytest.mark.parametrize(
    ("k", "b", "uniform"),
    [(0.0008, 1.0034, 1.011), (0.0004, 1.0042, 1.008), (0.0002, 1.0041, 1.006), (0.00022, 1.00291, 1.005)],
)
def test_the_papers_linear_rows_have_its_uniform_mean(k, b, uniform):
    """LSUN, FFHQ, ImageNet 64 and 128 at 20 steps: k and b make sense only with t as we read it."""
    assert sum(linear_schedule(20, k, b)) / 20 == pytest.approx(uniform, abs=5e-5)


def test_linear_refuses_scales_that_are_not_positive():
    with pytest.raises(SettingsError, match="the scale of step 1 .* got -0.8"):
        linear_schedule(10, -0.2, 1.0)


def test_table_reads_numbers_however_they_are_parted():
    expected = (1.1, 1.05, 1.0, 0.995)
    assert table_schedule("1.1, 1.05;1\n 0.995\n") == expected
    assert table_schedule(list(expected)) == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.5, 1.5), min_size=1, max_size=8), st.sampled_from([",", " ", "\n", ", ", ";"]))
def test_table_reads_back_what_was_written(values, separator):
    assert table_schedule(separator.join(map(repr, values))) == tuple(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.0, 1,,x5", "'x5'"),
        ("1.0 nan", "step 2"),
        ("0", "step 1"),
        ("1 1 -2", "step 3"),
        ("inf", "step 1"),
        (" ,\n", "no number"),
        ("1e999", "step 1"),
    ],
)
def test_table_names_what_it_cannot_read(text, message):
    with pytest.raises(SettingsError, match=message):
        table_schedule(text)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("k", "s"), [(0.95, 1.0), (0.5, 3.0), (1.4, 0.2), (1.0, 1.0)])
def test_snr_is_temporal_score_rescaling(space, k, s, latents):
    """r from equation 6, applied to eps: x0 = (x - r·sigma·eps) / alpha."""
    sigmas, shape = SIGMAS[space], (2, 3)
    for scale, sigma in zip(snr_schedule(sigmas, k, s, space), sigmas, strict=False):
        if sigma == 1.0 and space == "flow":
            assert scale == 1  # no signal, no correction
            continue
        x, denoised, alpha = latents(shape), latents(shape), signal_level(sigma, space)
        snr = (alpha / sigma) ** 2
        r = (snr * s**2 + 1) / (snr * s**2 / k + 1)
        expected = torch.lerp(x / alpha, denoised, r)
        found = scale_epsilon(x, denoised, scale, sigma=sigma, space=space)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_snr_runs_from_one_to_one_over_k():
    scales = snr_schedule((1e6, 1.0, 1e-6, 0.0), k=0.8)
    assert scales[0] == pytest.approx(1) and scales[-1] == pytest.approx(1 / 0.8)
    assert snr_schedule((0.0, 1.0), k=0.8) == (1 / 0.8,)  # an inverted run starts in the clean image


@pytest.mark.parametrize(("k", "s"), [(0, 1), (math.nan, 1), (1, -1), (1, math.inf)])
def test_snr_refuses_values_without_meaning(k, s):
    with pytest.raises(SettingsError, match="finite number above 0"):
        snr_schedule(VE, k, s)


@pytest.mark.parametrize(("space", "form"), [("ve", "ve"), ("flow", "velocity")])
@pytest.mark.parametrize("lam", [0.005, 0.04, -0.1, 0.0])
def test_dcw_is_its_own_update_after_each_euler_step(space, form, lam, latents):
    sigmas, denoise = SIGMAS[space], gaussian_denoiser(0.4, 0.7, space)
    ours = theirs = latents((2, 5)) * sigmas[0]
    steps = zip(dcw_schedule(sigmas, lam), sigmas, sigmas[1:], strict=False)
    for scale, sigma, sigma_next in steps:
        at = torch.tensor([sigma]).double()
        clean = denoise(theirs, at)
        theirs = theirs + derivative(theirs, clean, sigma) * (sigma_next - sigma)
        if sigma_next:
            theirs = theirs + lam * (theirs - clean)
        scaled = scale_epsilon(ours, denoise(ours, at), scale, sigma=sigma, space=form)
        ours = ours + derivative(ours, scaled, sigma) * (sigma_next - sigma)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_dcw_leaves_the_last_step_alone_and_refuses_steps_too_short():
    assert dcw_schedule((1.0, 0.7, 0.0), 0.005) == (pytest.approx(0.3 / (0.3 - 0.0035)), 1.0)
    with pytest.raises(SettingsError, match="step 2 from sigma 0.9 to 0.899 .* below 0.00111"):
        dcw_schedule((1.0, 0.9, 0.899, 0.0), 0.005)
    with pytest.raises(SettingsError, match="step 1"):
        dcw_schedule((1.0, 1.0, 0.0), 0.005)
    with pytest.raises(SettingsError, match="finite"):
        dcw_schedule(VE, math.nan)


def made(values=(1.3, 1.2, 1.1, 1.0, 0.9, 0.8), mode="table", **facts):
    return Schedule(mode, values, MadeFor(**facts))


def test_without_sigmas_the_length_decides():
    assert made().resolve(VE) == made().values
    with pytest.raises(SettingsError, match="6 steps, the run has 2; make the schedule for 2 steps"):
        made().resolve((1.0, 0.5, 0.0))


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("last", range(1, 7))
def test_a_part_of_the_run_finds_its_part_of_the_schedule(first, last):
    if first < last:
        schedule = made(sigmas=VE)
        assert schedule.resolve(VE[first : last + 1]) == schedule.values[first:last]


def test_parts_are_found_in_float32_and_with_the_final_sigma_replaced():
    schedule = made(sigmas=VE)
    rounded = torch.tensor(VE[1:6]).tolist()
    assert rounded[:-1] != list(VE[1:5])
    assert schedule.resolve(rounded) == schedule.values[1:5]
    assert schedule.resolve((*VE[1:4], 0.0)) == schedule.values[1:4]


def line(sigma, space="ve"):
    """A λ that is a straight line along the logarithm of the noise-to-signal ratio."""
    return 1 + 0.01 * math.log(sigma / (1 - sigma if space == "flow" else 1))


@pytest.mark.parametrize("space", SPACES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_run_over_other_levels_reads_its_scales_off(space, data):
    """Whatever its number of steps: exact where λ is a line, constant outside the levels that are known."""
    own = [sigma for sigma in SIGMAS[space] if 0 < sigma and (space == "ve" or sigma < 1)]
    schedule = made(tuple(line(sigma, space) for sigma in own), sigmas=(*own, 0.0))
    levels = st.lists(st.floats(0.01, 0.99 if space == "flow" else 20.0), min_size=1, max_size=9, unique=True)
    starts = sorted(data.draw(levels), reverse=True)
    expected = [line(min(max(sigma, own[-1]), own[0]), space) for sigma in starts]
    assert schedule.resolve((*starts, 0.0), space) == pytest.approx(expected, abs=1e-6)


def test_half_a_run_of_the_same_number_of_steps_is_not_laid_over_by_index():
    """KSampler, 6 steps at denoise .5: the lower half of 12 steps, between the levels the schedule knows."""
    half, schedule = (2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.0), made(sigmas=VE)
    found = schedule.resolve(half)
    share = math.log(2.0) / math.log(3.0)
    assert found[:2] == pytest.approx((1.0 + 0.1 * share, 1.0))  # by index 1.3 and 1.2


def test_what_holds_in_pure_noise_is_not_mixed_into_flows_other_levels():
    """λ at sigma 1 has no effect on eps, and is 1 after a calibration for want of one."""
    schedule = made((1.0, 1.04, 1.02), sigmas=(1.0, 0.9, 0.5, 0.0))
    assert schedule.resolve((1.0, 0.97, 0.9, 0.5, 0.3, 0.0), "flow") == (1.0, 1.04, 1.04, 1.02, 1.02)
    assert schedule.resolve((14.6, 0.9, 0.0), "flow") == (1.0, 1.04)  # a schedule of another kind of model


def test_schedules_that_climb_or_repeat_levels_are_read_by_level():
    schedule = made((0.9, 1.0, 1.1, 1.1), sigmas=(0.0, 1.0, 4.0, 4.0, 9.0))
    assert schedule.resolve((5.0, 4.0, 2.0, 0.0, 0.0)) == pytest.approx((1.1, 1.1, 1.05, 0.9))


def test_another_run_is_named_and_so_is_what_its_levels_leave_open():
    schedule, other = made(sigmas=VE), tuple(2 * sigma for sigma in VE)
    assert schedule.differences(sigmas=VE[2:]) == []
    known = "sigmas 29.2 to 0 in 6 steps, made for 14.6 to 0 in 6 steps"
    assert schedule.differences(sigmas=other) == [
        f"{known}; above 14.6 it knows no scale and its nearest holds"
    ]
    [found] = schedule.differences(sigmas=(20.0, 0.01, 0.0))
    assert found.endswith("; above 14.6 and below 0.03 it knows no scale and its nearest holds")
    assert schedule.differences(sigmas=(9.0, 0.7, 0.0)) == [
        "sigmas 9 to 0 in 2 steps, made for 14.6 to 0 in 6 steps"
    ]


def test_levels_between_equal_ends_are_named_where_they_part():
    schedule, other = made(sigmas=VE), (VE[0], VE[1], 1.5 * VE[2], *VE[3:])
    assert schedule.differences(sigmas=other) == [
        f"sigmas of step 3 {1.5 * VE[2]:.4g}, made for {VE[2]:.4g}, between the same ends"
    ]


def test_differences_are_named_and_unknowns_are_not():
    schedule = made(sampler="euler", scheduler="karras", cfg=7.0, model="SDXL")
    assert schedule.differences(sampler="euler", scheduler=None, cfg=7, model="SDXL", steps=30) == []
    found = schedule.differences(sampler="heun", cfg=4.0)
    assert found == ["sampler heun, made for euler", "cfg 4.0, made for 7.0"]


scales = st.lists(st.floats(0.5, 1.5), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(
    mode=st.sampled_from(SCHEDULE_MODES), values=scales, cfg=st.none() | st.floats(0, 30), known=st.booleans()
)
def test_json_there_and_back(mode, values, cfg, known):
    sigmas = tuple(range(len(values), -1, -1)) if known else None
    schedule = Schedule(mode, tuple(values), MadeFor(sampler="euler", cfg=cfg, sigmas=sigmas))
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert Schedule.from_json(json.loads(schedule.to_json())) == schedule


def test_json_has_the_fields_others_rely_on():
    data = json.loads(made(values=(1.5,), sampler="euler", sigmas=(2, 0)).to_json())
    assert data == {
        "format": "steadydiff.schedule",
        "version": 1,
        "mode": "table",
        "values": [1.5],
        "made_for": {"sampler": "euler", "sigmas": [2.0, 0.0]},
    }
    assert Schedule.from_json({**data, "made_for": {"moon": "full"}}).made_for == MadeFor()
    assert Schedule.from_json({**data, "made_for": None}).made_for == MadeFor()


GOOD = {"format": "steadydiff.schedule", "version": 1, "mode": "table", "values": [1.0], "made_for": {}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "got format 'other'"),
        ({"version": 2}, "version 2"),
        ({"mode": "wave"}, "got 'wave'"),
        ({"mode": None}, "got 'None'"),
        ({"values": "1.0"}, "are a list"),
        ({"values": []}, "got none"),
        ({"values": [1.0, math.nan]}, "step 2"),
        ({"values": [0]}, "step 1"),
        ({"values": [True]}, "step 1"),
        ({"values": ["1"]}, "step 1"),
        ({"values": [10**400]}, "step 1"),
        ({"made_for": [1]}, "an object"),
        ({"made_for": {"sigmas": [1.0]}}, "belongs to 2 sigmas"),
        ({"made_for": {"sigmas": [1.0, -1.0]}}, "none negative"),
        ({"made_for": {"sigmas": 3}}, "none negative"),
    ],
)
def test_json_that_is_no_schedule_is_refused(change, message):
    with pytest.raises(SettingsError, match=message):
        Schedule.from_json({**GOOD, **change})
    with pytest.raises(SettingsError, match=message):
        Schedule.from_json(json.dumps({**GOOD, **change}))


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, "null"])
def test_text_that_is_no_schedule_is_refused(text):
    with pytest.raises(SettingsError, match="a schedule is"):
        Schedule.from_json(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,005; 1,004", "write decimal points"),
        ("1,1; 1,2", "write decimal points"),
        ("1_0", "not a number"),
        ("1.005 9", "from 0.5 to 1.5; got 9"),
        ("1e-30", "from 0.5 to 1.5"),
        ("1e300", "from 0.5 to 1.5"),
        ("1,005 1,004", "from 0.5 to 1.5; got 5"),
    ],
)
def test_a_table_that_could_mean_something_else_is_refused(text, said):
    with pytest.raises(SettingsError, match=said):
        read_table(text)


@pytest.mark.parametrize("text", ["1.005;1.004", "1.005,1.004", "1.005, 1.004\n1.003", ".9 1"])
def test_every_other_separator_is_read(text):
    assert all(0.9 <= value <= 1.005 for value in read_table(text).values)


@pytest.mark.parametrize(("mode", "value"), [("table", 9.0), ("dcw", 1e300), ("snr", 1e-30)])
def test_a_schedule_file_out_of_range_is_refused(mode, value):
    text = Schedule(mode, (1.0,)).to_json().replace("1.0", repr(value))
    with pytest.raises(SettingsError, match="the scale of step 1 is a number from"):
        Schedule.from_json(text)
