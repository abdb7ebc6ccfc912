"""The trained methods on the digits, each beside what the same training is worth without it: anti-bias
prompt networks, and MDSS beside plain fine-tuning and the free Time Shift. `run.py bench digits_trained`.

Everything is trained anew for each seed, from the one network of `run.py bench digits`, on the pictures it
was trained on, STEPS steps of BATCH. "trained on" is the network's own training gone on with for as many
steps, "as long" for as many seconds as an anti-bias network takes, whose convolutions cost far more a step.
Samples and distances are those of `run.py bench digits`, without guidance. "auto" is DiffIER with the
strength that a measurement of 64 samples against 64 reference pictures gives.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from steadydiff.methods.antibias_prompt import AntiBiasPrompt, PromptModel
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.mdss import MDSS
from steadydiff.methods.method import Method
from steadydiff.methods.time_shift import TimeShift
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from steadydiff.networks.xi_head import TwoHeads
from steadydiff.tinyworld.photos.sampling import alphas_cumprod, sigmas
from steadydiff.training.antibias import (
    FEWEST,
    MOST,
    AntiBiasBase,
    AntiBiasRecipe,
    StepPairs,
    measure_bands,
    train_prompt,
)
from steadydiff.training.loop import Plan
from steadydiff.training.mdss import MdssBase, MdssLoss, MdssRecipe, train_mdss
from tools.bench import digits
from tools.bench.mdss import Plain
from tools.bench.shared import digits_world as world
from tools.bench.shared.frame import Bench, Figures
from tools.bench.shared.strength import measured_strength
from tools.bench.shared.two_outputs import Recorded
from tools.launch.console import exit_with

STEPS, LONG, BATCH = 1000, 36_000, 256
FINE = Plan(steps=STEPS, lr=1e-3, warmup=50, decay=0.5, betas=(0.9, 0.999), weight_decay=0.0, ema=0.998)
"""One plan for all; the rate at which more plain training helped the network most, of 1e-4, 3e-4 and 1e-3."""
PLAIN = ("trained on", "as long")
TRAINED_K = {"SDSS": 0, "MDSS k 4": 4, "MDSS k 20": 20}
SHIFTS = (5, 21)  # k + 1, what MDSS of k = 4 and 20 teaches
SAMPLERS, RUNS = ("ddpm", "ddim"), (10, 20, 50)
LEVELS = ((1 - alphas_cumprod()) / alphas_cumprod()).sqrt().float()
MEASURED = 64


class LikeUNet(nn.Module):
    """The digits' network, its last layer a convolution where `TwoHeads` looks for it; the same function."""

    def __init__(self, net: world.Network) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        values, width = net.out.weight.shape
        last = nn.Conv2d(width, values, 1)
        last.load_state_dict({"weight": net.out.weight[..., None, None], "bias": net.out.bias})
        self.out = nn.Sequential(nn.Identity(), nn.Unflatten(1, (width, 1, 1)), last)
        del self.net.out

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.out(self.net.hidden(x, t, label)).view(x.shape)


def drawn(index: Tensor, split: world.Split, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures and labels, some of them left out as when the network was trained."""
    left_out = torch.rand(len(index), generator=rng) < world.DROPPED
    return split.pictures[index], torch.where(left_out, world.NONE, split.labels[index])


def training_draw(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    split = digits.parts()["training"]
    return drawn(torch.randint(len(split.labels), (n,), generator=rng), split, rng)


def file_of(name: str, seed: int) -> Path:
    return world.work_folder() / "trained" / f"{name.replace(' ', '_')}_{seed}.safetensors"


def plan_of(name: str, seed: int) -> Plan:
    return replace(FINE, seed=seed, steps=LONG if name == "as long" else STEPS)


# --- what is trained --------------------------------------------------------------------------------------


@cache
def fine_tuned(name: str, seed: int) -> TwoHeads:
    """The network trained on plainly, or by MDSS with its second output."""
    k = TRAINED_K.get(name)
    base = MdssBase(
        "digits", LikeUNet(digits.networks()[0]).train(), "ve", "eps", LEVELS, training_draw, evaluate
    )
    loss: type[MdssLoss] = Plain if k is None else MdssLoss
    heads, recipe = TwoHeads(base.network, xi=k is not None), MdssRecipe(k=k or 0, batch=BATCH)
    with torch.enable_grad():
        return train_mdss(heads, base, recipe, plan_of(name, seed), file_of(name, seed), loss=loss)


def evaluate(model: TwoHeads, seen: Tensor, at: Tensor, label: Tensor) -> tuple[Tensor, Tensor | None]:
    prediction, xi = model(seen, at, label)
    return prediction, None if xi is None else xi.view(seen.shape)


@cache
def prompts(seed: int) -> tuple[PromptModel, Figures]:
    """An anti-bias network of the frozen network, and the share of one step's bias it explains, by band."""
    net, real = digits.networks()[0], digits.parts()["references"]
    base = AntiBiasBase(
        "ve",
        tuple(sigmas("epsilon", steps) for steps in range(FEWEST, MOST + 1)),
        training_draw,
        lambda x, sigma, label: world.denoise_with(net, label, 1.0)(x, sigma),
        held_out=(len(real.labels), lambda index, rng: drawn(torch.as_tensor(index), real, rng)),
    )
    torch.manual_seed(seed)
    recipe = AntiBiasRecipe(batch=BATCH)
    network = PromptNetwork(PromptConfig(1, 16, (2, 2), blocks=2, attention_levels=()))
    with torch.enable_grad():
        network = train_prompt(network, base, recipe, plan_of("anti-bias", seed), file_of("anti-bias", seed))
    bands = measure_bands(network, base, recipe, seed)
    model = PromptModel(
        network,
        recipe.target,
        "ve",
        sigma_range=StepPairs.of(base.schedules).sigma_range,
        bands=bands,
    )
    figures: Figures = {"parameters": sum(weight.numel() for weight in network.parameters())}
    return model, figures | {f"sigma {band.sigma:.3g}": band.applied for band in bands}


def training(name: str, seed: int) -> Figures:
    begun = time.perf_counter()
    figures = prompts(seed)[1] if name == "anti-bias" else {}
    if name != "anti-bias":
        fine_tuned(name, seed)
    return {"seconds": round(time.perf_counter() - begun, 1), **figures}


# --- what is sampled --------------------------------------------------------------------------------------


Setting = tuple[world.Predict | None, tuple[Method, ...]]


def anti_bias(seed: int) -> Setting:
    return None, (AntiBiasPrompt(prompts(seed)[0]),)


def trained(name: str, seed: int, head: bool = False, shift: int = 0) -> Setting:
    net = Recorded(partial(evaluate, fine_tuned(name, seed)), LEVELS, TRAINED_K.get(name, 0))
    methods: tuple[Method, ...] = ()
    if head:
        methods += (MDSS(net.model),)
    if shift:
        methods += (TimeShift(1.0, levels=shift, table=tuple(LEVELS.tolist())),)
    return net, methods


SETTINGS: dict[str, Callable[[int], Setting]] = {
    "plain": lambda seed: (None, ()),
    **{name: partial(trained, name) for name in PLAIN},
    "anti-bias": anti_bias,
    **{f"trained on, {k} levels lower": partial(trained, "trained on", shift=k) for k in SHIFTS},
    **{name: partial(trained, name) for name in TRAINED_K},
    **{f"{name}, head": partial(trained, name, head=True) for name in TRAINED_K},
}


def cell(sampler: str, steps: int, label: str, seed: int) -> Figures:
    net, methods = SETTINGS[label](seed)
    return digits.judged(digits.samples(sampler, 1.0, methods, digits.run_of(steps, seed), net=net))


@torch.no_grad()
def auto(sampler: str, seed: int) -> Figures:
    """DiffIER with the strength that a measurement gives, 20 steps and 30 calls."""
    run, real, net = digits.run_of(20, 1000 + seed), digits.parts()["references"], digits.networks()[0]
    chosen = torch.randperm(len(real.labels), generator=torch.Generator().manual_seed(seed))[:MEASURED]
    denoise = world.denoise_with(net, digits.labels(MEASURED), 1.0)
    judge, clean = world.denoise_with(net, real.labels[chosen], 1.0), real.pictures[chosen]
    x = digits.first_states(run, MEASURED)
    strength = measured_strength(digits.SAMPLERS[sampler], denoise, x, run, clean, judge)
    drawn = digits.samples(sampler, 1.0, (DiffIER(strength=strength),), digits.run_of(20, seed))
    return digits.judged(drawn) | {"strength": strength}


QUICK = ("ddpm 20 plain 0", "ddim 20 plain 0")


def main(arguments: list[str]) -> int:
    facts = {"count": digits.COUNT, "recipe": world.RECIPE, "steps": STEPS, "batch": BATCH, "lr": FINE.lr}
    bench = Bench("digits_trained", facts, arguments)
    bench.cell("floor", lambda: {**digits.floor()})
    for seed in digits.SEEDS:
        for name in (*PLAIN, "anti-bias", *TRAINED_K):
            bench.cell(f"train {name} {seed}", partial(training, name, seed), quick=False)
        for sampler in SAMPLERS:
            for steps in RUNS:
                for label in SETTINGS:
                    key = f"{sampler} {steps} {label} {seed}"
                    bench.cell(key, partial(cell, sampler, steps, label, seed), quick=key in QUICK)
        for sampler in digits.SAMPLERS:
            key = f"{sampler} 20 plain {seed}"
            if sampler not in SAMPLERS:
                bench.cell(key, partial(cell, sampler, 20, "plain", seed), quick=False)
            bench.cell(f"{sampler} 20 auto {seed}", partial(auto, sampler, seed), quick=False)
    return bench.run()


if __name__ == "__main__":
    exit_with(main)
