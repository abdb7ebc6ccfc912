"""SteadyDiffVisionModel: a language model that ComfyUI has loaded proposes phrases for ARPO."""

from comfy_api.latest import io

from ..steadydiff.arpo.language.proposer import VisionProposer
from ..steadydiff.arpo.language.templates import Templates
from ..steadydiff.hosts.comfy.text import HostModel
from ..steadydiff.inputs import arpo as arpo_inputs
from .shared import schema


class SteadyDiffVisionModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffVisionModel",
            display_name="Vision Model (SteadyDiff)",
            category=schema.PROMPTS,
            description="Lets a vision-language model that ComfyUI has loaded (Qwen3-VL, Qwen3.5, Gemma 3 or "
            "Gemma 4) tell ARPO what a picture shows and what a drawing lacks beside it. Nothing is "
            "installed, and nothing leaves this computer.",
            search_aliases=["vlm", "caption", "interrogator", "reverse prompt", "image to prompt", "arpo"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="From Load CLIP, of a model that can write and see; others are refused.",
                ),
                *schema.widgets(arpo_inputs.VISION_MODEL),
            ],
            outputs=[
                schema.Proposer.Output(
                    display_name="proposer",
                    tooltip="For ARPO: says what a drawing lacks beside the reference.",
                )
            ],
        )

    @classmethod
    def execute(cls, clip, framework, seed, temperature, max_tokens, image_size, templates) -> io.NodeOutput:
        model = HostModel(clip, temperature, seed, max_tokens, image_size)
        model.check(pictures=2 if framework == "vanilla" else 1)
        return io.NodeOutput(VisionProposer(model, framework, Templates.of(templates)))
