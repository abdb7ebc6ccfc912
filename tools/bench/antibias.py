"""The anti-bias prompt on the tiny world, beside the same training compute spent on the base model itself.

Trains what is not trained yet (under output/antibias/bench/; after Ctrl+C the same command goes on):
the default recipe with three seeds, other targets, losses and weights for fewer steps, and the base model on
its own loss for as many floating point operations as one of the long trainings takes. Prompts, noise and
judges are those of `run.py bench drift`, see tools/bench/shared/world.py; at 10 and 20 Euler steps each
of its three parts is sampled with the network of another training seed, so that the spread is that of
both. Elsewhere the first part has to do, as it does for the short trainings, which are compared on epsilon.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from steadydiff.files.antibias import load_prompt
from steadydiff.methods.antibias_prompt import AntiBiasPrompt
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from steadydiff.tinyworld import files
from steadydiff.tinyworld import train as tinyworld
from steadydiff.training.antibias import AntiBiasRecipe
from tools.bench import epsilon_scaling as timing
from tools.bench.shared import world
from tools.bench.shared.frame import Bench, Figures
from tools.bench.shared.world import Condition, Correct, Way
from tools.launch.inprocess import prepare_host
from tools.train import antibias as train_antibias

WORK = Path("output/antibias/bench")
STEPS, FEWER_STEPS = 2000, 500
CHANNELS = 16  # of the paper's "small" network: the default would cost more than its base
RECIPES = {  # name -> further arguments of `run.py train antibias`
    "default": [],
    "phi": ["--target", "phi"],
    "l1": ["--loss", "l1"],
    "contrastive": ["--loss", "contrastive"],
    "uncapped": ["--snr-cap", "inf"],
}
WHOLE = (("euler", 10), ("euler", 20))  # with all three parts; the others with the first alone
CONDITIONS = (("euler", 10), ("euler", 20), ("euler", 35), ("heun", 20), ("dpmpp_2m", 20))


# --- trainings --------------------------------------------------------------------------------------------


@cache
def trained(variant: str, recipe: str, steps: int, seed: int) -> Path:
    """The file of one training, made if it is missing."""
    file = WORK / f"{variant}-{recipe}-{steps}-{seed}.safetensors"
    if not file.is_file():
        options = ["--base", f"tinyworld:{variant}", "--out", str(file), "--work", str(WORK / "state")]
        options += ["--channels", str(CHANNELS), "--steps", str(steps), "--seed", str(seed), *RECIPES[recipe]]
        if code := train_antibias.main(options):
            raise KeyboardInterrupt if code == 130 else SystemExit(code)
    return file


@cache
def longer(variant: str) -> Path:
    """A folder with the base model after as much more training as a default one takes; made if missing."""
    folder = WORK / "control"
    if not (folder / f"{variant}.safetensors").is_file():
        steps = files.header(variant)["steps"] + control_steps()
        tinyworld.train_diffusion(variant, WORK / "state", shipped=True, steps=steps)
        tinyworld.export_diffusion(variant, WORK / "state", folder)
    return folder


@cache
def control_steps() -> int:
    """Training steps of the base model that take as many operations as STEPS of the network's.

    The frozen base is asked once per sample; what is trained runs forward once and backward for two.
    """
    base, network = flops_of_base(), flops_of_network()
    one, other = AntiBiasRecipe.batch * (base + 3 * network), tinyworld.BATCH["diffusion"] * 3 * base
    return round(STEPS * one / other)


def flops_of_base() -> float:
    base, inputs = tinyworld.Diffusion(), (torch.zeros(1, 4, 8, 8), torch.zeros(1), tinyworld.tokenize([""]))
    return flops(lambda: base(*inputs))


def flops_of_network() -> float:
    network = PromptNetwork(small_network())
    return flops(lambda: network(torch.zeros(1, 4, 8, 8)))


def small_network() -> PromptConfig:
    """The one that is trained here, on the tiny world."""
    defaults = train_antibias.parser().parse_args(["--base", "", "--out", ""])
    mult = train_antibias.numbers(defaults.mult)
    return PromptConfig.for_latents(train_antibias.LATENTS, CHANNELS, mult, blocks=defaults.blocks)


@torch.no_grad()
def flops(call: Callable[[], object]) -> float:
    """Floating point operations of one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


# --- cells ------------------------------------------------------------------------------------------------


def corrected(file: Path) -> Correct:
    network, card = load_prompt(file)
    return AntiBiasPrompt(card.model(network)).wrap


def judged(bench: Bench, way: Callable[[Condition, int], Way], condition: Condition, part: int) -> Figures:
    """Figures of one part; a quick run takes 32 samples."""
    return world.figures(way(condition, part), part, 32 if bench.quick else world.PARTS[part])


def plain(condition: Condition, part: int) -> Way:
    # the name `run.py bench drift` keeps it by
    return Way(condition, "uniform 1.0", world.plain)


def control(condition: Condition, part: int) -> Way:
    folder = longer(condition.variant)
    own = world.digest_of(folder / f"{condition.variant}.safetensors")
    return plain(condition, part)._replace(name=f"uniform 1.0 {own}", guide=world.guide_of(folder))


def antibias(recipe: str, steps: int, condition: Condition, part: int) -> Way:
    """With the network of the training whose seed is the part's number."""
    file = trained(condition.variant, recipe, steps, part)
    return Way(condition, f"antibias {recipe} {steps} {part} {world.digest_of(file)}", corrected(file))


def cost() -> Figures:
    """What the paper's network for 64x64 adds to a guided call of an SD1.5-sized model."""
    network = PromptNetwork(PromptConfig.for_latents((4, 64, 64), 32))
    x = torch.zeros(1, 4, 64, 64)
    guided: list[float] = []
    model = timing.make_model("EPS", timing.SD15)
    timing.inside_runs([model], lambda call: guided.append(flops(call)))
    own = flops(lambda: network(x))
    begun = time.perf_counter()
    with torch.no_grad():
        network(x)
    weights = sum(weight.numel() for weight in network.parameters())
    return {
        "network_gflop": own / 1e9,
        "guided_call_gflop": guided[0] / 1e9,
        "percent": 100 * own / guided[0],
        "network_ms": 1000 * (time.perf_counter() - begun),
        "network_mib_fp32": 4 * weights / 2**20,
    }


def main() -> int:
    prepare_host(cpu=not torch.cuda.is_available())
    facts = {
        "weights": world.weights(),
        "judges": world.judges(),
        "parts": world.PARTS,
        "steps": STEPS,
        "fewer_steps": FEWER_STEPS,
        "control_steps": control_steps(),
    }
    bench = Bench("antibias", facts)
    bench.cell("cost", cost, quick=False)
    for part, n in enumerate(world.PARTS):
        bench.cell(f"real drawings {part}", partial(world.drawings, part, n), quick=False)
    ways = {"plain": plain, "default": partial(antibias, "default", STEPS), "control": control}
    short = {f"{recipe} short": partial(antibias, recipe, FEWER_STEPS) for recipe in RECIPES}
    for variant in files.VARIANTS:
        for sampler, steps in CONDITIONS:
            condition = Condition(variant, sampler, steps, 1.0)
            parts = range(len(world.PARTS) if (sampler, steps) in WHOLE else 1)
            here = list(product(ways.items(), parts))
            if (variant, sampler, steps) == ("epsilon", "euler", 20):
                here += product(short.items(), (0,))
            for (name, way), part in here:
                quick = name == "plain" and part == 0 and (sampler, steps) == ("euler", 10)
                cell = partial(judged, bench, way, condition, part)
                bench.cell(f"{condition} {name} {part}", cell, quick)
    return bench.run(summary)


def summary(cells: dict[str, Figures]) -> Figures:
    """The goal: mean Fréchet distances with the default recipe over those without it and of the control."""
    figures: Figures = {}

    def mean(condition: Condition, name: str, space: str) -> float | None:
        keys = [f"{condition} {name} {part}" for part in range(len(world.PARTS))]
        if any(key not in cells for key in keys):
            return None
        return statistics.mean(float(cells[key][f"frechet_{space}"] or 0) for key in keys)

    for variant in files.VARIANTS:
        for steps in (10, 20):
            condition = Condition(variant, "euler", steps, 1.0)
            for space in ("reader", "clip"):
                ours = mean(condition, "default", space)
                for other in ("plain", "control"):
                    theirs = mean(condition, other, space)
                    if ours is not None and theirs is not None:
                        figures[f"{variant} {steps} steps, {space}, default / {other}"] = ours / theirs
    return figures


if __name__ == "__main__":
    sys.exit(main())
