"""SteadyDiffTinyWorld: the small model that ships with the pack, as ComfyUI's own MODEL, CLIP and VAE."""

from comfy_api.latest import io

from ..steadydiff.tinyworld import files
from .shared import schema
from .shared.tinyworld import build_clip, build_model, build_vae

PHOTOS = {"photos": "epsilon", "photos flow": "flow"}


class SteadyDiffTinyWorld(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffTinyWorld",
            display_name="Tiny World: Demo Model (SteadyDiff)",
            category=schema.DEMO,
            description="A demo and test model that ships with SteadyDiff: it draws shapes of 64x64 pixels "
            "in a second on any computer, so that a workflow can be tried and a claim measured without a "
            "download. "
            'Some 50 words, as in "a hatched drawing of a small red star at the top left on a sky '
            'background". Use 64x64 pictures; 32x32 for photos.',
            search_aliases=["tiny world", "demo model", "test model", "toy model", "offline model"],
            inputs=[
                io.Combo.Input(
                    "variant",
                    options=[*files.VARIANTS, *PHOTOS],
                    default="epsilon",
                    tooltip="epsilon: predicts noise on SD1's schedule. flow: predicts velocity, "
                    "as SD3 or Flux do. Same kind of pictures, other mathematics for a patch to meet. "
                    "photos: another model, of real pictures of 32x32 pixels (CIFAR-10), which few noisy "
                    "steps leave grey and soft; ask for an airplane, automobile, bird, cat, deer, dog, "
                    "frog, horse, ship or truck. photos flow: the same, predicting velocity.",
                )
            ],
            outputs=[
                io.Model.Output(tooltip="The diffusion model, an ordinary MODEL."),
                io.Clip.Output(tooltip="The text encoder trained with this variant."),
                io.Vae.Output(tooltip="The autoencoder; that of photos leaves pixels as they are."),
            ],
        )

    @classmethod
    def execute(cls, variant) -> io.NodeOutput:
        if variant in PHOTOS:
            from .shared.photos import build

            return io.NodeOutput(*build(PHOTOS[variant]))
        stored = files.tensors(files.check_variant(variant))
        clip = build_clip(files.part(stored, files.TEXT_PREFIX))
        return io.NodeOutput(build_model(variant, stored), clip, build_vae(files.tensors("vae")))
