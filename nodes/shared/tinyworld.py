"""The tiny world as ComfyUI's own MODEL, CLIP and VAE."""

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

from ...steadydiff.tinyworld import files
from ...steadydiff.tinyworld.autoencoder import AutoencoderConfig
from ...steadydiff.tinyworld.text import END, MAX_TOKENS, START, TextConfig, WordTokenizer
from ...steadydiff.tinyworld.unet import UNetConfig
from .host import patcher_of


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


CONFIGS = {"epsilon": TinyWorldEpsilon, "flow": TinyWorldFlow}


class TinyWorldTokens(comfy.sd1_clip.SDTokenizer):
    """ComfyUI's tokenizer, with its weights and embeddings syntax, over the tiny world's words."""

    words = WordTokenizer

    def __init__(self, embedding_directory=None, tokenizer_data={}):  # noqa: B006 (the host's signature)
        super().__init__(
            max_length=MAX_TOKENS,
            embedding_directory=embedding_directory,
            embedding_size=TextConfig().width,
            tokenizer_class=self.words,
            tokenizer_data=tokenizer_data,
        )


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
            device=device,
            dtype=dtype,
            max_length=MAX_TOKENS,
            model_class=TinyWorldTransformer,
            textmodel_json_config=self.config.clip_config(),
            special_tokens={"start": START, "end": END, "pad": END},
            return_projected_pooled=False,
            model_options=model_options,
        )


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
