"""SteadyDiffCLIPScorer: CLIP, which tells ARPO how near prompts and images are to each other."""

from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import folder_paths
from comfy_api.latest import io

from ..steadydiff.arpo.clip_scorer import MODELS, load_scorer
from ..steadydiff.errors import SettingsError
from ..steadydiff.hosts.comfy.clip import HostClipScorer
from ..steadydiff.inputs import arpo as arpo_inputs
from ..steadydiff.inputs.arpo import TINY
from ..steadydiff.tinyworld.scorer import named_model
from .shared import schema

FOLDER = "open_clip"
CONNECTED = "connected"


class SteadyDiffCLIPScorer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffCLIPScorer",
            display_name="CLIP Scorer (SteadyDiff)",
            category=schema.PROMPTS,
            description="Tells ARPO how near prompts and images are to each other: any CLIP of open_clip, "
            "or one that ComfyUI has loaded. Nothing is fetched unless download is on.",
            search_aliases=["open_clip", "clip score", "similarity", "arpo"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[*MODELS, CONNECTED, TINY],
                    default="ViT-L-14",
                    tooltip="ViT-L-14 as in the paper; smaller and larger ones of open_clip; other: named "
                    "below; connected: ComfyUI's own, given below; tiny world: for the demo model only.",
                ),
                *schema.widgets(arpo_inputs.CLIP_SCORER[1:]),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="With model connected: a text encoder with its projection, of the same CLIP.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="With model connected: the image encoder of the same CLIP.",
                ),
            ],
            outputs=[schema.Scorer.Output(display_name="scorer", tooltip="For ARPO and for Phrase Bank.")],
        )

    @classmethod
    def execute(cls, model, weights, architecture, download, clip=None, clip_vision=None) -> io.NodeOutput:
        if model == CONNECTED:
            if clip is None or clip_vision is None:
                raise SettingsError(
                    "model is connected: connect clip and clip_vision, or choose another model"
                )
            return io.NodeOutput(HostClipScorer(clip, clip_vision))
        device = comfy.model_management.get_torch_device()
        name, source = named_model(
            model, weights.strip(), architecture.strip(), Path(folder_paths.models_dir) / FOLDER
        )
        patchers = []

        def ready() -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            comfy.model_management.load_models_gpu(patchers)

        half = device.type != "cpu"  # the host moves it there
        scorer = load_scorer(name, source, download=download, half=half, ready=ready)
        patchers.append(
            comfy.model_patcher.ModelPatcher(
                scorer.model,
                load_device=device,
                offload_device=comfy.model_management.text_encoder_offload_device(),
            )
        )
        return io.NodeOutput(scorer)
