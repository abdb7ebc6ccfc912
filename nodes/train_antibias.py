"""SteadyDiffTrainAntiBias: trains a small network that knows what one base model leaves wrong."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io

from ..steadydiff.drift.meter import spelled
from ..steadydiff.errors import SettingsError
from ..steadydiff.files.antibias import save_prompt
from ..steadydiff.hosts.comfy.train import Samples, card_for, train_on_model
from ..steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork, attention_at
from ..steadydiff.training.antibias import FEWEST, MOST, PLAN, AntiBiasRecipe
from ..steadydiff.training.distributed import team
from ..steadydiff.training.loop import Plan, losses
from ..steadydiff.training.losses import LOSSES, WEIGHTS
from .antibias_prompt import FILES, from_file
from .shared import schema
from .shared.host import say
from .shared.meter import SECONDS
from .shared.set_up import make_setup

# What people mostly sample with, and hosts of all versions have.
SCHEDULERS = {"ve": ("normal", "karras"), "flow": ("simple", "normal")}
WRITTEN = "Trained. {} is written; press R to find it in the loader."


class SteadyDiffTrainAntiBias(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffTrainAntiBias",
            display_name="Train Anti-Bias Model (SteadyDiff)",
            category=schema.TRAINED,
            description="Trains a small network that knows, from a noisy state alone, what one step of this "
            "model leaves wrong on average; Anti-Bias Prompt then adds that back while sampling. The model "
            "itself stays as it is. Cancel keeps what was learnt: run it again to go on. (Zhang et al., "
            "Anti-Exposure Bias in Diffusion Models, ICLR 2025.)",
            search_aliases=["train antibias", "anti-bias prompt", "anti-exposure bias"],
            is_input_list=True,  # so that ComfyUI's own data set nodes fit
            advanced=[
                "channels", "learning_rate", "target", "loss", "snr_cap", "fewest_steps", "most_steps",
                "seed", "flip", "weight", "accumulate", "warmup", "decay", "ema",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to correct; it is not changed."),
                io.Conditioning.Input(
                    "positive", tooltip="The samples' captions, a list of as many as there are samples (Make "
                    "Training Dataset); or one prompt for all of them.",
                ),
                io.String.Input(
                    "name", default="my_antibias",
                    tooltip="The file is written to models/steadydiff_antibias, its training state to the "
                    "output folder. The same name and settings with more steps go on where it ended.",
                ),
                io.Int.Input(
                    "steps", default=PLAN.steps, min=1, max=10_000_000,
                    tooltip="Optimiser steps in all; the paper takes 100000 and more.",
                ),
                io.Int.Input(
                    "batch_size", default=AntiBiasRecipe.batch, min=1, max=65536,
                    tooltip="Samples in a batch; the signal is faint, so larger is better (the paper: 1024), "
                    "by accumulate where memory ends. A multiple of 16 for the contrastive loss.",
                ),
                io.Int.Input(
                    "channels", default=PromptConfig.channels, min=4, max=512, step=4,
                    tooltip="Width of the network. The paper: 32, or 64 for pictures of 256 pixels.",
                ),
                io.Float.Input(
                    "learning_rate", default=PLAN.lr, min=schema.Least(1e-7), max=0.1, step=1e-5, round=1e-7,
                    tooltip="Lower it if the loss jumps or is no number any more.",
                ),
                io.Combo.Input(
                    "target", options=["residual", "phi"], default=AntiBiasRecipe.target,
                    tooltip="residual: works at any number of steps. phi: the paper's, best at the numbers "
                    "of steps it was trained for.",
                ),
                io.Combo.Input(
                    "loss", options=list(LOSSES), default=AntiBiasRecipe.loss,
                    tooltip="l2 is the safe one; the paper finds contrastive a little better after very long "
                    "trainings.",
                ),
                io.Float.Input(
                    "snr_cap", default=AntiBiasRecipe.snr_cap, min=schema.Least(0.01), max=1e9, step=0.5,
                    round=0.01,
                    tooltip="Most that a sample weighs by its signal-to-noise ratio. Very large is the "
                    "paper's formula, which leaves most of the training to the last steps.",
                ),
                io.Int.Input(
                    "fewest_steps", default=FEWEST, min=2, max=1000,
                    tooltip="Fewest steps you sample with; fewest and most equal make one fixed schedule.",
                ),
                io.Int.Input(
                    "most_steps", default=MOST, min=2, max=1000, tooltip="Most steps you sample with.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFF, control_after_generate=False,
                    tooltip="Seed for noise, sampling of the training data and the first weights.",
                ),
                io.Latent.Input(
                    "samples", optional=True,
                    tooltip="Clean latents, a batch or a list: pictures like those the model was trained on. "
                    "Hundreds at the least, better many thousands.",
                ),
                *picture_inputs(),
                io.Combo.Input(
                    "weight", options=list(WEIGHTS), default=AntiBiasRecipe.weight, optional=True,
                    tooltip="In which units snr_cap's ratio weighs an error. ve: the sampler's, as in the "
                    "paper. vp: those the model's network sees, in which high noise hardly counts. For flow "
                    "models they are one.",
                ),
                *plan_inputs(PLAN),
            ],
            outputs=[
                schema.AntiBias.Output(display_name="antibias", tooltip="For Anti-Bias Prompt (SteadyDiff)."),
                loss_map(),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, positive, name, steps, batch_size, channels, learning_rate, target, loss, snr_cap,
        fewest_steps, most_steps, seed, samples=None, images=None, vae=None, empty=None, flip=None,
        weight=None, **planned,
    ) -> io.NodeOutput:  # fmt: skip
        file, state = FILES.paths(name[0])
        fewest, most = fewest_steps[0], most_steps[0]
        if fewest > most:
            raise SettingsError(f"fewest_steps is not above most_steps; got {fewest} and {most}")
        recipe = AntiBiasRecipe(
            target[0], loss[0], snr_cap[0], batch_size[0], weight[0] if weight else AntiBiasRecipe.weight
        )
        plan = plan_of(PLAN, steps, learning_rate, seed, **planned)
        chosen = samples_of(positive, samples, images, vae, empty, flip)
        config = config_for(chosen.clean, channels[0])
        about = {"made_by": "node SteadyDiffTrainAntiBias", "sample_steps": f"{fewest}-{most}"}
        numbers = range(fewest, most + 1)
        train(model[0], chosen, config, recipe, plan, numbers, file, state, about)
        say(WRITTEN.format(file.name))
        return io.NodeOutput(from_file(file), {"loss": losses(state)})


def train(
    model, samples: Samples, config: PromptConfig, recipe: AntiBiasRecipe, plan: Plan, numbers: Sequence[int],
    file: Path, state: Path, about: dict, **of_base: str,
) -> None:  # fmt: skip
    """Train on a model of the host for runs of so many steps, and write the file.

    about:   for people who read the file
    of_base: what the file's card shall say of the model
    """
    euler, sigmas = comfy.samplers.sampler_object("euler"), levels(model, "normal", max(numbers))
    setup = make_setup(model, samples.captions[0], samples.captions[0], euler, sigmas, 1.0, plan.steps)
    # A preview of every step would cost more than the step.
    setup = replace(setup, on_call=lambda denoised: None)
    schedulers = SCHEDULERS[setup.space]
    schedules = tuple(tuple(levels(model, name, n).tolist()) for name in schedulers for n in numbers)
    with torch.random.fork_rng(), torch.inference_mode(False):
        torch.manual_seed(plan.seed)
        network = PromptNetwork(config)
    on_step = progress(plan.steps)
    trained, bands = train_on_model(setup, samples, network, schedules, recipe, plan, state, on_step)
    about = {
        **about, **plan.facts, "samples": len(samples.clean), "schedulers": schedulers,
        "recipe": vars(recipe),
    }  # fmt: skip
    if not team().rank:
        save_prompt(file, trained, replace(card_for(setup, recipe, schedules, bands, about), **of_base))


def config_for(clean: torch.Tensor, channels: int, mult: tuple[int, ...] = PromptConfig.channel_mult, **more):
    """Return the network for these latents."""
    attention = attention_at(max(clean.shape[-2:]), len(mult))
    return PromptConfig(clean.shape[1], channels, mult, attention_levels=attention, **more)


def picture_inputs() -> list:
    """What a training node takes instead of latents, and beside captions."""
    return [
        io.Image.Input("images", optional=True, tooltip="Pictures instead of samples; needs vae."),
        io.Vae.Input("vae", optional=True, tooltip="Encodes the images; the model's own VAE."),
        io.Conditioning.Input(
            "empty", optional=True,
            tooltip="Conditioning of an empty prompt: it stands in for a tenth of the captions, as when most "
            "models were trained.",
        ),
        io.Boolean.Input(
            "flip", default=False, optional=True,
            tooltip="Also train on every picture's mirror image; needs images. Not where captions or letters "
            "would be wrong then.",
        ),
    ]  # fmt: skip


def plan_inputs(plan: Plan) -> list:
    """What every training node lets one choose besides steps, rate and seed; `plan` holds the defaults."""
    return [
        io.Int.Input(
            "accumulate", default=plan.accumulate, min=1, max=65536, optional=True,
            tooltip="Batches in a step, one after the other: as if a batch were so many times as large, for "
            "more time but no more memory.",
        ),
        io.Int.Input(
            "warmup", default=plan.warmup, min=1, max=1_000_000, optional=True,
            tooltip="Steps over which the learning rate rises to its full size.",
        ),
        io.Float.Input(
            "decay", default=plan.decay, min=schema.Least(0), max=1.0, step=0.1, round=0.001, optional=True,
            tooltip="Last part of all steps over which the learning rate falls to 0; 0 keeps it.",
        ),
        io.Float.Input(
            "ema", default=plan.ema, min=schema.Least(0), max=0.999999, step=0.0001, round=1e-6,
            optional=True,
            tooltip="Decay of the weights' moving average, which is what is written. It is shorter at first, "
            "so that short trainings need no other.",
        ),
    ]  # fmt: skip


def plan_of(plan: Plan, steps: list, learning_rate: list, seed: list, **planned: list | None) -> Plan:
    """Return the plan that was asked for; `planned` as from `plan_inputs`, where given."""
    chosen = {name: value[0] for name, value in planned.items() if value}
    return replace(plan, steps=steps[0], lr=learning_rate[0], seed=seed[0], **chosen)


def loss_map():
    return io.Custom("LOSS_MAP").Output(
        display_name="loss_map", tooltip="For ComfyUI's Plot Loss Graph; every step so far."
    )


def samples_of(
    positive: list, samples: list | None, images: list | None, vae: list | None, empty: list | None,
    flip: list | None,
) -> Samples:  # fmt: skip
    """What was connected, pictures with their mirror images if asked for."""
    if not (flip and flip[0]):
        return Samples(latents(samples, images, vae), positive, empty[0] if empty else None)
    if not images:
        raise SettingsError("flip mirrors pictures; connect images instead of samples, or turn it off")
    both = latents(samples, [with_mirrored(batch) for batch in images], vae)
    captions = [caption for caption in positive for _ in (0, 1)] if len(positive) > 1 else positive
    return Samples(both, captions, empty[0] if empty else None)


def with_mirrored(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [B, H, W, 3], each followed by its mirror image."""
    return torch.stack((pictures, pictures.flip(2)), 1).flatten(0, 1)


def latents(samples: list | None, images: list | None, vae: list | None) -> torch.Tensor:
    """Clean latents [N, C, *S] of what was connected: latents, or pictures with their VAE."""
    if bool(samples) == bool(images):
        raise SettingsError("connect either samples or images")
    if samples:
        parts = [latent["samples"] for latent in samples]
    elif vae:
        parts = [vae[0].encode(x) for x in images or ()]
    else:
        raise SettingsError("images need the vae that encodes them; connect it")
    if len({part.shape[1:] for part in parts}) > 1:
        raise SettingsError("the samples differ in size; give them one size")
    return torch.cat(parts)


def levels(model, scheduler: str, steps: int) -> torch.Tensor:
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def progress(steps: int, clock: Callable[[], float] = time.monotonic):
    """Return what is called after every step: it moves the bar, obeys Cancel, says how long it takes."""
    bar, began, said = comfy.utils.ProgressBar(steps), 0.0, 0.0

    def on_step(done: int, loss: float) -> None:
        nonlocal began, said
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(1)
        now = clock()
        if done == 1:
            began = said = now
        elif now - said >= SECONDS:
            said = now
            left = spelled((now - began) / (done - 1) * (steps - done))
            say(f"Training: {done} steps, loss {loss:.3g}, at most {left} left. Cancel keeps what is learnt.")

    return on_step
