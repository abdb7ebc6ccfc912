"""SteadyDiffARPO: from a reference image back to a prompt for this very model."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io, ui

from ..steadydiff.arpo.log import Log, Step, as_dict, kept_names, load_log, log_file, save_log
from ..steadydiff.arpo.phrases import Phrases
from ..steadydiff.arpo.search import ARPO
from ..steadydiff.arpo.tagger import TAGGERS, Captioned, find_taggers, load_tagger
from ..steadydiff.errors import ProposerError
from ..steadydiff.inputs import arpo as arpo_inputs
from ..steadydiff.inputs.kinds import Choice
from ..steadydiff.plots import arpo_figure
from ..steadydiff.sheets import draw_sheet
from .shared import ksampler, schema
from .shared.bar import Bar
from .shared.host import fitted_latent
from .shared.plot import image

FOLDER = "steadydiff_arpo"
SHEET = " The node shows the first one's sheet."
LATER = "seeds", "max_tokens"  # which workflows of before have not
PROPOSER = "proposer"
CAPTIONER = (
    "Who writes the first prompt if none is given: the proposer, or a WD tagger. These are listed if their "
    "folder (from huggingface.co/SmilingWolf, about 0.4 GB; nothing is fetched) lies in "
    "models/steadydiff_taggers, with selected_tags.csv and model.onnx, if onnxruntime is installed, or "
    "model.safetensors and config.json, if timm is. Open_clip brings timm along."
)


def taggers() -> dict[str, Path]:
    return find_taggers(Path(folder_paths.models_dir) / TAGGERS)


class SteadyDiffARPO(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffARPO",
            display_name="Image to Prompt: ARPO (SteadyDiff)",
            category=schema.PROMPTS,
            description="Finds the prompt with which this model draws a given image: draws a first prompt, "
            "asks the proposer what the drawing lacks beside the image, keeps of the proposed phrases those "
            "that bring the prompt nearer, and repeats. (Ren, Reverse Prompt, chapter 4, ARPO.)",
            search_aliases=[
                "reverse prompt",
                "image to prompt",
                "prompt of a picture",
                "prompt from image",
                "img2prompt",
                "describe",
                "clip interrogator",
            ],
            has_intermediate_output=True,  # its sheet stays when the page is loaded anew
            advanced=["exclude", "best_by", "drop", "min_gain", "target", "keep_as"],
            inputs=[
                io.Image.Input("image", tooltip="The reference; combine says what becomes of several."),
                io.Model.Input("model", tooltip="The model that draws, with whatever patches it carries."),
                io.Clip.Input("clip", tooltip="Its text encoder; the prompts are encoded with it."),
                io.Vae.Input("vae", tooltip="Its VAE; the drawings are decoded with it."),
                io.Conditioning.Input("negative", tooltip="What to steer away from, at cfg above 1."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="An empty latent of the size to draw at; near the reference's "
                    "proportions if you can.",
                ),
                schema.Proposer.Input(
                    "proposer",
                    tooltip="Suggests phrases for the next round. Connect Phrase Bank, Vision "
                    "Model or Chat Server.",
                ),
                schema.Scorer.Input("scorer", tooltip="Measures how near prompts and images are (CLIP)."),
                ksampler.seed("Seed of every drawing. Keep it fixed, so that only the prompt changes."),
                ksampler.steps("Steps of each drawing, as in KSampler."),
                ksampler.cfg("CFG scale of each drawing, as in KSampler.", default=7.0),
                ksampler.sampler_name("Sampler of each drawing, as in KSampler."),
                ksampler.scheduler("Scheduler of each drawing, as in KSampler."),
                *schema.widgets(one for one in arpo_inputs.SEARCH if one.name not in LATER),
                *(schema.later(one) for one in arpo_inputs.SEARCH if one.name in LATER),
                schema.later(replace(arpo_inputs.COMBINE, tooltip=arpo_inputs.COMBINE.tooltip + SHEET)),
                schema.later(Choice("captioner", PROPOSER, (PROPOSER, *taggers()), CAPTIONER)),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="The prompt found; for CLIP Text Encode."),
                io.Image.Output(
                    display_name="image", tooltip="What the model draws from it, once for each seed."
                ),
                io.Image.Output(
                    display_name="images",
                    tooltip="The drawings of all iterations in order, those of one prompt together.",
                ),
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
        )

    @classmethod
    def execute(
        cls,
        image,
        model,
        clip,
        vae,
        negative,
        latent_image,
        proposer,
        scorer,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        iterations,
        prompt,
        exclude,
        best_by,
        drop,
        min_gain,
        target,
        keep_as,
        seeds=1,
        max_tokens=75,
        combine=arpo_inputs.FIRST,
        captioner=PROPOSER,
    ) -> io.NodeOutput:
        excluded = Phrases.of(exclude.replace("\n", ",")).content
        settings = ARPO(iterations, target, min_gain, excluded, drop, seeds, max_tokens)
        pictures = list(image[..., :3])
        if combine == arpo_inputs.MEAN:
            themes = [pictures]
        else:
            themes = [[picture] for picture in (pictures if combine == arpo_inputs.EACH else pictures[:1])]
        folder = Path(folder_paths.get_output_directory()) / FOLDER
        files = [log_file(name, folder) for name in kept_names(keep_as, len(themes))]
        bar = Bar(model, steps, (iterations + 1) * seeds * len(themes))
        first = Phrases.of(prompt) if prompt.strip() else None
        if first is None and captioner != PROPOSER:
            proposer = Captioned(proposer, load_tagger(taggers()[captioner]))

        def generate(text: str, seed: int) -> torch.Tensor:
            positive = clip.encode_from_tokens_scheduled(clip.tokenize(text))
            latent = fitted_latent(model, latent_image)[:1]
            noise = comfy.sample.prepare_noise(latent, seed)
            drawn = comfy.sample.sample(
                model,
                noise,
                steps,
                cfg,
                sampler_name,
                scheduler,
                positive,
                negative,
                latent,
                callback=bar.on_step,
                disable_pbar=True,
                seed=seed,
            )
            picture = vae.decode(drawn)
            return bar.drawn(picture.reshape(-1, *picture.shape[-3:])[0, ..., :3])

        logs = []
        for at, (theme, file) in enumerate(zip(themes, files, strict=True)):
            bar.part(at, len(themes))
            earlier, log = load_log(file) if file and file.is_file() else None, None
            for log in settings.search(theme, generate, proposer, scorer, seed, first, earlier):
                comfy.model_management.throw_exception_if_processing_interrupted()
                if file:
                    save_log(log, file)
            assert log is not None  # a search tells at least what stopped it
            if log.failure:  # the prompt that would come out is the one that was given
                raise ProposerError(log.failure)
            logs.append(log)
        best = [log.best if best_by == arpo_inputs.PICTURE else log.best_by_text for log in logs]
        made = sheet(image, best[0])
        bar.leave(made[0])
        return io.NodeOutput(*outputs(logs, best), ui=ui.PreviewImage(made, cls=cls))


def sheet(image: torch.Tensor, best: Step) -> torch.Tensor:
    """The reference beside what the prompt that was found draws, under that prompt."""
    drawn = best.picture[None].float().cpu()
    height, width = drawn.shape[1:3]
    reference = comfy.utils.common_upscale(
        image[:1, ..., :3].float().cpu().movedim(-1, 1), width, height, "lanczos", "center"
    ).movedim(1, -1)
    made = draw_sheet(best.phrases.prompt, {"reference": reference, "drawn from this prompt": drawn})
    return torch.from_numpy(made)[None] / 255


def outputs(logs: list[Log], best: list[Step]) -> tuple:
    """The prompts one a line; the pictures of all searches as one batch, as all are drawn at one size."""
    reports = [
        {
            "summary": {
                "prompt": step.phrases.prompt,
                "negative": log.negative(step),
                "image_similarity": step.image_similarity,
                "spread": step.spread,
                "text_similarity": step.text_similarity,
                "stopped": log.stopped,
                "drawings": len(log.steps),
            },
            "log": as_dict(log),
        }
        for step, log in zip(best, logs, strict=True)
    ]
    return (
        "\n".join(step.phrases.prompt for step in best),
        batch(picture for step in best for picture in step.pictures),
        batch(picture for log in logs for step in log.steps for picture in step.pictures),
        json.dumps(reports[0] if len(reports) == 1 else {"searches": reports}, indent=2),
        torch.cat([image(arpo_figure, log) for log in logs]),
        "\n".join(log.negative(step) for step, log in zip(best, logs, strict=True)),
    )


def batch(pictures: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack([picture.float().cpu() for picture in pictures])
