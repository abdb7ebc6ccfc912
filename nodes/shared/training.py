"""What the training nodes share: inputs, what was connected to them, and what the host is told meanwhile."""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ...steadydiff.drift.meter import spelled
from ...steadydiff.errors import SettingsError
from ...steadydiff.hosts.comfy.train import Samples
from ...steadydiff.training.loop import Plan
from . import schema
from .host import say
from .meter import SECONDS

WRITTEN = "Trained. {} is written; press R to find it in the loader."


def picture_inputs() -> list:
    """What a training node takes instead of latents, and beside captions."""
    return [
        io.Image.Input("images", optional=True, tooltip="Pictures instead of samples; needs vae."),
        io.Vae.Input("vae", optional=True, tooltip="Encodes the images; the model's own VAE."),
        io.Conditioning.Input(
            "empty",
            optional=True,
            tooltip="Conditioning of an empty prompt: it stands in for a tenth of the captions, as when most "
            "models were trained.",
        ),
        io.Boolean.Input(
            "flip",
            default=False,
            optional=True,
            tooltip="Also train on every picture's mirror image; needs images. Not where captions or letters "
            "would be wrong then.",
        ),
    ]


def plan_inputs(plan: Plan) -> list:
    """What every training node lets one choose besides steps, rate and seed; `plan` holds the defaults."""
    return [
        io.Int.Input(
            "accumulate",
            default=plan.accumulate,
            min=1,
            max=65536,
            optional=True,
            tooltip="Batches in a step, one after the other: as if a batch were so many times as large, for "
            "more time but no more memory.",
        ),
        io.Int.Input(
            "warmup",
            default=plan.warmup,
            min=1,
            max=1_000_000,
            optional=True,
            tooltip="Steps over which the learning rate rises to its full size.",
        ),
        io.Float.Input(
            "decay",
            default=plan.decay,
            min=schema.Least(0),
            max=1.0,
            step=0.1,
            round=0.001,
            optional=True,
            tooltip="Last part of all steps over which the learning rate falls to 0; 0 keeps it.",
        ),
        io.Float.Input(
            "ema",
            default=plan.ema,
            min=schema.Least(0),
            max=0.999999,
            step=0.0001,
            round=1e-6,
            optional=True,
            tooltip="Decay of the weights' moving average, which is what is written. It is shorter at first, "
            "so that short trainings need no other.",
        ),
    ]


def loss_map():
    return io.Custom("LOSS_MAP").Output(
        display_name="loss_map", tooltip="For ComfyUI's Plot Loss Graph; every step so far."
    )


def plan_of(plan: Plan, steps: list, learning_rate: list, seed: list, **planned: list | None) -> Plan:
    """Return the plan that was asked for; `planned` as from `plan_inputs`, where given."""
    chosen = {name: value[0] for name, value in planned.items() if value}
    return replace(plan, steps=steps[0], lr=learning_rate[0], seed=seed[0], **chosen)


def samples_of(
    positive: list,
    samples: list | None,
    images: list | None,
    vae: list | None,
    empty: list | None,
    flip: list | None,
) -> Samples:
    """What was connected, pictures with their mirror images if asked for."""
    if not (flip and flip[0]):
        return Samples(latents(samples, images, vae), positive, empty[0] if empty else None)
    if not images:
        raise SettingsError("flip mirrors pictures; connect images instead of samples, or turn it off")
    both = latents(samples, [with_mirrored(batch) for batch in images], vae)
    captions = [caption for caption in positive for _ in (0, 1)] if len(positive) > 1 else positive
    return Samples(both, captions, empty[0] if empty else None)


def with_mirrored(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [B, H, W, 3], each followed by its mirror image."""
    return torch.stack((pictures, pictures.flip(2)), 1).flatten(0, 1)


def latents(samples: list | None, images: list | None, vae: list | None) -> torch.Tensor:
    """Clean latents [N, C, *S] of what was connected: latents, or pictures with their VAE."""
    if bool(samples) == bool(images):
        raise SettingsError("connect either samples or images")
    if samples:
        parts = [latent["samples"] for latent in samples]
    elif vae:
        parts = [vae[0].encode(x) for x in images or ()]
    else:
        raise SettingsError("images need the vae that encodes them; connect it")
    if len({part.shape[1:] for part in parts}) > 1:
        raise SettingsError("the samples differ in size; give them one size")
    return torch.cat(parts)


def progress(steps: int, clock: Callable[[], float] = time.monotonic):
    """Return what is called after every step: it moves the bar, obeys Cancel, says how long it takes."""
    bar, began, said = comfy.utils.ProgressBar(steps), 0.0, 0.0

    def on_step(done: int, loss: float) -> None:
        nonlocal began, said
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(1)
        now = clock()
        if done == 1:
            began = said = now
        elif now - said >= SECONDS:
            said = now
            left = spelled((now - began) / (done - 1) * (steps - done))
            say(f"Training: {done} steps, loss {loss:.3g}, at most {left} left. Cancel keeps what is learnt.")

    return on_step


@contextmanager
def training(seed: int):
    """Leave the host's inference mode, whose tensors training must not touch, and tell the host."""
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        comfy.model_management.in_training = True
        try:
            yield
        finally:
            comfy.model_management.in_training = False
