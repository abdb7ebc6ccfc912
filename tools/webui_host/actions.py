"""What a test can ask of the running host; every function takes and returns what JSON can hold."""

import base64
import hashlib
import importlib
import io
import runpy
import sys
import tempfile
import time
import traceback
from pathlib import Path

import boot
import torch
from modules import errors, processing, rng, script_callbacks, scripts, shared, ui
from PIL import Image, ImageDraw


def create_ui() -> dict:
    """Build the whole Gradio interface, as the host does at its start."""
    script_callbacks.before_ui_callback()
    shared.demo = ui.create_ui()
    return {"blocks": len(shared.demo.blocks), "scripts": titles()}


def reload_ui() -> dict:
    """What the button "Reload UI" does, but for the server."""
    script_callbacks.app_reload_callback()
    script_callbacks.script_unloaded_callback()
    importlib.import_module("modules.initialize").initialize_rest(reload_script_modules=True)
    return create_ui()


def titles() -> list[str]:
    return [script.title() for script in scripts.scripts_txt2img.alwayson_scripts]


def samplers() -> list[str]:
    return [sampler.name for sampler in importlib.import_module("modules.sd_samplers").all_samplers]


REPORTED = [f"{kept['exception']} {kept['traceback'][-1:]}" for kept in errors.get_exceptions()]
"""What the host reported and went on from; its own list keeps five, ours goes on after its start."""
_report = errors.report


def _noted(message, *, exc_info=False):
    REPORTED.append(f"{message} {traceback.format_exc() if exc_info else ''}")
    _report(message, exc_info=exc_info)


errors.report = _noted


def swallowed() -> list[str]:
    """Failures that the host reported and went on from."""
    return [*REPORTED]


def picture(size: int = 64, *, mask: bool = False) -> Image.Image:
    """An input for img2img: stripes of colour, or a mask that covers a disc."""
    made = Image.new("L" if mask else "RGB", (size, size), 0)
    draw = ImageDraw.Draw(made)
    if mask:
        draw.ellipse((size // 4, size // 4, size * 3 // 4, size * 3 // 4), fill=255)
    else:
        for i in range(8):
            draw.rectangle((i * size // 8, 0, (i + 1) * size // 8, size), fill=(i * 32, 255 - i * 30, 90))
    return made


def defaults(runner) -> list:
    """The values of all script arguments as the interface shows them at its start."""
    values: list = [0] * max([1, *(script.args_to or 0 for script in runner.scripts)])
    for script in runner.scripts:
        for i, control in enumerate(script.controls or ()):
            values[script.args_from + i] = control.value
    return values


def generate(
    kind="txt2img", args=None, inpaint=False, sigmas=None, latents=None, options=None, attributes=None, **more
):
    """Make pictures; `args` maps a script's title to the list of its arguments, `sigmas` imposes a schedule.

    With `latents` the last latents are written to that file, and the first noise is that of seed 7 in float32
    on the CPU, the same on every host. `attributes` are set on the processing object, `options` on the host.
    """
    txt2img = kind == "txt2img"
    runner = scripts.scripts_txt2img if txt2img else scripts.scripts_img2img
    made_of = getattr(processing, f"StableDiffusionProcessing{'Txt2Img' if txt2img else 'Img2Img'}")
    known = made_of.__dataclass_fields__
    fields = {
        **{"prompt": "a cat", "negative_prompt": "a dog", "seed": 5, "steps": 5, "cfg_scale": 3.0},
        **{"width": 64, "height": 64, "sampler_name": "Euler", "scheduler": "Automatic"},
        **{"do_not_save_samples": True, "do_not_save_grid": True},
        **more,
    }
    if txt2img:
        hires = {"hr_additional_modules": ["Use same choices"], "hr_cfg": fields["cfg_scale"]}
        hires["hr_upscaler"] = next(iter(shared.latent_upscale_modes), "None")  # Neo has none of these
        fields = (hires if fields.get("enable_hr") else {}) | fields
    else:
        fields = {"init_images": [picture()], "denoising_strength": 0.6, **fields}
        fields |= {"mask": picture(mask=True), "inpainting_fill": 1, "mask_blur": 0} if inpaint else {}
    fields = {name: value for name, value in fields.items() if name in known or name in more}
    p = made_of(sd_model=shared.sd_model, **fields)
    p.is_api = True  # before the scripts: otherwise those for sampler and seed overwrite ours
    for name, value in (attributes or {}).items():
        setattr(p, name, value)
    if sigmas is not None:
        p.sampler_noise_scheduler_override = lambda steps: torch.tensor(sigmas)
    values = defaults(runner)
    for script in runner.alwayson_scripts:
        own = (args or {}).get(script.title(), [])
        values[script.args_from : script.args_from + len(own)] = own
    p.scripts, p.script_args = runner, values
    torch.manual_seed(0)  # Forge draws from it behind masks
    started, before = time.perf_counter(), len(swallowed())
    with Imposed(latents, options or {}, sigmas):
        try:
            processed = processing.process_images(p)
        finally:
            p.close()
    return {
        "images": [digest(image) for image in processed.images],
        "infotexts": processed.infotexts,
        "comments": processed.comments,
        "swallowed": swallowed()[before:],
        "seconds": round(time.perf_counter() - started, 3),
    }


def alter_sampler():
    """The class of samplers that Forge and its kin add; None where there is none."""
    names = ("modules_forge.alter_samplers", "modules_forge.forge_alter_samplers")
    found = (getattr(sys.modules.get(name), "AlterSampler", None) for name in names)
    return next(filter(None, found), None)


class Imposed:
    """For one run: settings of the host, and if latents are wanted the first noise and their capture.

    `sigmas` are for those samplers of Forge and its kin that would take no others than their own.
    """

    def __init__(self, latents, options, sigmas=None):
        self.latents, self.options, self.kept = latents, options, []
        self.sigmas, self.own = sigmas, alter_sampler()

    def __enter__(self):
        self.data = dict(shared.opts.data)
        shared.opts.data.update(self.options)
        if self.own and self.sigmas is not None:
            self.levels = self.own.get_sigmas
            self.own.get_sigmas = lambda sampler, p, steps: torch.tensor(self.sigmas)
        if self.latents:
            self.next, self.sample = rng.ImageRNG.next, processing.decode_latent_batch
            first = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(7))
            rng.ImageRNG.next = lambda imposed: first.clone()
            processing.decode_latent_batch = self.keep

    def keep(self, model, batch, *args, **kwargs):
        self.kept.append(batch.detach().float().clone())
        return self.sample(model, batch, *args, **kwargs)

    def __exit__(self, *_):
        shared.opts.data.clear()
        shared.opts.data.update(self.data)
        if self.own and self.sigmas is not None:
            self.own.get_sigmas = self.levels
        if self.latents:
            rng.ImageRNG.next, processing.decode_latent_batch = self.next, self.sample
            torch.save(self.kept, self.latents)


def digest(image: Image.Image) -> str:
    """The picture's pixels as a short hash."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()[:16]


def http(method: str, path: str, body=None) -> dict:
    """A request to the host's real API, without a socket; pictures in the answer are hashed."""
    response = client().request(method, path, json=body)
    try:
        answer = response.json()
    except ValueError:
        return {"status": response.status_code, "text": response.text[:500]}
    if isinstance(answer, dict) and isinstance(answer.get("images"), list):
        answer["digests"] = [digest(Image.open(io.BytesIO(base64.b64decode(i)))) for i in answer["images"]]
    return {"status": response.status_code, "json": answer}


_CLIENT = []


def client():
    """The host's API on a FastAPI application of its own, with the routes extensions add at their start.

    It answers errors as the host's does: A1111 by its API, the Forge family by its application.
    """
    if not _CLIENT:
        from fastapi import FastAPI
        from fastapi.testclient import TestClient
        from modules.api.api import Api
        from modules.call_queue import queue_lock

        handler = getattr(boot.program(), "_handle_exception", None)
        app = FastAPI(exception_handlers={Exception: handler} if handler else None)
        Api(app, queue_lock)
        script_callbacks.app_started_callback(shared.demo, app)
        _CLIENT.append(TestClient(app, raise_server_exceptions=False))
    return _CLIENT[0]


def run(source: str, **names):
    """Run Python in the host; what it leaves in `result` is the answer."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test.py"
        file.write_text(source, encoding="utf-8")
        return runpy.run_path(str(file), names).get("result")
