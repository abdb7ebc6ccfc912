"""SteadyDiffLoadAntiBias and SteadyDiffAntiBiasPrompt: a trained network that corrects a sampler's states."""

from pathlib import Path

import comfy.model_management
import comfy.ops
import torch
from comfy_api.latest import io

from ..steadydiff.files.antibias import load_prompt
from ..steadydiff.hosts.comfy.antibias import LoadedPrompt, attach_prompt
from ..steadydiff.inputs.antibias_prompt import ANTIBIAS_PROMPT
from .shared import schema
from .shared.host import HOST, patcher_of
from .shared.model_folder import ModelFolder

FOLDER = "steadydiff_antibias"
FILES = ModelFolder(FOLDER, "antibias_")


def from_file(path: Path) -> LoadedPrompt:
    """Read a network and put it into the host's keeping."""
    network, card = load_prompt(path, comfy.ops.manual_cast)
    device = comfy.model_management.get_torch_device()
    patcher = patcher_of(network)
    # Core's multi-GPU nodes rebuild a model from this.
    patcher.cached_patcher_init = (lambda path: from_file(path).patcher, (path,))
    dtype = comfy.model_management.unet_dtype(device, supported_dtypes=[torch.bfloat16, torch.float32])
    return LoadedPrompt(patcher, card, dtype, path.name)


class SteadyDiffLoadAntiBias(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffLoadAntiBias",
            display_name="Load Anti-Bias Model (SteadyDiff)",
            category=schema.TRAINED,
            description="Loads a network that was trained to correct one base model while it samples, from "
            "models/steadydiff_antibias. Those for the tiny world come with the pack.",
            search_aliases=["anti-bias prompt", "load antibias"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=FILES.options(),
                    tooltip="A .safetensors file of models/steadydiff_antibias. It must be trained for your "
                    "checkpoint, by Train Anti-Bias Model (docs/antibias_prompt.md); those of tinyworld/ are "
                    "for the demo model.",
                )
            ],
            outputs=[
                schema.AntiBias.Output(display_name="antibias", tooltip="For Anti-Bias Prompt (SteadyDiff).")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file):
        return FILES.path_of(file).stat().st_mtime_ns  # a training may have written it anew

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        return io.NodeOutput(from_file(FILES.path_of(file)))


class SteadyDiffAntiBiasPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffAntiBiasPrompt",
            display_name="Anti-Bias Prompt (SteadyDiff)",
            category=schema.TRAINED,
            description="Before every model call but the first, a small network adds to the sampler's state "
            "what the base model, on average, left wrong in the step before. The network is trained for one "
            "base model. Works with every sampler that asks the model with its own state (not uni_pc), every "
            "guider, masks and image-to-image. (Zhang et al., Anti-Exposure Bias in Diffusion Models, ICLR "
            "2025.)",
            search_aliases=["antibias", "anti-exposure bias", "state correction"],
            advanced=["start_percent", "end_percent", "calls"],
            inputs=[
                io.Model.Input("model", tooltip="The model to correct. Other uses of it stay as they are."),
                schema.AntiBias.Input("antibias", tooltip="From Load Anti-Bias Model, made for this model."),
                *schema.widgets(ANTIBIAS_PROMPT),
            ],
            outputs=[io.Model.Output(tooltip="The corrected model; give it to any sampler or guider.")],
        )

    @classmethod
    def execute(cls, model, antibias, strength, start_percent, end_percent, calls) -> io.NodeOutput:
        corrected = attach_prompt(
            model,
            antibias,
            HOST,
            strength=strength,
            window=(start_percent, end_percent),
            calls=calls,
        )
        return io.NodeOutput(corrected)
