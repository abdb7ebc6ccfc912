"""Nodes that keep a memory from call to call: calls that are no steps leave no trace in it."""

import json

import pytest
import torch

from tools.bench.shared import tries as matrix
from tools.launch.inprocess import defaults_of

STEPS = 6


@pytest.fixture
def diffier(pack):
    """Return a model with our node on it, acting in the whole run."""
    node = pack["SteadyDiffDiffIER"]
    given = defaults_of(node) | {"start_percent": 0.0}
    return lambda model, **widgets: node.execute(model=model, **(given | widgets))[0]


@pytest.mark.parametrize("widgets", [{}, {"iterations": 2, "antithetic": True}])
def test_a_momentum_takes_in_the_samplers_calls_alone(widgets, model, diffier, sample, distance):
    """Core's APG beside one by hand that ignores calls that are not the sampler's."""
    run = {"steps": 20, "cfg": 4.0}
    by_core = sample(diffier(matrix.apg_of_momentum(model), **widgets), **run)
    by_hand = sample(diffier(matrix.apg_by_hand(model), **widgets), **run)
    assert by_core.std() == pytest.approx(by_hand.std().item(), rel=1e-4)
    assert distance(by_core, by_hand) < 1e-4
    assert distance(by_core, sample(matrix.apg_of_momentum(model), **run)) > 0.1


class Tired:
    """Shrinks an answer the more, the more calls it has seen since the noise was last as high."""

    def __init__(self):
        self.seen, self.last = [], 0.0

    def __call__(self, args):
        if args["sigma"][0] > self.last:
            self.seen.clear()
        self.last = args["sigma"][0]
        self.seen.append(self.last)
        return args["denoised"] * 0.95 ** len(self.seen)


@pytest.fixture
def tired(model, sigmas_of):
    """Return the model with such a node, or with one that goes by the noise level instead of its memory."""
    levels = sigmas_of(model, STEPS)[:-1]

    def by_level(args):
        return args["denoised"] * 0.95 ** ((levels - args["sigma"][0]).abs().argmin().item() + 1)

    def tired(by_memory):
        clone = model.clone()
        clone.set_model_sampler_post_cfg_function(Tired() if by_memory else by_level)
        return clone

    return tired


@pytest.fixture
def called(pack, host, conds, sigmas_of, model):
    """Run one of the measuring nodes; returns its outputs."""

    def called(node, patched, sigmas=True, **widgets):
        inputs = {"model": patched, "sampler": host.samplers.sampler_object("euler"), **widgets}
        inputs |= {name: conds[name] for name in ("positive", "negative")}
        if sigmas:
            inputs |= {
                "sigmas": sigmas_of(model, STEPS),
                "latent_image": {"samples": torch.zeros(1, 4, 8, 8)},
            }
            inputs |= {"cfg": 2.0, "seed": 5, "count": 2, "batch_size": 2}
        return pack[f"SteadyDiff{node}"].execute(**inputs).args

    return called


def apg_by_level(model):
    """APG of momentum, whose average is at each noise level what it was when that level was met first."""
    average, before = None, {}

    def guide(args):
        nonlocal average
        cond, uncond = args["conds_out"]
        guidance, level = cond - uncond, round(float(args["sigma"][0]), 3)
        first = level not in before
        kept = before.setdefault(level, average)
        moved = guidance if kept is None else matrix.MOMENTUM * kept + guidance
        average = moved if first else average
        return [uncond + moved + guidance / args["cond_scale"], uncond]

    clone = model.clone()
    clone.set_model_sampler_pre_cfg_function(guide)
    return clone


def test_measuring_compares_answers_of_one_memory(model, called):
    clean = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))}
    by_level, by_core = (
        json.loads(called("Measure", put(model), refine=1, reference=clean)[2])["curves"]
        for put in (apg_by_level, matrix.apg_of_momentum)
    )
    for norms in ("sampling_norm", "training_norm"):
        assert by_core[norms] == pytest.approx(by_level[norms], rel=1e-4)


def test_calibrating_tries_each_step_with_one_memory(tired, model, called):
    measured = called("Measure", model, refine=1)[2]
    for method in ("norm", "variance"):
        given = {"measurement": measured, "method": method, "count": 2, "sigmas": False}
        by_level, by_memory = (called("Calibrate", tired(memory), **given)[2] for memory in (False, True))
        assert by_memory == by_level


def test_the_report_compares_like_with_like(tired, called, diffier):
    by_level, by_memory = (
        json.loads(called("DiffIERReport", diffier(tired(memory)))[1]) for memory in (False, True)
    )
    assert by_memory == by_level
