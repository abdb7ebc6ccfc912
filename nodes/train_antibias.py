"""SteadyDiffTrainAntiBias: trains a small network that knows what one base model leaves wrong."""

from comfy_api.latest import io

from ..steadydiff.errors import SettingsError
from ..steadydiff.networks.antibias_prompt import PromptConfig
from ..steadydiff.training.antibias import FEWEST, MOST, PLAN, AntiBiasRecipe, told
from ..steadydiff.training.loop import losses
from ..steadydiff.training.losses import LOSSES, WEIGHTS
from .antibias_prompt import FILES, from_file
from .shared import schema
from .shared.antibias_training import train
from .shared.host import say
from .shared.training import WRITTEN, loss_map, picture_inputs, plan_inputs, plan_of, samples_of


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
                "channels",
                "learning_rate",
                "target",
                "loss",
                "snr_cap",
                "fewest_steps",
                "most_steps",
                "seed",
                "flip",
                "weight",
                "accumulate",
                "warmup",
                "decay",
                "ema",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to correct; it is not changed."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The samples' captions, a list of as many as there are samples (Make "
                    "Training Dataset); or one prompt for all of them.",
                ),
                io.String.Input(
                    "name",
                    default="my_antibias",
                    tooltip="The file is written to models/steadydiff_antibias, its training state to the "
                    "output folder. The same name and settings with more steps go on where it ended.",
                ),
                io.Int.Input(
                    "steps",
                    default=PLAN.steps,
                    min=1,
                    max=10_000_000,
                    tooltip="Optimiser steps in all; the paper takes 100000 and more.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=AntiBiasRecipe.batch,
                    min=1,
                    max=65536,
                    tooltip="Samples in a batch; the signal is faint, so larger is better (the paper: 1024), "
                    "by accumulate where memory ends. A multiple of 16 for the contrastive loss.",
                ),
                io.Int.Input(
                    "channels",
                    default=PromptConfig.channels,
                    min=4,
                    max=512,
                    step=4,
                    tooltip="Width of the network. The paper: 32, or 64 for pictures of 256 pixels.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=PLAN.lr,
                    min=schema.Least(1e-7),
                    max=0.1,
                    step=1e-5,
                    round=1e-7,
                    tooltip="Lower it if the loss jumps or is no number any more.",
                ),
                io.Combo.Input(
                    "target",
                    options=["residual", "phi"],
                    default=AntiBiasRecipe.target,
                    tooltip="residual: works at any number of steps. phi: the paper's, best at the numbers "
                    "of steps it was trained for.",
                ),
                io.Combo.Input(
                    "loss",
                    options=list(LOSSES),
                    default=AntiBiasRecipe.loss,
                    tooltip="l2 is the safe one; the paper finds contrastive a little better after very long "
                    "trainings.",
                ),
                io.Float.Input(
                    "snr_cap",
                    default=AntiBiasRecipe.snr_cap,
                    min=schema.Least(0.01),
                    max=1e9,
                    step=0.5,
                    round=0.01,
                    tooltip="Most that a sample weighs by its signal-to-noise ratio. Very large is the "
                    "paper's formula, which leaves most of the training to the last steps.",
                ),
                io.Int.Input(
                    "fewest_steps",
                    default=FEWEST,
                    min=2,
                    max=1000,
                    tooltip="Fewest steps you sample with; fewest and most equal make one fixed schedule.",
                ),
                io.Int.Input(
                    "most_steps",
                    default=MOST,
                    min=2,
                    max=1000,
                    tooltip="Most steps you sample with.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed for noise, sampling of the training data and the first weights.",
                ),
                io.Latent.Input(
                    "samples",
                    optional=True,
                    tooltip="Clean latents, a batch or a list: pictures like those the model was trained on. "
                    "Hundreds at the least, better many thousands.",
                ),
                *picture_inputs(),
                io.Combo.Input(
                    "weight",
                    options=list(WEIGHTS),
                    default=AntiBiasRecipe.weight,
                    optional=True,
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
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        name,
        steps,
        batch_size,
        channels,
        learning_rate,
        target,
        loss,
        snr_cap,
        fewest_steps,
        most_steps,
        seed,
        samples=None,
        images=None,
        vae=None,
        empty=None,
        flip=None,
        weight=None,
        **planned,
    ) -> io.NodeOutput:
        file, state = FILES.paths(name[0])
        fewest, most = fewest_steps[0], most_steps[0]
        if fewest > most:
            raise SettingsError(f"fewest_steps is not above most_steps; got {fewest} and {most}")
        recipe = AntiBiasRecipe(
            target[0], loss[0], snr_cap[0], batch_size[0], weight[0] if weight else AntiBiasRecipe.weight
        )
        plan = plan_of(PLAN, steps, learning_rate, seed, **planned)
        chosen = samples_of(positive, samples, images, vae, empty, flip)
        config = PromptConfig.for_latents(chosen.clean.shape[1:], channels[0])
        about = {"made_by": "node SteadyDiffTrainAntiBias", "sample_steps": f"{fewest}-{most}"}
        numbers = range(fewest, most + 1)
        bands = train(model[0], chosen, config, recipe, plan, numbers, file, state, about)
        say("\n".join([WRITTEN.format(file.name), *told(bands)]))
        return io.NodeOutput(from_file(file), {"loss": losses(state)})
