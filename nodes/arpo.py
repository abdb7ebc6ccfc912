"""SteadyDiffARPO: from a reference image back to a prompt for this very model."""

import json
from pathlib import Path

import comfy.model_management
import comfy.sample
import comfy.samplers
import folder_paths
import torch
from comfy_api.latest import io

from ..steadydiff.arpo.log import Log, as_dict, load_log, log_file, save_log
from ..steadydiff.arpo.phrases import Phrases
from ..steadydiff.arpo.search import ARPO
from ..steadydiff.errors import ProposerError
from ..steadydiff.inputs import arpo as arpo_inputs
from ..steadydiff.plots import arpo_figure
from .shared import schema
from .shared.bar import Bar
from .shared.host import fitted_latent
from .shared.plot import image

FOLDER = "steadydiff_arpo"


class SteadyDiffARPO(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffARPO",
            display_name="ARPO: Image to Prompt (SteadyDiff)",
            category=schema.CATEGORY,
            description="Finds the prompt with which this model draws a given image: draws a first prompt, "
            "asks the proposer what the drawing lacks beside the image, keeps of the proposed phrases those "
            "that bring the prompt nearer, and repeats. (Ren, Reverse Prompt, chapter 4, ARPO.)",
            search_aliases=["reverse prompt", "image to prompt", "interrogator", "img2prompt", "caption"],
            inputs=[
                io.Image.Input("image", tooltip="The reference; of several images the first."),
                io.Model.Input("model", tooltip="The model that draws, with whatever patches it carries."),
                io.Clip.Input("clip", tooltip="Its text encoder; the prompts are encoded with it."),
                io.Vae.Input("vae", tooltip="Its VAE; the drawings are decoded with it."),
                io.Conditioning.Input("negative", tooltip="What to steer away from, at cfg above 1."),
                io.Latent.Input(
                    "latent_image", tooltip="An empty latent of the size to draw at; near the reference's "
                    "proportions if you can.",
                ),
                schema.Proposer.Input(
                    "proposer", tooltip="Who says what a drawing lacks: a phrase bank, a vision model or a "
                    "chat server.",
                ),
                schema.Scorer.Input("scorer", tooltip="Who says how near prompts and images are: CLIP."),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Of every drawing, so that they differ by their prompts alone. Keep it fixed.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=10000, tooltip="Of each drawing, as in KSampler.",
                ),
                io.Float.Input(
                    "cfg", default=7.0, min=schema.Least(0.0), max=100.0, step=0.1, round=0.01,
                    tooltip="Of each drawing, as in KSampler.",
                ),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.SAMPLER_NAMES, default="euler",
                    tooltip="Of each drawing, as in KSampler.",
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="normal",
                    tooltip="Of each drawing, as in KSampler.",
                ),
                *schema.widgets(arpo_inputs.SEARCH),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="The prompt found; for CLIP Text Encode."),
                io.Image.Output(display_name="image", tooltip="What the model draws from it."),
                io.Image.Output(display_name="images", tooltip="The drawings of all iterations in order."),
                io.String.Output(
                    display_name="report", tooltip="The whole search as JSON; Edit Prompt reads it."
                ),
                io.Image.Output(display_name="plot", tooltip="The similarities over the iterations."),
                io.String.Output(
                    display_name="negative",
                    tooltip="What drawings had and the image has not, and what the proposer said is absent, "
                    "as a negative prompt. The drawings were made without it.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image, model, clip, vae, negative, latent_image, proposer, scorer, seed, steps, cfg,
        sampler_name, scheduler, iterations, prompt, exclude, best_by, drop, min_gain, target, keep_as,
    ) -> io.NodeOutput:  # fmt: skip
        settings = ARPO(iterations, target, min_gain, Phrases.of(exclude.replace("\n", ",")).content, drop)
        file = log_file(keep_as, Path(folder_paths.get_output_directory()) / FOLDER)
        bar = Bar(model, steps, iterations + 1)
        first = Phrases.of(prompt) if prompt.strip() else None
        earlier = load_log(file) if file and file.is_file() else None

        def generate(text: str, seed: int) -> torch.Tensor:
            positive = clip.encode_from_tokens_scheduled(clip.tokenize(text))
            latent = fitted_latent(model, latent_image)[:1]
            noise = comfy.sample.prepare_noise(latent, seed)
            drawn = comfy.sample.sample(
                model, noise, steps, cfg, sampler_name, scheduler, positive, negative, latent,
                callback=bar.on_step, disable_pbar=True, seed=seed,
            )  # fmt: skip
            picture = vae.decode(drawn)
            return bar.drawn(picture.reshape(-1, *picture.shape[-3:])[0, ..., :3])

        log = None
        for log in settings.search(image[0, ..., :3], generate, proposer, scorer, seed, first, earlier):
            comfy.model_management.throw_exception_if_processing_interrupted()
            if file:
                save_log(log, file)
        if log.failure:  # the prompt that would come out is the one that was given
            raise ProposerError(log.failure)
        return output(log, best_by)


def output(log: Log, best_by: str) -> io.NodeOutput:
    best = log.best if best_by == arpo_inputs.PICTURE else log.best_by_text
    pictures = torch.stack([step.picture.float().cpu() for step in log.steps])
    negative = log.negative(best)
    summary = {
        "prompt": best.phrases.prompt,
        "negative": negative,
        "image_similarity": best.image_similarity,
        "text_similarity": best.text_similarity,
        "stopped": log.stopped,
        "drawings": len(log.steps),
    }
    report = json.dumps({"summary": summary, "log": as_dict(log)}, indent=2)
    figure = image(arpo_figure, log)
    picture = best.picture[None].float().cpu()
    return io.NodeOutput(best.phrases.prompt, picture, pictures, report, figure, negative)
