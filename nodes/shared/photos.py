"""The photos as ComfyUI's own MODEL, CLIP and VAE; the node of the tiny world offers them."""

# pyright: reportArgumentType=false
# (the host annotates with one of its own classes where it takes any of that kind)

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import torch

from ...steadydiff.tinyworld.files import TEXT_PREFIX, UNET_PREFIX, part
from ...steadydiff.tinyworld.photos import files
from ...steadydiff.tinyworld.photos.network import PhotoConfig, PhotoNet
from ...steadydiff.tinyworld.photos.words import TEXT, PhotoTokenizer
from . import tinyworld


class PhotoModel(comfy.model_base.BaseModel):
    def __init__(self, model_config, model_type, device=None):
        super().__init__(model_config, model_type, device=device, unet_model=PhotoNet)

    def _apply_model(self, *args, **kwargs):
        # As DDPM's authors do: no picture holds more, and a run of few noisy steps would run away on it.
        return super()._apply_model(*args, **kwargs).clamp(-1, 1)


class PhotosEpsilon(tinyworld.TinyWorldEpsilon):
    """DDPM's noise schedule in pixel space, where the host's latents are pictures in -1..1."""

    unet_config = PhotoConfig().unet_config()
    latent_format = comfy.latent_formats.ChromaRadiance
    sampling_settings = {"beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 0.02}

    def get_model(self, state_dict, prefix="", device=None):
        return PhotoModel(self, self.model_type(state_dict, prefix), device=device)


class PhotosFlow(PhotosEpsilon):
    """The same UNet, trained by flow matching."""

    sampling_settings = tinyworld.TinyWorldFlow.sampling_settings
    model_kind = tinyworld.TinyWorldFlow.model_kind


CONFIGS = {"epsilon": PhotosEpsilon, "flow": PhotosFlow}


class PhotoTokens(tinyworld.TinyWorldTokens):
    words = PhotoTokenizer


class PhotoSDTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):  # noqa: B006 (the host's signature)
        super().__init__(embedding_directory, tokenizer_data, tokenizer=PhotoTokens)


class PhotoText(tinyworld.TinyWorldText):
    config = TEXT


class PhotoClip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006 (the host's signature)
        super().__init__(device, dtype, model_options, clip_model=PhotoText)


def build(variant: str) -> tuple:
    """Return the MODEL, CLIP and VAE of the newest file of a variant."""
    name = files.newest(variant)
    clip = tinyworld.build_clip(part(files.tensors(name), TEXT_PREFIX), PhotoSDTokenizer, PhotoClip)
    return build_model(name), clip, comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})


def build_model(name: str):
    """Return a ModelPatcher around the host's BaseModel with one file's network in it; float32."""
    config = CONFIGS[name.partition("_")[0]](PhotosEpsilon.unet_config)
    model = config.get_model({}, device=comfy.model_management.unet_offload_device())
    return tinyworld.filled(model, part(files.tensors(name), UNET_PREFIX), (build_model, (name,)))
