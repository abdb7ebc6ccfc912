"""SteadyDiffTrainMDSS: fine-tunes a model against its own accumulated error."""

from pathlib import Path

import comfy.model_management
import folder_paths
from comfy_api.latest import io

from ..steadydiff.errors import SettingsError
from ..steadydiff.hosts.comfy.train import Samples
from ..steadydiff.methods.mdss import VARIANTS
from ..steadydiff.tinyworld import files
from ..steadydiff.tinyworld.finetune import BASES, finetune
from ..steadydiff.training.loop import losses
from ..steadydiff.training.mdss import PLAN, MdssRecipe, MdssRequest
from .mdss import FILES, from_file
from .shared import schema
from .shared.host import say
from .shared.mdss_training import train
from .shared.tinyworld import build_model
from .shared.training import (
    WRITTEN,
    loss_map,
    picture_inputs,
    plan_inputs,
    plan_of,
    progress,
    samples_of,
    training,
)


class SteadyDiffTrainMDSS(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffTrainMDSS",
            display_name="Train MDSS (SteadyDiff)",
            category=schema.TRAINED,
            description="Fine-tunes a model so that it knows its own errors: part of each batch is a state "
            "that the model made one step of and that was carried on over k more; the model learns the noise "
            "of the state without the error, and a second head the error. For models of SD1.5, SD2, SDXL, "
            "SD3, Flux, Chroma, Lumina 2, Z-Image, and the tiny world that ships with the pack. Cancel "
            "keeps what was learnt: run it again to go on. (Ren et al., Multi-Step Denoising Scheduled "
            "Sampling, AAAI 2024.)",
            search_aliases=["scheduled sampling", "SDSS", "fine-tune"],
            is_input_list=True,  # so that ComfyUI's own data set nodes fit
            advanced=[
                "variant",
                "k",
                "second_head",
                "learning_rate",
                "checkpointing",
                "seed",
                "flip",
                "accumulate",
                "warmup",
                "decay",
                "ema",
            ],
            inputs=[
                io.Combo.Input(
                    "base",
                    options=list(BASES),
                    tooltip="The model to begin with while none is connected; not changed.",
                ),
                io.Combo.Input(
                    "variant",
                    options=["as base", *VARIANTS],
                    default="as base",
                    tooltip="How errors are carried on. as base: posterior (the thesis) for noise, flow for "
                    "flow. ddim: for noise too, if you sample with few steps of DDIM or Euler.",
                ),
                io.Int.Input(
                    "k",
                    default=MdssRecipe.k,
                    min=0,
                    max=998,
                    tooltip="Over how many steps of the training schedule an error is carried on. 0 is SDSS; "
                    "the thesis advises to begin with 4.",
                ),
                io.Int.Input(
                    "lora_rank",
                    default=16,
                    min=0,
                    max=256,
                    tooltip="Rank of the LoRA that is trained; 16 is usual. 0 trains all weights, which "
                    "takes several times the memory, and writes a checkpoint.",
                ),
                io.Boolean.Input(
                    "second_head",
                    default=True,
                    tooltip="Also learn the error in the state, for MDSS (SteadyDiff) to subtract. The "
                    "thesis gains most without it.",
                ),
                io.String.Input(
                    "name",
                    default="my_mdss",
                    tooltip="The file is written to models/steadydiff_mdss, its training state to the output "
                    "folder. The same name and settings go on where it ended.",
                ),
                io.Int.Input(
                    "steps",
                    default=PLAN.steps,
                    min=1,
                    max=10_000_000,
                    tooltip="Optimiser steps in all. The share of a batch with errors grows over them.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=4,
                    min=1,
                    max=65536,
                    tooltip="Samples in a batch; memory grows with it. 4 fits at home; the thesis has 128, "
                    "for which accumulate can be 32.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=PLAN.lr,
                    min=schema.Least(1e-7),
                    max=0.1,
                    step=1e-5,
                    round=1e-7,
                    tooltip="The thesis: 0.0001, and 0.00001 on ImageNet.",
                ),
                io.Boolean.Input(
                    "checkpointing",
                    default=False,
                    tooltip="Keep less of a pass in memory and work it out twice, for more time.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed for noise and sampling of the training data.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model to begin with, from its loader; not changed.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="With model: the samples' captions, a list of as many "
                    "as there are samples (Make Training Dataset); or one prompt for all of them.",
                ),
                io.Latent.Input(
                    "samples",
                    optional=True,
                    tooltip="With model: clean latents, a batch or a list. Thousands, or it forgets others.",
                ),
                *picture_inputs(),
                *plan_inputs(PLAN),
            ],
            outputs=[
                io.Model.Output(tooltip="The fine-tuned model."),
                schema.MdssHead.Output(display_name="head", tooltip="For MDSS (SteadyDiff), if it has one."),
                loss_map(),
            ],
        )

    @classmethod
    def execute(
        cls,
        base,
        variant,
        k,
        lora_rank,
        second_head,
        name,
        steps,
        batch_size,
        learning_rate,
        checkpointing,
        seed,
        model=None,
        positive=None,
        samples=None,
        images=None,
        vae=None,
        empty=None,
        flip=None,
        **planned,
    ) -> io.NodeOutput:
        file, state = FILES.paths(name[0])
        own = None if variant[0] == "as base" else variant[0]
        request = MdssRequest(own, k[0], batch_size[0], second_head[0], lora_rank[0], checkpointing[0])
        plan = plan_of(PLAN, steps, learning_rate, seed, **planned)
        about = {"made_by": "node SteadyDiffTrainMDSS"}
        if not model:
            work = Path(folder_paths.get_output_directory()) / FILES.name
            device, on_step = comfy.model_management.get_torch_device(), progress(plan.steps)
            with training(plan.seed):
                finetune(base[0], request, plan, file, state, work, device, about, on_step)
            say(WRITTEN.format(file.name))
            lora = lora_rank[0] and build_model(BASES[base[0]], files.tensors(BASES[base[0]]))
            return io.NodeOutput(*from_file(file, lora or None), {"loss": losses(state)})
        if not positive:
            raise SettingsError("a model is trained with captions; connect positive")

        def chosen() -> Samples:
            return samples_of(positive, samples, images, vae, empty, flip)

        train(model[0], chosen, type(model[0].model).__name__, request, plan, file, state, about)
        say(WRITTEN.format(file.name))
        loaded = from_file(file, model[0] if lora_rank[0] else None)
        return io.NodeOutput(*loaded, {"loss": losses(state)})
