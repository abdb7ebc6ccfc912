"""A measurement in txt2img: one generation of the host's, whose sampling is ours."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from modules import processing, scripts, shared

from .host import on_main_thread

WIDGETS = {
    "prompt": "txt2img_prompt",
    "negative_prompt": "txt2img_neg_prompt",
    "sampler_name": "txt2img_sampling",
    "scheduler": "txt2img_scheduler",  # Forge Classic's samplers bring their own
    "steps": "txt2img_steps",
    "cfg_scale": "txt2img_cfg_scale",
    "distilled_cfg_scale": "txt2img_distilled_cfg_scale",  # Forge's and Neo's
    "width": "txt2img_width",
    "height": "txt2img_height",
}
SETTINGS = {
    name: elem_id
    for name, elem_id in WIDGETS.items()
    if name in processing.StableDiffusionProcessingTxt2Img.__dataclass_fields__
}
"""A run's settings, as far as this host has them, and its names for their widgets."""


class _OneScript(scripts.Script):
    """The one script of a measurement's generation."""

    args_from = args_to = 0

    def __init__(self, begin: Callable[[Any], None], errors: list[Exception]) -> None:
        self._begin, self._errors = begin, errors

    def title(self):
        return "SteadyDiff measurement"

    def process_before_every_sampling(self, p, *args, **kwargs):
        try:
            self._begin(p)
        except Exception as error:  # the host would go on without us
            self._errors.append(error)


def generate(settings: dict[str, Any], count: int, seed: int, begin: Callable[[Any], None]) -> None:
    """Generate `count` pictures that nobody sees; `begin` is called before they are sampled, and may take
    the sampler over. `settings` as in SETTINGS.

    Raises: what `begin` or the generation has raised.
    """
    errors: list[Exception] = []
    on_main_thread(lambda: _generate(settings, count, seed, begin, errors))
    if errors:
        raise errors[0]


def _generate(settings: dict, count: int, seed: int, begin: Callable, errors: list[Exception]) -> None:
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model,
        seed=seed,
        batch_size=count,
        do_not_save_samples=True,
        do_not_save_grid=True,
        **settings,
    )
    runner = scripts.ScriptRunner()
    runner.scripts = runner.alwayson_scripts = [_OneScript(begin, errors)]
    p.is_api = True
    p.scripts, p.script_args = runner, []
    try:
        with closing(p):
            processing.process_images(p)
    except Exception as error:  # for the thread that waits; Forge's own would only print it
        errors.append(error)
