"""From prompts to pictures, in the host's order of events."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy
import tiny
import torch
from modules import sd_samplers, shared
from PIL import Image


class Rng:
    """Noise of the pictures' own seeds."""

    def __init__(self, shape, seeds):
        self.shape, self.generators = shape, [torch.Generator().manual_seed(seed) for seed in seeds]

    def next(self):
        return torch.stack([torch.randn(self.shape, generator=one) for one in self.generators])


@dataclass
class StableDiffusionProcessing:
    sd_model: Any = None
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 64
    height: int = 64
    sampler_name: str = "Euler"
    scheduler: str = "Automatic"
    batch_size: int = 1
    n_iter: int = 1
    do_not_save_samples: bool = True
    do_not_save_grid: bool = True
    refiner: Any = None
    refiner_switch_at: int = 0
    mask: Any = None
    nmask: Any = None
    init_images: list = field(default_factory=list)
    denoising_strength: float = 0.5
    enable_hr: bool = False
    hr_scale: float = 2.0
    hr_upscaler: str = "Latent"
    is_api = is_hr_pass = False
    scripts = sampler = rng = None
    script_args = ()
    iteration = 0
    init_latent = None

    def __post_init__(self):
        self.comments, self.extra_generation_params = {}, {}

    def comment(self, text):
        self.comments[text] = 1

    def conds(self):
        """Prompts joined by AND with their weights, and the negative prompt."""
        parts = [part.strip() for part in self.prompt.split(" AND ")]
        weighted = [part.rpartition(":")[::2] if ":" in part else (part, 1.0) for part in parts]
        many = self.batch_size
        cond = [(float(weight), tiny.encode_prompts([text] * many)) for text, weight in weighted]
        return cond, tiny.encode_prompts([self.negative_prompt] * many)

    def before_sampling(self, x, c, uc):
        if hasattr(shared.sd_model, "forge_objects"):
            model = shared.sd_model
            model.forge_objects = model.forge_objects_after_applying_lora.shallow_copy()
        self.scripts.call("process_before_every_sampling", self, x=x, noise=x, c=c, uc=uc)

    def close(self):
        self.sampler = None


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    def init(self):
        pass

    def sample(self, c, uc):
        self.sampler = sd_samplers.create_sampler(self.sampler_name, shared.sd_model)
        x = self.rng.next()
        self.before_sampling(x, c, uc)
        latents = self.sampler.sample(self, x, c, uc)
        if not self.enable_hr:
            return latents
        self.is_hr_pass = True
        self.sampler = sd_samplers.create_sampler(self.sampler_name, shared.sd_model)
        self.init_latent = torch.nn.functional.interpolate(
            latents, scale_factor=self.hr_scale, mode="nearest"
        )
        self.rng = Rng(self.init_latent.shape[1:], self.seeds)
        x = self.rng.next()
        for _ in range(2 if hasattr(shared.sd_model, "forge_objects") else 1):  # Forge calls it twice
            self.before_sampling(x, c, uc)
        latents = self.sampler.sample(self, x, c, uc, begin=int(self.steps * (1 - self.denoising_strength)))
        self.is_hr_pass, self.init_latent = False, None
        return latents


class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    def init(self):
        self.sampler = sd_samplers.create_sampler(self.sampler_name, shared.sd_model)  # one for all batches
        pixels = torch.from_numpy(numpy.array(self.init_images[0].convert("RGB"))).float().permute(2, 0, 1)
        self.init_latent = tiny.encode(pixels[None] / 127.5 - 1).repeat(self.batch_size, 1, 1, 1)

    def sample(self, c, uc):
        x = self.rng.next()
        self.before_sampling(x, c, uc)
        return self.sampler.sample(self, x, c, uc, begin=int(self.steps * (1 - self.denoising_strength)))


@dataclass
class Processed:
    images: list
    infotexts: list
    comments: str
    latents: list


def process_images(p):
    model, images, infotexts, latents = shared.sd_model, [], [], []
    try:
        p.scripts.call("process", p)
        p.init()
        for iteration in range(p.n_iter):
            p.iteration = iteration
            first = p.seed + p.iteration * p.batch_size
            p.seeds = list(range(first, first + p.batch_size))
            p.all_seeds = list(range(p.seed, p.seed + p.n_iter * p.batch_size))
            p.rng = Rng((4, p.height // 8, p.width // 8), p.seeds)
            p.scripts.call("process_batch", p, batch_number=p.iteration)
            latents.append(p.sample(*p.conds()))
            for picture in tiny.decode(latents[-1]):
                bytes_ = ((picture + 1) * 127.5).clamp(0, 255).byte().permute(1, 2, 0)
                images.append(Image.fromarray(bytes_.numpy()))
                infotexts.append(infotext(p))
    finally:
        shared.sd_model = model
    processed = Processed(images, infotexts, "".join(f"{one}\n" for one in p.comments), latents)
    p.scripts.call("postprocess", p, processed)
    return processed


def infotext(p):
    """The prompt, and key: value pairs; texts with commas or colons are quoted."""
    pairs = {"Steps": p.steps, "Sampler": p.sampler_name, "CFG scale": p.cfg_scale, "Seed": p.seed}
    pairs |= p.extra_generation_params

    def quote(value):
        return json.dumps(str(value)) if set(str(value)) & set(',:\n"') else str(value)

    shown = [f"{key}: {quote(value)}" for key, value in pairs.items() if value is not None]
    return f"{p.prompt}\n{', '.join(shown)}"
