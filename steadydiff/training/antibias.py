"""Training the anti-bias prompt network on a frozen base model (Zhang et al., ICLR 2025, section 4.1).

One step: noise clean latents to sigma, let the base model take one Euler step to sigma_next, and teach the
network, which sees only where that step arrived, how far it is from the same latents under the same noise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ..denoiser import Space, add_noise, derivative, per_sample
from ..errors import SettingsError
from ..methods.antibias_prompt import Band, Target, exposure_bias, input_scale
from ..networks.antibias_prompt import PromptNetwork
from .loop import Identity, OnStep, Plan, fit, stratified
from .losses import DEGREES, GROUP, LOSSES, WEIGHTS, Weight, prompt_weight

log = logging.getLogger("steadydiff")

SNR_CAP = 5.0
"""Recommended; the paper's printed weight has none (inf), which leaves all of it to the last steps."""


UNCONDITIONAL = 0.1
"""Share of samples without their caption, the rate at which most base models were trained without."""

FEWEST, MOST = 8, 50
"""Numbers of steps that people sample with."""

BANDS, PAIRS = 16, 512
"""Bands of noise levels that are measured after a training, and the most pairs of states in each."""

SURE = 3.0
"""Standard errors by which a band's correction must help before it is applied at all."""

Draw = Callable[[Any, torch.Generator], tuple[Tensor, Any]]
"""(how many or which, random numbers) -> clean latents [n, C, *S] in the sampler's units, and conditioning
for them, of UNCONDITIONAL of them without a caption"""


@dataclass(frozen=True)
class AntiBiasBase:
    """A frozen model to correct, its data, and the schedules people sample it with.

    space:      how its states are built
    sigma_data: for its input scaling in "ve"
    schedules:  noise levels of whole runs, final 0 included; each is drawn as often as the others
    draw:       what is trained on
    denoise:    (x, sigma [n], conditioning) -> clean estimate, without guidance
    noise:      standard deviation of the noise in its states
    held_out:   number of samples that `draw` never gives, and (places of some of them, random numbers) -> as
                `draw`; None: every draw is a new one
    """

    space: Space
    schedules: tuple[tuple[float, ...], ...]
    draw: Draw
    denoise: Callable[[Tensor, Tensor, Any], Tensor]
    sigma_data: float = 1.0
    noise: float = 1.0
    held_out: tuple[int, Draw] | None = None


@dataclass(frozen=True)
class AntiBiasRecipe:
    """How the network is taught: as in the paper, but for target, snr_cap and batch (1024 there).

    target:  what the network's output stands for. Either way the loss compares the same correction with the
             same bias; "residual" leaves the step's size out of what is to be learnt
    loss:    a name in LOSSES
    snr_cap: most that a sample weighs by its signal-to-noise ratio, inf = the paper's weight
    batch:   samples in a batch
    weight:  in which units that ratio weighs, see `prompt_weight`; "ve" is the paper's
    """

    target: Target = "residual"
    loss: str = "l2"
    snr_cap: float = SNR_CAP
    batch: int = 64
    weight: Weight = "ve"

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise SettingsError(f"target is one of {', '.join(get_args(Target))}; got {self.target!r}")
        if self.loss not in LOSSES:
            raise SettingsError(f"loss is one of {', '.join(LOSSES)}; got {self.loss!r}")
        if self.weight not in WEIGHTS:
            raise SettingsError(f"weight is one of {', '.join(WEIGHTS)}; got {self.weight!r}")
        if not self.snr_cap > 0:
            raise SettingsError(f"snr_cap is above 0, inf for none; got {self.snr_cap}")
        if self.batch < 1 or self.batch % self.group:
            raise SettingsError(
                f"batch is 1 or more, and a multiple of {GROUP} for the contrastive loss; got {self.batch}"
            )

    @property
    def group(self) -> int:
        """How many samples in a row share a noise level."""
        return GROUP if self.loss == "contrastive" else 1


PLAN = Plan(steps=10000, lr=1e-3, warmup=200, decay=0.5, betas=(0.9, 0.999), weight_decay=0.0, ema=0.9999)
"""EDM's optimiser and the paper's moving average, which the loop warms up. The rate falls in the second half:
so more of a planted error is found, see docs/antibias_prompt.md."""


@dataclass(frozen=True)
class StepPairs:
    """Every step of a set of schedules that a correction follows, ready to draw from.

    Shapes:  sigma, sigma_next [P], ordered by sigma_next; share [P], their running share of the draws.
    """

    sigma: Tensor
    sigma_next: Tensor
    share: Tensor

    @classmethod
    def of(cls, schedules: Sequence[Sequence[float]]) -> StepPairs:
        """Collect the steps: each schedule has the same share, so have its steps; one to 0 has none."""
        rows = []
        for sigmas in schedules:
            steps = [(a, b) for a, b in zip(sigmas, sigmas[1:], strict=False) if a > b > 0]
            rows += [(b, a, 1 / len(steps)) for a, b in steps]
        if not rows:
            raise SettingsError("no schedule has two steps, so there is nothing to correct; take more steps")
        below, above, share = torch.tensor(sorted(rows), dtype=torch.float64).T
        return cls(above.float(), below.float(), (share / share.sum()).cumsum(0))

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n steps [n], [n], spread over all noise levels in every batch."""
        u = stratified(torch.rand(n, generator=rng, dtype=torch.float64)) * self.share[-1]
        at = torch.searchsorted(self.share, u).clamp(max=len(self.share) - 1)
        return self.sigma[at], self.sigma_next[at]

    def bands(self, most: int) -> list[StepPairs]:
        """Split by the level of arrival: one for each level, or, if they are more than `most`, so many of
        about equal share."""
        levels, at = self.sigma_next.unique(return_inverse=True)
        own = self.share.diff(prepend=torch.zeros(1, dtype=torch.float64))
        if len(levels) > most:
            whole = torch.zeros(len(levels), dtype=torch.float64).index_add_(0, at, own)
            at = ((whole.cumsum(0) - whole / 2) * most).long().clamp(max=most - 1)[at]
        parts = [at == band for band in at.unique()]
        return [StepPairs(self.sigma[p], self.sigma_next[p], own[p].cumsum(0)) for p in parts]

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest level at which a correction is learnt."""
        return float(self.sigma_next[0]), float(self.sigma_next[-1])


def simulate(
    base: AntiBiasBase, x0: Tensor, conditioning: Any, noise: Tensor, sigma: Tensor, sigma_next: Tensor
) -> tuple[Tensor, Tensor]:
    """Return where the base model's step arrives, as its network would see it, and the bias there.

    Shapes:  x0, noise and both results [B, C, *S]; sigma, sigma_next [B].
    Units:   both results in the base model's input scaling at sigma_next.
    """
    x = add_noise(x0, noise, sigma, base.space)
    with torch.no_grad():
        denoised = base.denoise(x, sigma, conditioning)
    reached = x + derivative(x, denoised, sigma) * per_sample(sigma_next - sigma, x)
    scale = per_sample(input_scale(sigma_next, base.space, base.sigma_data), x)
    return reached / scale, exposure_bias(x0, denoised, sigma, sigma_next) / scale


class PromptLoss:
    """One step's loss, and the share of the (weighted) bias that the network explains."""

    def __init__(self, network: nn.Module, base: AntiBiasBase, recipe: AntiBiasRecipe):
        self.network, self.base, self.recipe = network, base, recipe
        self.pairs = StepPairs.of(base.schedules)
        self._device = next(network.parameters()).device

    def __call__(self, rng: torch.Generator, seed: int) -> dict[str, Tensor]:
        del seed
        base, recipe = self.base, self.recipe
        drawn = base.draw(recipe.batch, rng)
        prompt, bias, sigma_next = self.predictions(*drawn, self.pairs, rng, recipe.group)

        def weight(loss: str) -> Tensor:
            cap, power = recipe.snr_cap, base.noise**2
            found = prompt_weight(
                sigma_next, base.space, cap * power, base.sigma_data, DEGREES[loss], recipe.weight
            )
            return found / power

        loss = (weight(recipe.loss) * LOSSES[recipe.loss](prompt, bias)).mean()
        return {"loss": loss, "explained": explained(prompt.detach(), bias, weight("l2"))}

    def predictions(
        self, x0: Tensor, conditioning: Any, pairs: StepPairs, rng: torch.Generator, group: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the prompts after one step of each sample, the biases they should be, and the levels [B] at
        which the steps arrived.

        Units:  of `simulate`; so many of a `group` in a row share a noise level.
        """
        base, device = self.base, self._device
        noise = base.noise * torch.randn(x0.shape, generator=rng, dtype=x0.dtype).to(device)
        drawn = pairs.draw(len(x0) // group, rng)
        sigma, sigma_next = (level.repeat_interleave(group).to(device) for level in drawn)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            seen, bias = simulate(base, x0.to(device), conditioning, noise, sigma, sigma_next)
            prompt = self.network(seen).to(bias.dtype)
        if self.recipe.target == "residual":
            prompt = prompt * per_sample(1 - sigma_next / sigma, prompt)
        return prompt, bias, sigma_next


def explained(prompt: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
    """Return which share of the bias's weighted square a prompt takes away: 0 none, 1 all of it.

    Shapes:  prompt, bias [B, C, *S]; weight [B]; result [].
    """
    square = LOSSES["l2"]
    return 1 - (weight * square(prompt, bias)).sum() / (weight * bias.square().flatten(1).mean(1)).sum()


def train_prompt(
    network: PromptNetwork,
    base: AntiBiasBase,
    recipe: AntiBiasRecipe,
    plan: Plan,
    state: Path,
    on_step: OnStep | None = None,
) -> PromptNetwork:
    """Train in place, resuming from `state` if it exists; return the moving average.

    Raises:  SettingsError before the first step if the schedules have no steps, or `state` belongs to another
             network, recipe or set of schedules.
    """
    config, loss = network.config, PromptLoss(network, base, recipe)
    settings = {
        "target": recipe.target,
        "loss": recipe.loss,
        "snr_cap": recipe.snr_cap,
        "weight": recipe.weight,
        "batch_size": recipe.batch,
        "steps sampled with": _listed({len(levels) - 1 for levels in base.schedules}),
        "noise levels": "{:.4g} to {:.4g}".format(*loss.pairs.sigma_range),
        **vars(config),
    }
    identity = Identity.of((config, recipe, base.schedules), settings)
    return fit(network, loss, plan, state, identity=identity, on_step=on_step)


def _listed(numbers: set[int]) -> str:
    """As the command takes them: "8-50", or "10, 20"."""
    least, most = min(numbers), max(numbers)
    whole = len(numbers) > 1 and numbers == set(range(least, most + 1))
    return f"{least}-{most}" if whole else ", ".join(map(str, sorted(numbers)))


def split_off(count: int) -> tuple[Tensor, Tensor]:
    """Return the places, of so many samples, of those to train on and of those kept for `measure_bands`.

    The latter are an eighth, at most 2 PAIRS, spread evenly, as lists are sorted; and always two in a row, as
    pictures may be followed by their mirror images.
    """
    pairs = max(1, min(count // 8, 2 * PAIRS) // 2)
    first = 2 * ((torch.arange(pairs) + 1) * (count // 2) // pairs - 1)
    kept = torch.stack((first, first + 1), 1).flatten()
    rest = torch.ones(count, dtype=torch.bool)
    rest[kept] = False
    return rest.nonzero().flatten(), kept


@torch.no_grad()
def measure_bands(
    network: PromptNetwork,
    base: AntiBiasBase,
    recipe: AntiBiasRecipe,
    seed: int,
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[Band, ...]:
    """Return what a trained network explains in each band of noise levels, and what of it shall be applied.

    On samples that were not trained on, none twice in a band. Logged; a network that explains nothing at any
    level gets a warning, as its file will correct nothing. `on_batch` is called before every batch and may
    raise to cancel.
    """
    loss, rng = PromptLoss(network, base, recipe), torch.Generator().manual_seed(seed)
    found, below = [], 0.0
    for pairs in loss.pairs.bands(BANDS):
        rows = torch.randperm(base.held_out[0] if base.held_out else PAIRS, generator=rng)[:PAIRS]
        products = []
        for part in rows.split(recipe.batch):
            on_batch()
            drawn = base.held_out[1](part, rng) if base.held_out else base.draw(len(part), rng)
            prompt, bias, _ = loss.predictions(*drawn, pairs, rng)
            both = ((prompt, bias), (prompt, prompt), (bias, bias))
            products.append(torch.stack([(a * b).float().flatten(1).sum(1) for a, b in both]).cpu())
        shared, own, whole = torch.cat(products, 1).double()
        low, high = pairs.sigma_range
        gain = fitted_gain(shared, own)
        shares = [
            float((2 * g * shared - g**2 * own).sum() / whole.sum().clamp(min=1e-300)) for g in (1.0, gain)
        ]
        found.append(Band((below or low) ** 0.5 * low**0.5, gain, *shares))
        below = high
    for line in told(found):
        log.info("%s", line)
    if not any(band.gain for band in found):
        log.warning(
            "the network explains nothing of the model's bias on samples it was not trained on, so its file "
            "will correct nothing; train longer, on more pictures, or leave this model as it is"
        )
    return tuple(found)


def told(bands: Sequence[Band]) -> list[str]:
    """Return what a network explains of the model's bias, a line for each band of noise levels."""
    return [
        f"sigma from {band.sigma:.4g}: explained {100 * band.explained:.3f} %, "
        f"{100 * band.applied:.3f} % with its gain of {band.gain:.2f}"
        for band in bands
    ]


def fitted_gain(shared: Tensor, own: Tensor) -> float:
    """Return by which factor prompts v come nearest to biases Phi: <v, Phi> / <v, v>, within 0 to 1.

    0 as well where <v, Phi> is not above 0 by SURE standard errors, so that chance corrects nothing.

    Shapes:  shared, own [B]: <v, Phi> and <v, v> of each sample.
    """
    total, error = shared.sum(), shared.std() * len(shared) ** 0.5
    return min(float(total / own.sum()), 1.0) if total > SURE * error else 0.0


def karras_levels(steps: int, least: float, most: float, rho: float = 7.0) -> tuple[float, ...]:
    """Return the noise levels of Karras et al., 2022, arXiv 2206.00364, equation 5, and a final 0."""
    ends = most ** (1 / rho), least ** (1 / rho)
    return (*((ends[0] + i / max(steps - 1, 1) * (ends[1] - ends[0])) ** rho for i in range(steps)), 0.0)
