"""What MDSS costs in sampling and in training, beside what it is added to; cells of `run.py bench mdss`."""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from steadydiff.denoiser import Space
from steadydiff.files.mdss import Head, MdssCard
from steadydiff.hosts.comfy.mdss import LoadedHead, attach_mdss
from steadydiff.hosts.patch import states_of
from steadydiff.networks.xi_head import TwoHeads, last_layer
from steadydiff.tinyworld.finetune import load_base
from steadydiff.training.mdss import PLAN, MdssLoss, MdssRecipe, train_mdss, variant_for
from tools.bench import epsilon_scaling as timing
from tools.bench.antibias import flops
from tools.bench.shared.frame import Figures
from tools.launch.inprocess import PACK, load_pack, prepare_host


def in_sampling(quick: bool) -> Figures:
    """What the second output adds to a guided call: operations beside an SD1.5-sized one, and its own time.

    The time is that of a call through the node's stand-in on a small network, less that of one without.
    """
    prepare_host(cpu=not torch.cuda.is_available())
    counted: list[float] = []
    timing.inside_runs(_pair(timing.SD15), lambda *calls: counted.extend(map(flops, calls)))
    taken: list[list[float]] = []
    rounds = 20 if quick else 300
    timing.inside_runs(_pair(timing.TINY), lambda *calls: taken.extend(timing.time_in_turn(calls, rounds)))
    bare, ours = (statistics.median(column) for column in zip(*taken, strict=True))
    return {
        "guided_call_gflop": counted[0] / 1e9,
        "more_operations_percent": 100 * (counted[1] / counted[0] - 1),
        "own_ms": ours - bare,
    }


def _pair(config: dict) -> list:
    """A model of random weights, and a clone of it with a second head."""
    model = timing.make_model("EPS", config)
    return [model, with_head(model)]


def with_head(model: Any) -> Any:
    """A clone with a second head that answers almost nothing."""
    load_pack()
    layer = last_layer(model.model.diffusion_model)
    assert layer is not None
    weight = layer.get_parameter("weight")
    head = Head(torch.full(weight.shape, 1e-6), torch.zeros(len(weight)))
    host = sys.modules[f"{PACK}.nodes.shared.host"].HOST
    return attach_mdss(model, LoadedHead(head, MdssCard(form="lora", space=space_of(model)), "random"), host)


def space_of(model: Any) -> Space:
    """How the model builds its states."""
    return states_of(model.get_model_object("model_sampling")).space


class Always(MdssLoss):
    """With errors in all samples, the most that a step can cost."""

    def ratio(self) -> float:
        return 1.0


def in_training(variant: str, work: Path, batch: int, steps: int) -> Figures:
    """A whole step beside two forward passes and one backward pass over as many samples, taken in turn.

    A step also draws samples, rolls errors out, clips, and moves weights and their average. The memory is
    what the passes keep for the backward pass.
    """
    base = load_base(f"tinyworld:{variant}", work, torch.device("cpu"))
    model, recipe = TwoHeads(base.network), MdssRecipe(variant_for(base.space), batch=batch)
    x, tokens = base.draw(batch, torch.Generator().manual_seed(0))
    at = torch.linspace(1, len(base.sigmas) - 1, batch).long()
    taken: list[tuple[float, float]] = []

    def unavoidable() -> Tensor:
        with torch.no_grad():
            base.evaluate(model, x, at, tokens)
        return base.evaluate(model, x, at, tokens)[0].square().mean()

    begun = time.perf_counter()

    def on_step(step: int, loss: float) -> None:
        nonlocal begun
        ended = time.perf_counter()
        unavoidable().backward()
        taken.append((ended - begun, time.perf_counter() - ended))
        begun = time.perf_counter()

    with tempfile.TemporaryDirectory() as scratch:
        train_mdss(model, base, recipe, replace(PLAN, steps=steps), Path(scratch, "state"), on_step, Always)
    whole, bare = (statistics.median(column) for column in zip(*taken[2:], strict=True))  # the first warm up
    loss = Always(model, base, recipe, steps)
    ours = kept(lambda: loss(torch.Generator().manual_seed(0), 0)["loss"])
    return {
        "step_ms": 1000 * whole,
        "ratio": whole / bare,
        "kept_mib": ours / 2**20,
        "kept_ratio": ours / kept(unavoidable),
    }


def kept(loss: Callable[[], Tensor]) -> int:
    """Bytes that a loss keeps for its backward pass; weights, which are there anyway, are among them."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        prediction = loss()
    del prediction  # until here all of it lives, so no address stands for two
    return sum(storages.values())
