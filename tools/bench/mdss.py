"""MDSS on the tiny world against more plain training of equal length, and against its relatives.

Cells are of two kinds. A *training* fine-tunes a shipped model for STEPS steps: more plain training (the
control without which nothing counts), input perturbation, scheduled sampling (SS), SDSS and MDSS. The
control is sampled once more with Time Shift by k + 1 levels, which is what a target of k teaches. The other
cells sample with it, second head off and on, and judge the pictures as `run.py bench drift` does, in parts of
256: Fréchet distances of so few lie well above those of that bench. What a training leaves behind is kept
under output/mdss_bench/ with its state, so it may be stopped at any point.

`--curves` measures the mean square error per step of the thesis' figure 3.2 instead, and draws it into docs/.
"""

import itertools
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from steadydiff.denoiser import Denoise, Run, add_noise, derivative
from steadydiff.files.mdss import load_head
from steadydiff.methods.mdss import MDSS, Sample, XiModel
from steadydiff.methods.time_shift import TimeShift
from steadydiff.networks.xi_head import TwoHeads, apply_head, capture, last_layer
from steadydiff.plots import DPI, PAPER
from steadydiff.tinyworld import files, sampling
from steadydiff.tinyworld.finetune import load_base, save_finetuned
from steadydiff.tinyworld.text import tokenize
from steadydiff.training.mdss import PLAN, MdssLoss, MdssRecipe, train_mdss
from tools.bench.shared import mdss_cost, world
from tools.bench.shared.frame import Bench, Figures, options_of
from tools.bench.shared.world import Condition, Way
from tools.launch.environment import ROOT

STEPS = 1000  # a twentieth of the steps after which the thesis' curve is flat
PART, PARTS = 256, 2  # samples
WHOLE = (("euler", 10), ("euler", 20))  # with all parts; the others with the first alone
NOISED = 128  # drawings that the norms are compared with
BATCH = 32  # the tiny world's own
PERTURBATION = 0.1
SHIFTS = (5, 21)  # k + 1 training levels, of what MDSS with the posterior target is trained for
TABLE = tuple(((1 - sampling.alphas_cumprod()) / sampling.alphas_cumprod()).sqrt().tolist())
WORK = Path(os.environ.get("STEADYDIFF_MDSS_WORK", "output/mdss_bench"))
CURVE_STEPS, CURVE_SAMPLES = 50, 64
QUICK = "epsilon", "MDSS k=4"  # the training of a quick run


# --- trainings --------------------------------------------------------------------------------------------


class Plain(MdssLoss):
    """The base model's own training, gone on with."""

    def ratio(self) -> float:
        return 0.0


class Perturbed(Plain):
    """Input perturbation: more noise in the state than the model is asked for (Ning et al., 2301.11706)."""

    def noised(self, x0: Tensor, eps: Tensor, at: Tensor) -> Sample:
        more = eps + PERTURBATION * eps.roll(1, 0)  # another sample's noise, so that nothing new is drawn
        return Sample(super().noised(x0, more, at).seen, eps.clone(), torch.zeros_like(x0))


class ScheduledSampling(MdssLoss):
    """SS (Deng et al.), as the thesis has it in table 3.1: the error stays in what the model is to answer."""

    def lesson(self, x0: Tensor, eps: Tensor, at: Tensor, conditioning: Tensor) -> Sample:
        seen = super().lesson(x0, eps, at, conditioning).seen
        clean = super().noised(x0, torch.zeros_like(eps), at).seen
        sigma = self.level(at).sigma.to(seen).view(-1, 1, 1, 1)
        return Sample(seen, (seen - clean) / sigma, torch.zeros_like(x0))


@dataclass(frozen=True)
class Training:
    """How a shipped model is fine-tuned; without a second head where there is nothing for it to learn."""

    loss: type[MdssLoss]
    recipe: MdssRecipe
    xi: bool = True


def trainings(variant: str) -> dict[str, Training]:
    """All of them, the control first."""
    own, controls = MdssRecipe("flow" if variant == "flow" else "posterior", 0, BATCH), {}
    controls["plain"] = Training(Plain, own, xi=False)
    controls["perturbed 0.1"] = Training(Perturbed, own, xi=False)
    if variant == "epsilon":
        controls["SS"] = Training(ScheduledSampling, own, xi=False)
        controls["MDSS k=4 ddim"] = Training(MdssLoss, replace(own, variant="ddim", k=4))
    found = {"SDSS": 0, "MDSS k=4": 4, "MDSS k=20": 20}
    return controls | {name: Training(MdssLoss, replace(own, k=k)) for name, k in found.items()}


def file_of(variant: str, name: str, work: Path) -> Path:
    plain = "".join(letter if letter.isalnum() else "_" for letter in f"{variant}_{name}")
    return work / f"{plain}.safetensors"


@torch.enable_grad()  # also for a cell that trains what it asks without
def train(variant: str, name: str, training: Training, steps: int, work: Path) -> Figures:
    """Train, or go on with a training that was stopped, and write the file."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = load_base(f"tinyworld:{variant}", work, device)
    torch.manual_seed(PLAN.seed)
    model, losses = TwoHeads(base.network, training.xi), []
    begun, plan = time.perf_counter(), replace(PLAN, steps=steps)
    file = file_of(variant, name, work)

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)

    trained = train_mdss(
        model, base, training.recipe, plan, file.with_name(f"state_{file.name}"), on_step, training.loss
    )
    seconds = (time.perf_counter() - begun) / max(len(losses), 1)
    save_finetuned(file, trained.cpu(), base, training.recipe, {"bench": name, "steps": steps})
    tail = losses[-200:] or [float("nan")]
    return {"steps": steps, "seconds_per_step": seconds, "loss": sum(tail) / len(tail)}


# --- a trained model as the other benches know models -----------------------------------------------------


class Trained:
    """A file's model, and the second output of its latest call."""

    def __init__(self, variant: str, path: Path | None) -> None:
        self.unet, self._text = files.load_diffusion(variant)
        self.head, self.digest = None, "shipped"
        if path:
            self.digest = world.digest_of(path)
            stored, _ = files.load_checkpoint(path, kind="mdss", version=1)
            tensors = {k: v.float() for k, v in stored.items()}
            self.unet.load_state_dict(files.part(tensors, files.UNET_PREFIX))
            self.head, self.card = load_head(path)
        layer = last_layer(self.unet)
        assert layer is not None
        self._layer, self._xi = layer, None

    def guide(self, condition: Condition, prompts: list[str]) -> Denoise:
        context, uncond = sampling.embed(self._text, prompts)
        return sampling.denoiser(condition.variant, self._evaluate, context, uncond, condition.cfg)

    def correct(self, denoise: Denoise, run: Run) -> Denoise:
        """With the second output subtracted."""
        xi = XiModel(lambda x, sigma: self._xi, run.space, sigma_range=self.card.sigma_range)  # pyright: ignore[reportArgumentType]
        return MDSS(xi).wrap(denoise, run)

    def _evaluate(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        if not self.head:
            return self.unet(x, t, context)
        with capture(self._layer) as recorded:
            prediction = self.unet(x, t, context)
        self._xi = apply_head(recorded[-1], *self.head)
        return prediction


@cache
def trained(bench: Bench, variant: str, name: str, work: Path) -> Trained:
    """The model of a training, which is trained first if it has not been; "base" is the shipped one."""
    if name == "base":
        return Trained(variant, None)
    bench.figures(f"train {variant} {name}")
    file = file_of(variant, name, work)
    if not file.is_file():  # its figures are kept with the project, it is not
        train(variant, name, trainings(variant)[name], STEPS, work)
    return Trained(variant, file)


def part_of(
    bench: Bench, work: Path, condition: Condition, name: str, head: bool, part: int, levels: int = 0
) -> Figures:
    """Figures of one part; in a quick run of 32 samples. `levels`: called so many training levels lower."""
    model = trained(bench, condition.variant, name, work)
    label = f"mdss {name} {model.digest} head {head}" + (f" {levels} lower" if levels else "")
    shift = TimeShift(1.0, levels=levels, table=TABLE if levels else ())
    correct = model.correct if head else shift.wrap
    n, noised = (32, 32) if bench.quick else (PART, NOISED)
    return world.figures(Way(condition, label, correct, model.guide), part, n, noised)


@torch.no_grad()
def head_of(bench: Bench, work: Path, variant: str, name: str) -> Figures:
    """How large the errors are that a second head is to find, and which share of them it finds."""
    model = trained(bench, variant, name, work)
    base = load_base(f"tinyworld:{variant}", work, torch.device("cpu"))
    two = TwoHeads(base.network)
    base.network.load_state_dict(model.unet.state_dict())
    assert two.xi and model.head
    two.xi.load_state_dict(model.head._asdict())
    loss = mdss_cost.Always(two, base, trainings(variant)[name].recipe, 1)
    losses = [loss(torch.Generator().manual_seed(-i), 0) for i in range(1, 3 if bench.quick else 41)]
    left, error = (sum(float(figures[key]) for figures in losses) for key in ("xi", "error"))
    return {"rms": (error / len(losses)) ** 0.5, "found_percent": 100 * (1 - left / error)}


# --- curves -----------------------------------------------------------------------------------------------


@torch.no_grad()
def curves(bench: Bench, work: Path, variant: str, name: str) -> Figures:
    """Mean square error of what the network answers at each step of Euler's method, thesis figure 3.2.

    clean: at the true state; one step: at the state where its own step from the true state above arrives;
    accumulated: at the state where a run from the first true state arrives. The truth is the noise (in flow
    the velocity) that was put in.
    """
    n, steps = (8, 5) if bench.quick else (CURVE_SAMPLES, CURVE_STEPS)
    condition = Condition(variant, "euler", steps, 1.0)
    run, scenes, model = condition.run, world.scenes_of(0, n), trained(bench, variant, name, work)
    x0 = world.encoded(scenes)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    truth = eps if run.space == "ve" else eps - x0
    found: dict[str, list[float]] = {"clean": [], "one step": [], "accumulated": []}
    bare = model.guide(condition, world.captions(scenes))

    def evaluate(x: Tensor, sigma: float) -> Tensor:
        return derivative(x, bare(x, torch.full((n,), sigma)), sigma)

    reached = one = add_noise(x0, eps, run.sigmas[0], run.space)
    for sigma, below in zip(run.sigmas[:-1], run.sigmas[1:], strict=True):
        true = add_noise(x0, eps, sigma, run.space)
        prediction = evaluate(true, sigma)
        found["clean"].append(_error(prediction, truth))
        found["one step"].append(_error(evaluate(one, sigma), truth))
        one = true + prediction * (below - sigma)
        prediction = evaluate(reached, sigma)
        found["accumulated"].append(_error(prediction, truth))
        reached = reached + prediction * (below - sigma)
    return {key: " ".join(f"{value:.5g}" for value in values) for key, values in found.items()}


def _error(prediction: Tensor, truth: Tensor) -> float:
    return float((prediction - truth).square().mean())


def draw(cells: dict[str, Figures], file: Path) -> None:
    """Three panels for each variant, as in the thesis, over the steps of the run."""
    from matplotlib.figure import Figure

    kinds, variants = ("clean", "one step", "accumulated"), files.VARIANTS
    figure = Figure(figsize=(12, 4 * len(variants)), dpi=DPI, facecolor=PAPER, layout="constrained")
    panels = figure.subplots(len(variants), len(kinds), squeeze=False)
    for row, variant in zip(panels, variants, strict=True):
        for axes, kind in zip(row, kinds, strict=True):
            for key, found in cells.items():
                if key.startswith(f"curves {variant} "):
                    values = [float(value) for value in str(found[kind]).split()]
                    axes.plot(range(1, len(values) + 1), values, label=key.removeprefix(f"curves {variant} "))
            axes.set(title=f"{variant}: {kind} input", xlabel="step (first = noisiest)", yscale="log")
        row[0].set_ylabel("mean square error")
        if row[0].lines:
            row[0].legend(fontsize=7)
    figure.savefig(file)


# --- cells ------------------------------------------------------------------------------------------------

CONDITIONS = [
    Condition(variant, sampler, steps, 1.0)
    for sampler, all_steps in (("euler", (10, 20, 50)), ("ddpm", (10, 20, 50)), ("dpmpp_2m", (20,)))
    for steps in all_steps
    for variant in files.VARIANTS
]


def rows(variant: str) -> list[tuple[str, bool]]:
    """Trainings, each with the second head off, and on where it has one."""
    found = [("base", False)]
    for name, training in trainings(variant).items():
        found += [(name, head) for head in ((False, True) if training.xi else (False,))]
    return found


def add_curves(bench: Bench, work: Path) -> None:
    """Of the first output, so without the second."""
    for variant in files.VARIANTS:
        for name in ("base", *trainings(variant)):
            quick = variant == QUICK[0] and name in ("base", QUICK[1])
            bench.cell(f"curves {variant} {name}", partial(curves, bench, work, variant, name), quick)


def add_trainings(bench: Bench, work: Path) -> None:
    for variant in files.VARIANTS:
        for name, training in trainings(variant).items():
            small = replace(training, recipe=replace(training.recipe, batch=4)) if bench.quick else training
            make = partial(train, variant, name, small, 2 if bench.quick else STEPS, work)
            bench.cell(f"train {variant} {name}", make, quick=(variant, name) == QUICK)


def add_costs(bench: Bench, work: Path) -> None:
    bench.cell("cost in sampling", partial(mdss_cost.in_sampling, bench.quick), quick=False)
    for variant in files.VARIANTS:
        make = partial(mdss_cost.in_training, variant, work, BATCH, 4 if bench.quick else 40)
        bench.cell(f"cost in training {variant}", make, quick=variant == "epsilon")


def add_heads(bench: Bench, work: Path) -> None:
    for variant in files.VARIANTS:
        for name, training in trainings(variant).items():
            if training.xi:
                make = partial(head_of, bench, work, variant, name)
                bench.cell(f"head {variant} {name}", make, quick=(variant, name) == QUICK)


def add_samplings(bench: Bench, work: Path) -> None:
    for part in range(PARTS):
        bench.cell(f"real drawings {part}", partial(world.drawings, part, PART), quick=False)
    for condition in CONDITIONS:
        variant = condition.variant
        parts = PARTS if (condition.sampler, condition.steps) in WHOLE else 1
        for levels, part in itertools.product(SHIFTS if variant == "epsilon" else (), range(parts)):
            make = partial(part_of, bench, work, condition, "plain", False, part, levels)
            bench.cell(f"{condition} plain, {levels} levels lower {part}", make, quick=False)
        for name, head in rows(variant):
            quick = condition == CONDITIONS[0] and (name == "base" or (variant, name) == QUICK)
            label = f"{name}, head" if head else name
            for part in range(parts):
                make = partial(part_of, bench, work, condition, name, head, part)
                bench.cell(f"{condition} {label} {part}", make, quick and part == 0)


def main(arguments: list[str]) -> int:
    facts = {
        "weights": world.weights(),
        "judges": world.judges(),
        "part": PART,
        "noised": NOISED,
        "steps": STEPS,
        "batch": BATCH,
        "plan": repr(PLAN),
        "perturbation": PERTURBATION,
    }
    only_curves = options_of("mdss").parse_args(arguments).curves
    bench = Bench("mdss", facts, arguments)
    with tempfile.TemporaryDirectory() as scratch:
        work = few_latents(Path(scratch)) if bench.quick else WORK
        add_trainings(bench, work)
        for add in [add_curves] if only_curves else [add_heads, add_samplings, add_costs]:
            add(bench, work)
        code = bench.run()
        if only_curves:
            made = {k: result["figures"] for k, result in bench.results.items() if k.startswith("curves")}
            draw(made, (Path(scratch) if bench.quick else ROOT / "docs") / "mdss_curves.png")
    return code


def few_latents(folder: Path) -> Path:
    """A quick run's folder, with a few cached latents so that none need be encoded."""
    scenes = world.sample_scenes(world.TRAINING_SEED, 16)
    tokens = tokenize(world.captions(scenes)).unsqueeze(1).to(torch.uint8)
    save_file(
        {"latents": world.encoded(scenes).half().contiguous(), "tokens": tokens},
        folder / "latents.safetensors",
    )
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
