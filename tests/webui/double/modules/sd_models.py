"""The tiny model in an object like A1111's, or with Forge's patcher in it."""

from types import SimpleNamespace

import tiny
import torch
from modules import sd_samplers


class SdModel:
    is_sd1 = True

    def __init__(self, seed=0):
        self.model = SimpleNamespace(diffusion_model=tiny.TinyNetwork(seed), conditioning_key="crossattn")
        self.alphas_cumprod = sd_samplers.ALPHAS
        names = {"short_title": "tiny", "model_name": "tiny"}
        self.sd_checkpoint_info = SimpleNamespace(filename="tiny.safetensors", **names)

    def apply_model(self, x, t, cond):
        return self.model.diffusion_model(x, t, torch.cat(cond["c_crossattn"], dim=1))


class Predictor:
    sigma_data, prediction_type, sigmas = 1.0, "epsilon", sd_samplers.SIGMAS

    def calculate_input(self, sigma, x):
        return x / (sd_samplers.spread(sigma, x) ** 2 + 1).sqrt()

    def calculate_denoised(self, sigma, answer, x):
        return x - answer * sd_samplers.spread(sigma, answer)

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return noise * sigma + latent

    def percent_to_sigma(self, percent):
        return float(sd_samplers.SIGMAS[round((1 - percent) * 999)]) if percent > 0 else 999999999.9


class KModel(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.diffusion_model, self.predictor = tiny.TinyNetwork(seed), Predictor()

    def apply_model(self, x, t, c_crossattn, transformer_options=None):
        at = torch.bucketize(t, sd_samplers.SIGMAS).clamp(max=999)
        answer = self.diffusion_model(self.predictor.calculate_input(t, x), at, c_crossattn)
        return self.predictor.calculate_denoised(t, answer, x)


class ForgeObjects:
    def __init__(self, unet):
        self.unet = unet

    def shallow_copy(self):
        return ForgeObjects(self.unet)


class ForgeModel(SdModel):
    def __init__(self, seed=0):
        super().__init__(seed)
        self.forge_objects = ForgeObjects(sd_samplers.UnetPatcher(KModel(seed)))
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()
