"""The tiny model as A1111's: an object shaped like LatentDiffusion."""

import contextlib

import tiny
import torch
from modules import sd_models, shared


class _Inner(torch.nn.Module):
    conditioning_key = "crossattn"

    def __init__(self, seed):
        super().__init__()
        self.diffusion_model = tiny.TinyNetwork(seed)


class TinyModel(torch.nn.Module):
    parameterization, cond_stage_key, lowvram, tiling = "eps", "txt", False, False
    is_sd1, is_sd2, is_sdxl, is_sd3, is_ssd, is_sdxl_inpaint = True, False, False, False, False, False
    cond_stage_model = conditioner = None

    def __init__(self, info, seed):
        super().__init__()
        self.model = _Inner(seed)
        self.first_stage_model = torch.nn.Linear(1, 1)
        self.first_stage_model.dtype = torch.float32
        self.register_buffer("alphas_cumprod", tiny.alphas_cumprod().float())
        self.sd_checkpoint_info, self.sd_model_checkpoint = info, info.filename
        self.sd_model_hash = info.calculate_shorthash()
        self.cond_stage_model_empty_prompt = tiny.encode_prompts([""])
        self.dtype = torch.float32

    @property
    def device(self):
        return shared.device

    def ema_scope(self):
        return contextlib.nullcontext()

    def apply_model(self, x, t, cond):
        return self.model.diffusion_model(x, t, context=torch.cat(cond["c_crossattn"], dim=1))

    def get_learned_conditioning(self, prompts):
        return tiny.encode_prompts(prompts)

    def encode_first_stage(self, picture):
        return tiny.encode(picture)

    def get_first_stage_encoding(self, latent):
        return latent

    def decode_first_stage(self, latent):
        return tiny.decode(latent)


def install(kind: type = TinyModel) -> None:
    """Put the tiny model where A1111 keeps its own; another checkpoint (the refiner's) has other weights."""
    from modules import sd_hijack

    built = {}

    def reload_model_weights(sd_model=None, info=None, forced_reload=False):
        info = info or sd_models.select_checkpoint()
        if info.filename not in built:
            built[info.filename] = kind(info, seed=len(built))
        sd_models.model_data.sd_model = built[info.filename]
        sd_models.model_data.was_loaded_at_least_once = True
        return built[info.filename]

    sd_models.reload_model_weights = reload_model_weights
    sd_models.load_model = reload_model_weights
    sd_hijack.model_hijack.layers = []
    reload_model_weights()
