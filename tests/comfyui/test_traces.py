"""What is patched stays apart: no run, cancelled, failed or finished, changes another."""

import copy
import gc
import weakref

import pytest
import torch


def state(model):
    """Everything of a patcher that a patch could have changed."""
    kinds = ("model_options", "wrappers", "callbacks", "attachments", "additional_models", "object_patches")
    return {kind: copy.copy(getattr(model, kind)) for kind in kinds}


def test_patched_unpatched_patched(model, patched, sample):
    before = state(model)
    plain, ours = sample(model), patched(model, scale=1.02)
    first = sample(ours)
    assert not torch.equal(first, plain)
    assert torch.equal(sample(model), plain)
    assert torch.equal(sample(ours), first)
    assert torch.equal(sample(patched(model, scale=1.02)), first)
    assert state(model) == before
    assert "steadydiff" not in ours.model_options


@pytest.mark.parametrize("failure", ["cancelled", "failed", "refused"])
def test_a_run_that_breaks_off(failure, model, host, patched, schedule, sample, sigmas_of, conds):
    ours = patched(model, schedule=schedule(mode="uniform", steps=3, scale=1.02))
    plain, expected = sample(model), sample(ours)
    guider = host.custom_sampler.CFGGuider.execute(ours, conds["positive"], conds["negative"], 3.0)[0]

    def stop(step, x0, x, total):
        if step == 1:
            raise (
                host.management.InterruptProcessingException
                if failure == "cancelled"
                else RuntimeError("full")
            )

    sigmas = sigmas_of(model, 4 if failure == "refused" else 3)
    with pytest.raises((host.management.InterruptProcessingException, RuntimeError, ValueError)):
        sample(ours, guider=lambda _: guider, callback=stop, sigmas=sigmas)
    assert "steadydiff" not in guider.model_options
    assert torch.equal(sample(model), plain)
    assert torch.equal(sample(ours), expected)
    assert torch.equal(sample(ours, guider=lambda _: guider), expected)  # the same guider, used again


def test_clones_of_clones_carry_their_own_patches(model, patched, sample, distance):
    once = patched(model, scale=1.01)
    expected = sample(once)
    twice = patched(once, scale=1.02)
    assert torch.equal(sample(once), expected)
    assert torch.equal(sample(once.clone()), expected)
    assert distance(sample(twice), sample(patched(model, scale=1.01 * 1.02))) < 1e-5
    assert torch.equal(sample(twice.clone().clone()), sample(twice))
    assert [len(twice.wrappers[kind]["steadydiff"]) for kind in ("outer_sample", "predict_noise")] == [1, 1]


def test_a_model_is_freed_with_its_last_reference(model, patched, sample):
    """Without a garbage collection, before which the host would call it a leak."""
    gc.collect()
    gc.disable()
    try:
        ours = patched(model, scale=1.02, slope=0.01)
        sample(ours, "euler_cfg_pp")
        alive = weakref.ref(ours)
        del ours
        assert alive() is None
    finally:
        gc.enable()


def test_training_is_left_alone(model, host, patched, sample, monkeypatch):
    plain, ours = sample(model), patched(model, scale=1.02)
    monkeypatch.setattr(host.management, "in_training", True)
    assert torch.equal(sample(ours), plain)


def test_a_run_says_what_was_done(models, patched, sample, caplog):
    with caplog.at_level("INFO", "steadydiff"):
        ours = patched(models["epsilon"], scale=1.002, slope=0.001, end_percent=0.6)
        sample(ours, "heun")
        sample(patched(models["epsilon"], scale=1.0))
    assert [record.getMessage() for record in caplog.records if record.name == "steadydiff"] == [
        "SteadyDiff: Epsilon Scaling attached (scale 1.002, slope 0.001, space auto, 0 to 60 % of the run)",
        "SteadyDiff: Epsilon Scaling lambda 1.003 to 1.004 at 2 of 3 steps; 5 model calls",
        "SteadyDiff: Epsilon Scaling attached (scale 1, slope 0, space auto, 0 to 100 % of the run)",
        "SteadyDiff: Epsilon Scaling left all 3 steps as they were; 3 model calls",
    ]
