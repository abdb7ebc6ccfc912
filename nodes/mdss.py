"""SteadyDiffLoadMDSS and SteadyDiffMDSS: a model trained against its own errors, and its second output."""

from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
from comfy_api.latest import io

from ..steadydiff.errors import HostError, SettingsError
from ..steadydiff.files.mdss import XI_PREFIX, MdssCard, load_head
from ..steadydiff.hosts.comfy.mdss import LoadedHead, attach_mdss
from ..steadydiff.hosts.comfy.state import check_fits
from ..steadydiff.inputs.mdss import MDSS
from .shared import schema, tinyworld
from .shared.host import HOST
from .shared.model_folder import ModelFolder

FILES = ModelFolder("steadydiff_mdss", "mdss_")
TINY_WORLD = {config.__name__: variant for variant, config in tinyworld.CONFIGS.items()}


def from_file(path: Path, model=None):
    """Return the MODEL of a file, or `model` with a file's LoRA, and the second head or None."""
    head, card = load_head(path)
    load = {"checkpoint": load_checkpoint, "lora": load_lora}[card.form]
    return load(path, card, model), LoadedHead(head, card, path.name) if head else None


def load_checkpoint(path: Path, card: MdssCard, model=None):
    """The host's own loader reads it; the tiny world is none of the host's families."""
    if model is not None:
        raise SettingsError(f"{path.name} is a whole checkpoint; disconnect model, it would not be used")
    variant = TINY_WORLD.get(card.family)
    if variant is None:
        return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]
    stored: Any = comfy.utils.load_torch_file(str(path), safe_load=True)
    patcher = tinyworld.build_model(variant, stored)
    # Core's multi-GPU nodes rebuild a model from this.
    patcher.cached_patcher_init = (lambda path: from_file(path)[0], (path,))
    return patcher


def load_lora(path: Path, card: MdssCard, model):
    if model is None:
        raise SettingsError(f"{path.name} is a LoRA; connect to model the one it was trained on: {card.base}")
    channels = model.get_model_object("latent_format").latent_channels
    check_fits(model, f"the MDSS LoRA {path.name}", card, channels)
    stored: Any = comfy.utils.load_torch_file(str(path), safe_load=True)
    lora = {name: value for name, value in stored.items() if not name.startswith(XI_PREFIX)}
    patched: Any = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]
    if len(patched.patches) == len(model.patches):
        raise HostError(f"the MDSS LoRA {path.name} fits no layer of this model; load one made for it")
    return patched


class SteadyDiffLoadMDSS(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffLoadMDSS",
            display_name="Load MDSS (SteadyDiff)",
            category=schema.TRAINED,
            description="Loads a model that was fine-tuned against its own accumulated error, from "
            "models/steadydiff_mdss: a checkpoint, or a LoRA for the model it was trained on. Stock loaders "
            "read the same files, as plain models; this node also finds the second head in them.",
            search_aliases=["scheduled sampling", "SDSS", "multi-step denoising"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=FILES.options(),
                    tooltip="A .safetensors file of models/steadydiff_mdss. It must be trained for your "
                    "checkpoint, by Train MDSS (docs/mdss.md); those of tinyworld/ are for the demo model.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="For a LoRA: the model it was trained on. Left open for a checkpoint.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The fine-tuned model; it can be used without the head."),
                schema.MdssHead.Output(
                    display_name="head", tooltip="For MDSS (SteadyDiff); nothing if it was trained without."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file, model=None):
        return FILES.path_of(file).stat().st_mtime_ns  # a training may have written it anew

    @classmethod
    def execute(cls, file, model=None) -> io.NodeOutput:
        return io.NodeOutput(*from_file(FILES.path_of(file), model))


class SteadyDiffMDSS(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffMDSS",
            display_name="MDSS (SteadyDiff)",
            category=schema.TRAINED,
            description="A model trained by MDSS has a second output: the error that its earlier steps left "
            "in the state it now sees. This subtracts it from the sampler's state after every model call, in "
            "the same pass of the network. Works with every sampler that asks the model with its own state "
            "(not uni_pc), masks and image-to-image. (Ren et al., Multi-Step Denoising Scheduled Sampling, "
            "AAAI 2024.)",
            search_aliases=["scheduled sampling", "SDSS", "state correction"],
            advanced=["start_percent", "end_percent", "branches"],
            inputs=[
                io.Model.Input("model", tooltip="From Load MDSS. Other uses of it stay as they are."),
                schema.MdssHead.Input("head", tooltip="From Load MDSS; with none the model stays as it is."),
                *schema.widgets(MDSS),
            ],
            outputs=[io.Model.Output(tooltip="The corrected model; give it to any sampler or guider.")],
        )

    @classmethod
    def execute(cls, model, head, strength, start_percent, end_percent, branches) -> io.NodeOutput:
        corrected = attach_mdss(
            model,
            head,
            HOST,
            strength=strength,
            window=(start_percent, end_percent),
            branches=branches,
        )
        return io.NodeOutput(corrected)
