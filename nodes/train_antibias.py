"""SteadyDiffTrainAntiBias: trains a small network that knows what one base model leaves wrong."""

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..steadydiff.antibias_files import save_prompt
from ..steadydiff.errors import SettingsError
from ..steadydiff.hosts.comfy_train import card_for, train_on_model
from ..steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork, attention_at
from ..steadydiff.training.antibias import PLAN, Recipe
from ..steadydiff.training.losses import GROUP, LOSSES
from . import schema
from .antibias_prompt import FOLDER, from_file
from .drift import make_setup

# What people mostly sample with, and hosts of all versions have.
SCHEDULERS = {"ve": ("normal", "karras"), "flow": ("simple", "normal")}


class SteadyDiffTrainAntiBias(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffTrainAntiBias",
            display_name="Train Anti-Bias Model (SteadyDiff)",
            category=schema.CATEGORY,
            description="Trains a small network that knows, from a noisy state alone, what one step of this "
            "model leaves wrong on average; Anti-Bias Prompt then adds that back while sampling. The model "
            "itself stays as it is. Cancel keeps what was learnt: run it again to go on. (Zhang et al., "
            "Anti-Exposure Bias in Diffusion Models, ICLR 2025.)",
            search_aliases=["exposure bias", "train antibias", "anti-bias prompt"],
            inputs=[
                io.Model.Input("model", tooltip="The model to correct; it is not changed."),
                io.Conditioning.Input("positive", tooltip="Prompt of all samples; an empty one is fine."),
                io.Latent.Input(
                    "samples", tooltip="Clean latents, from VAE Encode: pictures like those the model was "
                    "trained on. Hundreds at the least, better many thousands.",
                ),
                io.String.Input(
                    "name", default="my_antibias",
                    tooltip="The file is written to models/steadydiff_antibias, its training state to the "
                    "output folder. The same name and settings with more steps go on where it ended.",
                ),
                io.Int.Input(
                    "steps", default=10000, min=1, max=10_000_000,
                    tooltip="Optimiser steps in all; the paper takes 100000 and more.",
                ),
                io.Int.Input(
                    "batch_size", default=64, min=1, max=65536,
                    tooltip="Samples per step; the signal is faint, so larger is better (the paper: 1024). A "
                    "multiple of 16 for the contrastive loss.",
                ),
                io.Int.Input(
                    "channels", default=32, min=4, max=512, step=4,
                    tooltip="Width of the network. The paper: 32, or 64 for pictures of 256 pixels.",
                ),
                io.Float.Input(
                    "learning_rate", default=PLAN.lr, min=schema.Least(1e-7), max=0.1, step=1e-5, round=1e-7,
                    tooltip="Lower it if the loss jumps or is no number any more.",
                ),
                io.Combo.Input(
                    "target", options=["residual", "phi"], default="residual",
                    tooltip="residual: works at any number of steps. phi: the paper's, best at the numbers "
                    "of steps it was trained for.",
                ),
                io.Combo.Input(
                    "loss", options=list(LOSSES), default="l2",
                    tooltip="l2 is the safe one; the paper finds contrastive a little better after very long "
                    "trainings.",
                ),
                io.Float.Input(
                    "snr_cap", default=Recipe.snr_cap, min=schema.Least(0.01), max=1e9, step=0.5, round=0.01,
                    tooltip="Most that a sample weighs, by its signal-to-noise ratio. Very large is the "
                    "paper's formula, which leaves all of the training to the last steps.",
                ),
                io.Int.Input(
                    "fewest_steps", default=8, min=2, max=1000,
                    tooltip="Fewest steps you sample with; fewest and most equal make one fixed schedule.",
                ),
                io.Int.Input(
                    "most_steps", default=50, min=2, max=1000, tooltip="Most steps you sample with.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFF, control_after_generate=False,
                    tooltip="Of the noise, the draws and the network's first weights.",
                ),
            ],
            outputs=[
                schema.AntiBias.Output(display_name="antibias", tooltip="For Anti-Bias Prompt (SteadyDiff)."),
                io.Custom("LOSS_MAP").Output(
                    display_name="loss_map", tooltip="For ComfyUI's Plot Loss Graph; this run's steps."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, positive, samples, name, steps, batch_size, channels, learning_rate, target, loss,
        snr_cap, fewest_steps, most_steps, seed,
    ) -> io.NodeOutput:  # fmt: skip
        file, state = paths(name)
        if fewest_steps > most_steps:
            raise SettingsError(f"fewest_steps is not above most_steps; got {fewest_steps} and {most_steps}")
        if loss == "contrastive" and batch_size % GROUP:
            raise SettingsError(
                f"batch_size is a multiple of {GROUP} for the contrastive loss; got {batch_size}"
            )
        recipe = Recipe(target, loss, snr_cap, batch_size)
        plan = replace(PLAN, steps=steps, lr=learning_rate, seed=seed)
        clean, euler = samples["samples"], comfy.samplers.sampler_object("euler")
        sigmas = levels(model, "normal", most_steps)
        setup = make_setup(model, positive, positive, euler, sigmas, 1.0, steps)
        setup = replace(
            setup, on_call=lambda denoised: None
        )  # a preview of every step would cost more than it
        numbers = range(fewest_steps, most_steps + 1)
        schedules = tuple(
            tuple(levels(model, scheduler, n).tolist())
            for scheduler in SCHEDULERS[setup.space]
            for n in numbers
        )
        config = PromptConfig(
            clean.shape[1], channels, attention_levels=attention_at(max(clean.shape[-2:]), 3)
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            with torch.inference_mode(False):
                network = PromptNetwork(config)
        losses, on_step = progress(steps)
        trained = train_on_model(setup, clean, network, schedules, recipe, plan, state, on_step)
        training = {
            "made_by": "node SteadyDiffTrainAntiBias", "steps": steps, "ema": plan.ema, "samples": len(clean),
            "sample_steps": f"{fewest_steps}-{most_steps}", "schedulers": SCHEDULERS[setup.space],
            "recipe": vars(recipe),
        }  # fmt: skip
        save_prompt(file, trained, card_for(setup, recipe, schedules, training))
        return io.NodeOutput(from_file(file), {"loss": losses})


def paths(name: str) -> tuple[Path, Path]:
    """Where the file and the training's state go; a name is one word of a file name, not a path."""
    plain = name.strip().removesuffix(".safetensors")
    if not plain or plain != Path(plain).name or set(plain) & set('\\:*?"<>|') or plain.startswith("."):
        raise SettingsError(f"name is that of a file, without folders; got {name!r}")
    folder, output = folder_paths.get_folder_paths(FOLDER)[0], folder_paths.get_output_directory()
    return Path(folder) / f"{plain}.safetensors", Path(output) / FOLDER / f"{plain}.safetensors"


def levels(model, scheduler: str, steps: int) -> torch.Tensor:
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def progress(steps: int):
    """Return a list that fills with losses, and what is called after every step."""
    bar, losses = comfy.utils.ProgressBar(steps), []

    def on_step(done: int, loss: float) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        losses.append(loss)
        bar.update(1)

    return losses, on_step
