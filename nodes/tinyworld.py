"""SteadyDiffTinyWorld: the small model that ships with the pack, as ComfyUI's own MODEL, CLIP and VAE."""

# pyright: reportArgumentType=false
# (the host annotates with one of its own classes where it takes any of that kind)

from inspect import signature

import comfy.clip_model
import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from comfy import latent_formats
from comfy.model_base import ModelType
from comfy_api.latest import io

from ..steadydiff.tinyworld import files
from ..steadydiff.tinyworld.autoencoder import AutoencoderConfig
from ..steadydiff.tinyworld.text import END, MAX_TOKENS, START, TextConfig, WordTokenizer
from ..steadydiff.tinyworld.unet import UNetConfig
from .shared import schema
from .shared.host import patcher_of


class TinyWorldEpsilon(comfy.supported_models_base.BASE):
    """SD1's noise schedule and latent format around a very small UNet."""

    unet_config = UNetConfig().unet_config()
    unet_extra_config = {}
    latent_format = latent_formats.SD15
    model_kind = ModelType.EPS

    def model_type(self, state_dict, prefix=""):
        return self.model_kind


class TinyWorldFlow(TinyWorldEpsilon):
    """The same UNet, trained by flow matching."""

    sampling_settings = {"shift": 1.0}
    model_kind = ModelType.FLOW


PHOTOS = "photos"
CONFIGS = {"epsilon": TinyWorldEpsilon, "flow": TinyWorldFlow}


class TinyWorldTokens(comfy.sd1_clip.SDTokenizer):
    """ComfyUI's tokenizer, with its weights and embeddings syntax, over the tiny world's words."""

    words = WordTokenizer

    def __init__(self, embedding_directory=None, tokenizer_data={}):  # noqa: B006 (the host's signature)
        super().__init__(
            max_length=MAX_TOKENS, embedding_directory=embedding_directory, embedding_size=TextConfig().width,
            tokenizer_class=self.words, tokenizer_data=tokenizer_data,
        )  # fmt: skip


class TinyWorldTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):  # noqa: B006 (the host's signature)
        super().__init__(embedding_directory, tokenizer_data, tokenizer=TinyWorldTokens)


class TinyWorldTransformer(comfy.clip_model.CLIPTextModel):
    """ComfyUI's class always makes room for CLIP's 49,408 tokens; this one has the tiny world's few."""

    def __init__(self, config, dtype, device, operations):
        super().__init__(config, dtype, device, operations)
        table = operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device)
        self.set_input_embeddings(table)


class TinyWorldText(comfy.sd1_clip.SDClipModel):
    """ComfyUI's CLIP text model in the tiny world's size; no projection, so the pooled output is plain."""

    config = TextConfig()

    def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006 (the host's signature)
        super().__init__(
            device=device, dtype=dtype, max_length=MAX_TOKENS, model_class=TinyWorldTransformer,
            textmodel_json_config=self.config.clip_config(),
            special_tokens={"start": START, "end": END, "pad": END}, return_projected_pooled=False,
            model_options=model_options,
        )  # fmt: skip


class TinyWorldClip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006 (the host's signature)
        super().__init__(device, dtype, model_options, clip_model=TinyWorldText)


def build_model(variant: str, stored: dict):
    """A ModelPatcher around ComfyUI's BaseModel; float32, as the weights are small and any device can."""
    config = CONFIGS[variant](TinyWorldEpsilon.unet_config)
    model = config.get_model({}, device=comfy.model_management.unet_offload_device())
    rebuild = (lambda name: build_model(name, files.tensors(name)), (variant,))
    return filled(model, files.part(stored, files.UNET_PREFIX), rebuild)


def filled(model, weights: dict, rebuild: tuple):
    """Put weights into a BaseModel's network and the model into the host's keeping.

    rebuild:  a function and its arguments that make the patcher again, for core's multi-GPU nodes
    """
    patcher = patcher_of(model)
    dynamic = hasattr(patcher, "is_dynamic") and patcher.is_dynamic()  # not on the oldest host we support
    model.diffusion_model.load_state_dict(weights, assign=dynamic)
    patcher.cached_patcher_init = rebuild
    return patcher


def build_clip(text: dict, tokenizer=TinyWorldTokenizer, clip_model=TinyWorldClip):
    """ComfyUI's CLIP of a text encoder's weights."""
    # ComfyUI's class has a projection; ours has none, and the identity keeps its memory defined.
    text = {**text, "text_projection.weight": torch.eye(TextConfig().width)}
    target = comfy.supported_models_base.ClipTarget(tokenizer, clip_model)
    parameters = sum(t.numel() for t in text.values())
    if "state_dict" in signature(comfy.sd.CLIP).parameters:
        return comfy.sd.CLIP(target, parameters=parameters, state_dict=[text])
    clip = comfy.sd.CLIP(target, parameters=parameters)  # old hosts take the weights afterwards
    clip.load_sd(text)
    return clip


def build_vae(stored: dict):
    params = {"ddconfig": AutoencoderConfig().ddconfig(), "embed_dim": AutoencoderConfig().latent_channels}
    return comfy.sd.VAE(sd=stored, config={"params": params})


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
            'background". Use 64x64 pictures.',
            search_aliases=["tiny world", "demo model", "test model", "toy model", "offline model"],
            inputs=[
                io.Combo.Input(
                    "variant", options=[*files.VARIANTS, PHOTOS], default="epsilon",
                    tooltip="epsilon: predicts noise on SD1's schedule. flow: predicts velocity, "
                    "as SD3 or Flux do. Same kind of pictures, other mathematics for a patch to meet. "
                    "photos: another model, of real pictures of 32x32 pixels (CIFAR-10), which few noisy "
                    "steps leave grey and soft; ask for an airplane, automobile, bird, cat, deer, dog, "
                    "frog, horse, ship or truck.",
                )
            ],
            outputs=[
                io.Model.Output(tooltip="The diffusion model, an ordinary MODEL."),
                io.Clip.Output(tooltip="The text encoder trained with this variant."),
                io.Vae.Output(tooltip="The autoencoder, shared by both variants."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, variant) -> io.NodeOutput:
        if variant == PHOTOS:
            from .shared.photos import build

            return io.NodeOutput(*build("epsilon"))
        stored = files.tensors(files.check_variant(variant))
        clip = build_clip(files.part(stored, files.TEXT_PREFIX))
        return io.NodeOutput(build_model(variant, stored), clip, build_vae(files.tensors("vae")))
