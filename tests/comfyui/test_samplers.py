"""Every sampler the host knows: off is off, and on is Epsilon Scaling."""

import torch

SCALE = 1.01


def test_neutral_settings_change_no_bit_and_others_scale_each_estimate(
    sampler, model, patched, reference, sample, distance
):
    plain = sample(model, sampler)
    assert torch.equal(sample(patched(model, scale=1.0), sampler), plain)
    assert torch.equal(sample(patched(model, start_percent=0.3, end_percent=0.3), sampler), plain)

    expected = sample(reference(model, SCALE), sampler)
    assert distance(sample(patched(model, scale=SCALE), sampler), expected) < 1e-5
    assert distance(plain, expected) > 1e-3  # so the line above could have failed


def test_equals_the_hosts_own_node_on_ve_models(sampler, models, host, patched, sample, distance):
    core = sample(host.eps.EpsilonScaling.execute(models["epsilon"], SCALE)[0], sampler)
    ours = sample(patched(models["epsilon"], scale=SCALE), sampler)
    # The host's node scales half of what CFG++ samplers use; test_cfg_pp.py says what is right there.
    assert (distance(ours, core) < 1e-5) != sampler.endswith("cfg_pp")
