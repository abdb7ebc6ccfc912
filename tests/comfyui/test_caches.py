"""EasyCache and LazyCache on a model that is measured: it is measured as if they were not there."""

import json

import pytest
import torch

from tools.launch.inprocess import load

THRESHOLD = 1e9  # so high that a cache answers every call it may


@pytest.fixture(params=["EasyCacheNode", "LazyCacheNode"])
def cached(request, model):
    node = getattr(load("comfy_extras.nodes_easycache"), request.param)
    return node.execute(model, THRESHOLD, 0.0, 1.0, False)[0]


@pytest.fixture
def run(pack, host, conds, sigmas_of):
    """Run one of the measuring nodes; returns its outputs."""

    def run(node, model, sigmas=True, **widgets):
        inputs = {"model": model, "sampler": host.samplers.sampler_object("euler"), **widgets}
        inputs |= {name: conds[name] for name in ("positive", "negative")}
        if sigmas:
            inputs |= {"sigmas": sigmas_of(model, 6), "latent_image": {"samples": torch.zeros(1, 4, 8, 8)}}
            inputs |= {"cfg": 2.0, "seed": 5, "count": 2, "batch_size": 2}
        return pack[f"SteadyDiff{node}"].execute(**inputs).args

    return run


def test_measuring_and_calibrating_go_by_the_network(cached, model, run):
    bare, found = (run("Measure", one, refine=2) for one in (model, cached))
    assert found[2] == bare[2] and torch.equal(found[3]["samples"], bare[3]["samples"])
    for method in ("norm", "variance"):
        wanted, made = (
            run("Calibrate", one, sigmas=False, measurement=bare[2], method=method, count=2)[2]
            for one in (model, cached)
        )
        assert made == wanted


def test_the_report_goes_by_the_network(cached, model, pack, run):
    def corrected(model):
        return pack["SteadyDiffDiffIER"].execute(model=model, **widgets)[0]

    widgets = {"mode": "renoise", "strength": 0.5, "iterations": 1, "antithetic": False, "threshold": 0.0}
    widgets |= {"divide_by_cfg": True, "start_percent": 0.0, "end_percent": 1.0, "values": "own"}
    bare, found = (json.loads(run("DiffIERReport", corrected(one))[1]) for one in (model, cached))
    assert found == bare


def test_sampling_keeps_its_cache(cached, model, run, sample):
    before, options = sample(cached, steps=8), str(cached.model_options)
    run("Measure", cached, refine=1)
    assert str(cached.model_options) == options and torch.equal(sample(cached, steps=8), before)
    assert not torch.equal(before, sample(model, steps=8))
