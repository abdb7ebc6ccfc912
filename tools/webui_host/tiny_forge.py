"""The tiny model as Forge's and Neo's: the host's own engine, patcher and predictor around our network."""

from types import SimpleNamespace

import tiny
import torch
from backend import args
from backend.diffusion_engine.base import ForgeDiffusionEngine, ForgeObjects
from backend.modules.k_prediction import Prediction
from backend.patcher.unet import UnetPatcher
from modules import processing, sd_models


class _Network(tiny.TinyNetwork):
    """With what KModel and UnetPatcher.from_model read off a network."""

    storage_dtype = computation_dtype = dtype = torch.float32
    load_device = offload_device = initial_device = torch.device("cpu")

    def forward(self, x, timesteps, context=None, **kwargs):
        return super().forward(x, timesteps, context)


class _Config:
    """What an engine and KModel ask of a model's estimated configuration."""

    ztsnr = False
    memory_usage_factor = 1.0
    unet_config = {"in_channels": 4}
    latent_format = SimpleNamespace(latent_channels=4)
    model_type = SimpleNamespace(name="EPS")

    def inpaint_model(self):
        return False


class TinyEngine(ForgeDiffusionEngine):
    def __init__(self, info, seed):
        codec = SimpleNamespace(latent_channels=4, first_stage_model=None)
        super().__init__(_Config(), {"vae": codec})
        predictor = Prediction(1.0, "epsilon", "linear", 0.00085, 0.012, 1000)
        unet = UnetPatcher.from_model(_Network(seed), None, _Config(), k_predictor=predictor)
        self.forge_objects = ForgeObjects(unet=unet, clip=None, vae=codec, clipvision=None)
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()
        self.is_sd1, self.extra_generation_params, self.comments = True, {}, []
        self.alphas_cumprod = predictor.alphas_cumprod
        self.sd_checkpoint_info, self.filename = info, info.filename
        self.sd_model_hash = info.calculate_shorthash()

    def get_learned_conditioning(self, prompt):
        return tiny.encode_prompts(prompt)

    def encode_first_stage(self, x):
        return tiny.encode(x)

    def decode_first_stage(self, x):
        return tiny.decode(x)


def install() -> None:
    """Put the tiny model where Forge keeps its own; another checkpoint (the refiner's) has other weights."""
    built = {}
    if hasattr(args.dynamic_args, "ops"):  # Neo's loader sets it
        args.dynamic_args.ops = ""

    def forge_model_reload():
        wanted = sd_models.model_data.forge_loading_parameters.get("checkpoint_info")
        info = wanted or sd_models.select_checkpoint()
        new = info.filename not in built
        if new:
            built[info.filename] = TinyEngine(info, seed=len(built))
        sd_models.model_data.set_sd_model(built[info.filename])
        return built[info.filename], new

    sd_models.forge_model_reload = processing.forge_model_reload = forge_model_reload
    forge_model_reload()
