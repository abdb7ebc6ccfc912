"""The tiny model as reForge's and Forge Classic's: an object as of A1111 with the host's own patcher."""

import tiny
import tiny_a1111
import torch
from ldm_patched.modules import model_base, supported_models_base
from modules_forge import forge_loader
from modules_forge.unet_patcher import UnetPatcher


class _Network(tiny.TinyNetwork):
    dtype = torch.float32


class _Codec:
    latent_channels = 4
    first_stage_model = None


class TinyForgeModel(tiny_a1111.TinyModel):
    tiling_enabled, ztsnr, current_lora_hash = False, False, "[]"

    def __init__(self, info, seed):
        super().__init__(info, seed)
        unet_config = {"disable_unet_model_creation": True, "in_channels": 4}
        config = supported_models_base.BASE(unet_config)
        model = model_base.BaseModel(config, model_type=model_base.ModelType.EPS)
        model.diffusion_model = self.model.diffusion_model = _Network(seed)
        unet = UnetPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))
        self.filename = info.filename
        self.forge_objects = forge_loader.ForgeSD(unet=unet, clip=None, vae=_Codec(), clipvision=None)
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()


def install() -> None:
    tiny_a1111.install(TinyForgeModel)
