"""SteadyDiffCompare: the same seed without and with our corrections, or once per scale, on one sheet."""

import comfy.sample
import comfy.samplers
import torch
from comfy_api.latest import io, ui

from ..steadydiff.errors import SettingsError
from ..steadydiff.hosts.comfy.attach import attach, chooser_of, patches_of, without_ours
from ..steadydiff.hosts.patch import Patch
from ..steadydiff.methods.epsilon_scaling import EpsilonScaling
from ..steadydiff.schedules import table_schedule
from ..steadydiff.sheets import ROWS, difference, draw_sheet, verdict
from .shared import ksampler, schema
from .shared.bar import Bar
from .shared.host import HOST, fitted_latent

MOST = 12  # columns of a sheet


class SteadyDiffCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffCompare",
            display_name="Compare (SteadyDiff)",
            category=schema.CATEGORY,
            description="Draws the same seed twice, without SteadyDiff's corrections and with those the "
            "model carries, and lays the pictures side by side. Says by how much they differ, or "
            '"identical: nothing acted". With scales: one picture per scale of Epsilon Scaling. Takes as '
            "long as that many KSamplers.",
            search_aliases=["before after", "with and without", "xy plot", "grid", "same seed"],
            advanced=["denoise"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model with its corrections. Without them it is drawn as it would "
                    "be with no node of SteadyDiff; LoRAs and other patches stay.",
                ),
                io.Conditioning.Input("positive", tooltip="The prompt of all pictures."),
                io.Conditioning.Input("negative", tooltip="What to steer away from, at cfg above 1."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="As in KSampler: an empty latent, or one to draw on, with or "
                    "without a mask. Each of a batch has a row.",
                ),
                io.Vae.Input("vae", tooltip="Decodes all of the pictures."),
                ksampler.seed("The same for all pictures, so that they differ by the corrections alone."),
                ksampler.steps("Steps of each picture, as in KSampler."),
                ksampler.cfg("CFG scale of each picture, as in KSampler."),
                ksampler.sampler_name("Sampler of each picture, as in KSampler."),
                ksampler.scheduler("Scheduler of each picture, as in KSampler."),
                io.String.Input(
                    "scales",
                    default="",
                    tooltip="Empty: without and with. Numbers, such as 1, 1.005, 1.01, 1.02: one picture "
                    "per scale of Epsilon Scaling, beside what the model carries; 1 adds nothing. The "
                    "others are compared with the first.",
                ),
                io.Boolean.Input(
                    "show_difference",
                    default=False,
                    tooltip="Also show on the sheet where the last column differs from the first, 8 times "
                    "as strong. Grey is equal.",
                ),
                schema.number(
                    "denoise",
                    1.0,
                    0.0,
                    1.0,
                    0.01,
                    "As in KSampler: below 1 the structure of the given latent is kept.",
                    optional=True,
                ),
            ],
            outputs=[
                io.Image.Output(display_name="before", tooltip="Without; with scales, of the first."),
                io.Image.Output(display_name="after", tooltip="With; with scales, of the last."),
                io.Image.Output(
                    display_name="difference", tooltip="After minus before, 8 times; grey is equal."
                ),
                io.Image.Output(display_name="sheet", tooltip="All pictures with their labels."),
                io.String.Output(
                    display_name="info", tooltip="By how much the pictures differ: mean, largest, PSNR."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, scales=None):
        try:
            if scales is not None:  # None is a link, whose value is not known yet
                read_scales(scales)
        except SettingsError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent_image,
        vae,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        scales,
        show_difference,
        denoise=1.0,
    ) -> io.NodeOutput:
        values = read_scales(scales)
        models = by_scale(model, values) if values else without_and_with(model)
        bar = Bar(model, steps, len(set(models.values())), previews=False)

        def draw(patched) -> torch.Tensor:
            latent = fitted_latent(patched, latent_image)
            # Anew for each: it also sets what samplers without a seed of their own draw from.
            noise = comfy.sample.prepare_noise(latent, seed, latent_image.get("batch_index"))
            drawn = comfy.sample.sample(
                patched,
                noise,
                steps,
                cfg,
                sampler_name,
                scheduler,
                positive,
                negative,
                latent,
                denoise=denoise,
                noise_mask=latent_image.get("noise_mask"),
                callback=bar.on_step,
                disable_pbar=True,
                seed=seed,
            )
            pictures = vae.decode(drawn.unbind()[0] if drawn.is_nested else drawn)
            pictures = pictures.reshape(-1, *pictures.shape[-3:])[..., :3].float().cpu()
            bar.drawn(pictures[0])
            return pictures

        drawn = {patched: draw(patched) for patched in dict.fromkeys(models.values())}
        columns = {label: drawn[patched] for label, patched in models.items()}
        (first, before), *others = columns.items()
        after, named = others[-1][1], len(others) > 1
        told = [(f"{label}: " if named else "") + verdict(before, one) for label, one in others]
        info = "\n".join([f"compared with {first}:", *told] if named else told)
        apart = difference(before, after)
        if show_difference:
            columns["difference x8"] = apart
        more = f", first {ROWS} of {len(before)} pictures" if len(before) > ROWS else ""
        title = f"seed {seed}{more}" + ("" if named else f"; {info}")  # a line per scale would dwarf pictures
        sheet = torch.from_numpy(draw_sheet(title, columns))[None] / 255
        if chooser := chooser_of(model, HOST):
            info = f"{info}\n{chooser.told}"
        return io.NodeOutput(before, after, apart, sheet, info, ui=ui.PreviewImage(sheet, cls=cls))


def without_and_with(model) -> dict:
    """The two models by their labels; the very same one, to be drawn once, if it carries nothing of ours."""
    names = ["Auto Correct"] if chooser_of(model, HOST) else []
    names += [patch.settings.title for patch in patches_of(model, HOST)]
    without = without_ours(model, HOST) if names else model
    return {"without": without, f"with {' + '.join(names) or 'nothing of SteadyDiff'}": model}


def by_scale(model, scales: list[float]) -> dict:
    """The model at each scale, by its label."""
    return {
        f"scale {scale:.8g}": model if scale == 1 else attach(model, Patch(EpsilonScaling(scale)), HOST)
        for scale in scales
    }


def read_scales(text: str) -> list[float]:
    """The numbers of the widget, none if it is empty; SettingsError for what makes no sheet."""
    if not text.strip():
        return []
    scales = list(dict.fromkeys(float(f"{scale:.8g}") for scale in table_schedule(text)))  # as labelled
    if not 2 <= len(scales) <= MOST:
        raise SettingsError(
            f"scales holds 2 to {MOST} different numbers, such as 1, 1.005, 1.01, or nothing; got {text!r}"
        )
    return scales
