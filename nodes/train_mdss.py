"""SteadyDiffTrainMDSS: fine-tunes a model against its own accumulated error."""

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

from ..steadydiff.methods.mdss import VARIANTS
from ..steadydiff.networks.xi_head import TwoHeads
from ..steadydiff.tinyworld.finetune import BASES, load_base, save_trained
from ..steadydiff.training.loop import losses
from ..steadydiff.training.mdss import PLAN, Recipe, train_mdss
from . import schema, tinyworld
from .mdss import FILES, from_file
from .train_antibias import progress


class SteadyDiffTrainMDSS(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffTrainMDSS",
            display_name="Train MDSS (SteadyDiff)",
            category=schema.CATEGORY,
            description="Fine-tunes a model so that it knows its own errors: part of each batch is a state "
            "that the model made one step of and that was carried on over k more; the model learns the noise "
            "of the state without the error, and a second head the error. So far on the tiny world that "
            "ships with the pack. Cancel keeps what was learnt: run it again to go on. (Ren et al., "
            "Multi-Step Denoising Scheduled Sampling, AAAI 2024.)",
            search_aliases=["exposure bias", "scheduled sampling", "SDSS", "fine-tune"],
            inputs=[
                io.Combo.Input("base", options=list(BASES), tooltip="The model to begin with; not changed."),
                io.Combo.Input(
                    "variant", options=["as base", *VARIANTS], default="as base",
                    tooltip="How errors are carried on. as base: posterior (the thesis) for noise, flow for "
                    "flow. ddim: for noise too, if you sample with few steps of DDIM or Euler.",
                ),
                io.Int.Input(
                    "k", default=Recipe.k, min=0, max=998,
                    tooltip="Over how many steps of the training schedule an error is carried on. 0 is SDSS; "
                    "the thesis advises to begin with 4.",
                ),
                io.Int.Input(
                    "lora_rank", default=0, min=0, max=256,
                    tooltip="0 trains all weights and writes a checkpoint; above, a LoRA of this rank.",
                ),
                io.Boolean.Input(
                    "second_head", default=True,
                    tooltip="Also learn the error in the state, for MDSS (SteadyDiff) to subtract. The "
                    "thesis gains most without it.",
                ),
                io.String.Input(
                    "name", default="my_mdss",
                    tooltip="The file is written to models/steadydiff_mdss, its training state to the output "
                    "folder. The same name and settings go on where it ended.",
                ),
                io.Int.Input(
                    "steps", default=PLAN.steps, min=1, max=10_000_000,
                    tooltip="Optimiser steps in all. The share of a batch with errors grows over them.",
                ),
                io.Int.Input(
                    "batch_size", default=Recipe.batch, min=1, max=65536, tooltip="Samples per step.",
                ),
                io.Float.Input(
                    "learning_rate", default=PLAN.lr, min=schema.Least(1e-7), max=0.1, step=1e-5, round=1e-7,
                    tooltip="The thesis: 0.0001, and 0.00001 on ImageNet.",
                ),
                io.Boolean.Input(
                    "checkpointing", default=False,
                    tooltip="Keep less of a pass in memory and work it out twice, for more time.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFF, control_after_generate=False,
                    tooltip="Of the noise and the draws.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The fine-tuned model."),
                schema.MdssHead.Output(display_name="head", tooltip="For MDSS (SteadyDiff), if it has one."),
                io.Custom("LOSS_MAP").Output(
                    display_name="loss_map", tooltip="For ComfyUI's Plot Loss Graph; every step so far."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, base, variant, k, lora_rank, second_head, name, steps, batch_size, learning_rate, checkpointing,
        seed,
    ) -> io.NodeOutput:  # fmt: skip
        file, state = FILES.paths(name)
        own = "flow" if BASES[base] == "flow" else "posterior"
        recipe = Recipe(own if variant == "as base" else variant, k, batch_size)
        plan = replace(PLAN, steps=steps, lr=learning_rate, seed=seed)
        on_step = progress(steps)
        work = Path(folder_paths.get_output_directory()) / FILES.name
        # The host runs nodes in inference mode, whose tensors training must not touch.
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            chosen = load_base(base, work, comfy.model_management.get_torch_device(), checkpointing)
            model = TwoHeads(chosen.network, second_head, lora_rank)
            trained = train_mdss(model, chosen, recipe, plan, state, on_step)
        about = {
            "made_by": "node SteadyDiffTrainMDSS", "steps": steps, "ema": plan.ema, "recipe": vars(recipe)
        }  # fmt: skip
        save_trained(file, trained, chosen, recipe, about)
        lora = lora_rank and tinyworld.build_model(BASES[base], tinyworld.files.tensors(BASES[base]))
        return io.NodeOutput(*from_file(file, lora or None), {"loss": losses(state)})
