"""The tiny world as a bench: conditions to sample it under, and judges of what comes out.

Every cell of every bench that judges a method by pictures goes through here, so that their figures compare:
the same prompts, the same noise, the same judges. 2,048 samples come in three parts, each with a seed of its
own; the spread over the parts is the error bar. Figures of two methods share prompts and noise, so that their
difference is far steadier than either.

What is sampled is kept under output/drift/, and judged from there: a new judge costs no model call.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from steadydiff.denoiser import Denoise, Run
from steadydiff.drift.recorder import Recorder
from steadydiff.drift.stepping import Sampler, step_calls
from steadydiff.files.atomic import atomic_write
from steadydiff.metrics.deltas import delta_paper, residual
from steadydiff.metrics.frechet import frechet_distance, moments
from steadydiff.metrics.kid import kernel_distance
from steadydiff.metrics.precision_recall import precision_recall
from steadydiff.metrics.running import RunningMoments
from steadydiff.samplers import sample_ddpm, sample_dpmpp_2m, sample_euler, sample_heun
from steadydiff.tinyworld import files, sampling
from steadydiff.tinyworld.reader import attributes, found
from steadydiff.tinyworld.scenes import Scenes, caption, render, sample_scenes
from steadydiff.tinyworld.text import tokenize
from steadydiff.tinyworld.train import HELD_OUT, SCALE_FACTOR
from tools.bench.shared.frame import Figures

PARTS = (683, 683, 682)  # samples with seed 0, 1, 2
REAL = 2048
BATCH, DECODE_BATCH = 128, 8  # the fastest on a CPU
REAL_SEED, TRAINING_SEED, CALIBRATION_SEED = HELD_OUT + 90, HELD_OUT + 91, HELD_OUT + 92
DRAWING_SEED = HELD_OUT + 80  # and the following, one for each part
# Root mean square of the judges' features, so that distances in both spaces are of one size.
UNITS = {"reader": 5.9, "clip": 96**-0.5}
KEPT = Path(os.environ.get("STEADYDIFF_DRIFT_WORK", "output/drift"))

Correct = Callable[[Denoise, Run], Denoise]
"""(denoise, run) -> corrected denoiser, as a method's `wrap`."""


def plain(denoise: Denoise, run: Run) -> Denoise:
    """Correct nothing."""
    del run
    return denoise


@dataclass(frozen=True)
class Condition:
    """How pictures are sampled: all of a run but weights and method.

    sampler: one of SAMPLERS
    """

    variant: str
    sampler: str
    steps: int
    cfg: float

    @property
    def run(self) -> Run:
        return sampling.run_of(self.variant, self.steps)

    @property
    def sample(self) -> Sampler:
        """The sampler as one function of denoiser, first state and sigmas."""
        return SAMPLERS[self.sampler](self.run.space)

    def __str__(self) -> str:
        return f"{self.variant} {self.sampler} {self.steps} cfg {self.cfg:g}"


SAMPLERS: dict[str, Callable] = {
    "euler": lambda space: sample_euler,
    "ddpm": lambda space: partial(sample_ddpm, space=space),
    "dpmpp_2m": lambda space: sample_dpmpp_2m,
    "heun": lambda space: sample_heun,
}

Guide = Callable[[Condition, list[str]], Denoise]
"""(condition, prompts) -> the guided model for them; of the shipped weights, as `guided`, or of others."""


@dataclass(frozen=True)
class DrawnSamples:
    """What a run left behind: final latents, norms of the predicted noise per step, variances, seconds."""

    latents: Tensor
    facts: dict


# --- what the model is asked for --------------------------------------------------------------------------


def scenes_of(part: int, n: int) -> Scenes:
    """The held-out scenes that part's prompts describe."""
    return sample_scenes(HELD_OUT + 10 + part, n)


@cache
def clean_of(part: int, n: int) -> Tensor:
    """Clean latents of the drawings that part's prompts describe."""
    return encoded(scenes_of(part, n))


def captions(scenes: Scenes) -> list[str]:
    return [caption(scenes, i) for i in range(len(scenes))]


@cache
def guide_of(folder: Path) -> Guide:
    """The guided model of weights that lie in a folder as the shipped ones do in theirs."""

    @torch.no_grad()
    def guide(condition: Condition, prompts: list[str]) -> Denoise:
        unet, text = _diffusion(condition.variant, folder)
        return sampling.denoiser(condition.variant, unet, *sampling.embed(text, prompts), condition.cfg)

    return guide


guided = guide_of(files.FOLDER)


class Way(NamedTuple):
    """What benches compare: condition, name of the samples as in `samples`, correction, and model."""

    condition: Condition
    name: str
    correct: Correct
    guide: Guide = guided


@torch.no_grad()
def encoded(scenes: Scenes) -> Tensor:
    """Clean latents of drawings, as the sampler sees them."""
    return encoded_pictures(render(scenes))


@torch.no_grad()
def encoded_pictures(pictures: Tensor) -> Tensor:
    """Clean latents of pictures [N, 3, H, W] in 0..1."""
    model = _autoencoder()
    return torch.cat([model.encode(x * 2 - 1)[0] for x in pictures.split(DECODE_BATCH)]) * SCALE_FACTOR


@torch.no_grad()
def decoded(latents: Tensor) -> Tensor:
    """Pictures in 0..1."""
    model = _autoencoder()
    parts = (latents / SCALE_FACTOR).split(DECODE_BATCH)
    return torch.cat([(model.decode(z).clamp(-1, 1) + 1) / 2 for z in parts])


# --- sampling ---------------------------------------------------------------------------------------------


def samples(
    condition: Condition, part: int, n: int, correct: Correct, name: str, guide: Guide = guided
) -> DrawnSamples:
    """Sample a part, or take what an earlier run of the same name kept.

    name: says everything about the correction, and about weights that are not the shipped ones; samples of
          another must have another
    """
    identity = {"condition": asdict(condition), "part": part, "n": n, "name": name, "weights": weights()}

    def make() -> tuple[dict[str, Tensor], dict]:
        made = sample(condition, part, n, correct, guide)
        return {"latents": made.latents.half()}, made.facts

    tensors, facts = kept(f"{condition.variant}-{condition.sampler}-{condition.steps}", identity, make)
    return DrawnSamples(tensors["latents"].float(), facts)


def kept(
    stem: str, identity: dict, make: Callable[[], tuple[dict[str, Tensor], dict]]
) -> tuple[dict[str, Tensor], dict]:
    """What an earlier run made and kept under this identity, or else what `make` makes: tensors and facts."""
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    file = KEPT / f"{stem}-{digest}.safetensors"
    if file.is_file():
        with safe_open(file, "pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return tensors, json.loads(stored.metadata()["facts"])
    tensors, facts = make()
    with atomic_write(file, by=str(os.getpid())) as draft:
        save_file(tensors, draft, {"facts": json.dumps(facts)})
    return tensors, facts


@torch.no_grad()
def sample(condition: Condition, part: int, n: int, correct: Correct, guide: Guide = guided) -> DrawnSamples:
    """Sample a part's prompts, with a recorder between model and correction."""
    run = condition.run
    prompts, clean = captions(scenes_of(part, n)), clean_of(part, n)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(part))
    recorder = Recorder(run, step_calls(condition.sample, noise[:1], run))
    residuals, done = RunningMoments(), []
    seconds = 0.0
    for at in range(0, n, BATCH):
        model = recorder.around(guide(condition, prompts[at : at + BATCH]))
        x = sampling.first_state(condition.variant, noise[at : at + BATCH], run.sigmas[0])
        with torch.random.fork_rng([]):
            torch.manual_seed(part * 100_000 + at)  # of samplers that add noise
            begun = time.perf_counter()
            x = recorder.sample(condition.sample, correct(model, run), x)
            seconds += time.perf_counter() - begun
        residuals.add(residual(x, clean[at : at + BATCH], 0.0, run.space))
        done.append(x)
    facts = {
        "norms": recorder.sampling_rms,
        "variances": recorder.state_variance,
        "delta": delta_paper(residuals, 0.0),
        "seconds": seconds,
    }
    return DrawnSamples(torch.cat(done), facts)


@cache
@torch.no_grad()
def training_norms(condition: Condition, n: int, guide: Guide = guided) -> tuple[float, ...]:
    """Root mean squared norm that the guided model predicts on noised drawings, with their own captions."""
    scenes = sample_scenes(TRAINING_SEED, n)
    prompts, clean = captions(scenes), encoded(scenes)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(TRAINING_SEED))
    recorder = Recorder(condition.run, range(condition.run.steps))
    for at in range(0, n, BATCH):
        model = recorder.around(guide(condition, prompts[at : at + BATCH]))
        recorder.train(model, clean[at : at + BATCH], noise[at : at + BATCH])
    return recorder.training_rms


# --- judging ----------------------------------------------------------------------------------------------


def figures(way: Way, part: int, n: int, noised: int = 512) -> Figures:
    """Figures of one way on the first n prompts of a part, as in `judged`."""
    made = samples(way.condition, part, n, way.correct, way.name, way.guide)
    return {**judged(way.condition, made, part, noised, way.guide)}


def judged(
    condition: Condition, made: DrawnSamples, part: int, noised: int = 512, guide: Guide = guided
) -> dict[str, float]:
    """Figures of one part, see docs/drift.md for what each says.

    noised: drawings that the norms are compared with; 0 for none
    guide:  the model that made the samples, whose norms they are
    """
    figures = looked_at(decoded(made.latents), scenes_of(part, len(made.latents)))
    if noised:
        wanted = training_norms(condition, noised, guide)
        drift = [norm / goal - 1 for norm, goal in zip(made.facts["norms"], wanted, strict=True)]
        figures["norm_drift"] = sum(map(abs, drift)) / len(drift)
        figures["norm_last"] = drift[-1]
    figures["delta"], figures["seconds"] = made.facts["delta"], made.facts["seconds"]
    figures["variance"] = made.facts["variances"][-1] / real_variance() - 1
    return figures


def looked_at(pictures: Tensor, scenes: Scenes) -> dict[str, float]:
    """What the judges make of pictures that should show these scenes."""
    read, own, real = _reader().read(pictures), features_of(pictures), real_features()
    texts = _clip().text_features(captions(scenes))
    figures = {
        "found": float(found(read, attributes(scenes)).float().mean()),
        "clip_text": float((own["clip"] * UNITS["clip"] * texts).sum(1).mean()),
    }
    for space, features in own.items():
        figures[f"frechet_{space}"] = frechet_distance(*moments(features), *moments(real[space]))
        figures[f"kid_{space}"] = kernel_distance(features, real[space])
        precision, recall = precision_recall(real[space][: len(pictures)], features)
        figures |= {f"precision_{space}": precision, f"recall_{space}": recall}
    return figures


def drawings(part: int, n: int) -> Figures:
    """What a perfect sampler would get: figures of real drawings, encoded and decoded as all others are."""
    scenes = sample_scenes(DRAWING_SEED + part, n)
    return {**looked_at(decoded(encoded(scenes)), scenes)}


@torch.no_grad()
def features_of(pictures: Tensor) -> dict[str, Tensor]:
    """Features of pictures [N, 3, 64, 64] in 0..1, per judge; their mean square is about 1."""
    judges = {"reader": _reader().features, "clip": _clip().picture_features}
    return {
        space: torch.cat([judge(x) for x in pictures.split(64)]) / UNITS[space]
        for space, judge in judges.items()
    }


@cache
def _real() -> tuple[dict[str, Tensor], dict]:
    def make() -> tuple[dict[str, Tensor], dict]:
        latents, moments = encoded(sample_scenes(REAL_SEED, REAL)), RunningMoments()
        moments.add(latents)
        return features_of(decoded(latents)), {"variance": float(moments.variance.mean())}

    return kept("real", {"weights": weights(), "judges": judges(), "n": REAL, "units": UNITS}, make)


def real_features() -> dict[str, Tensor]:
    """Of real drawings, encoded and decoded: what a perfect sampler would draw through this autoencoder."""
    return _real()[0]


def real_variance() -> float:
    """Variance of their clean latents, mean over elements."""
    return _real()[1]["variance"]


@cache
def weights() -> str:
    """A digest of the shipped models that make the samples."""
    return digest_of(*(files.FOLDER / f"{name}.safetensors" for name in (*files.VARIANTS, "vae")))


def digest_of(*paths: Path) -> str:
    """A digest of files' content."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


@cache
def judges() -> str:
    """A digest of the shipped models that judge."""
    names = ("reader.safetensors", "clip/open_clip_model.safetensors")
    return digest_of(*(files.FOLDER / name for name in names))


@cache
@torch.no_grad()
def _diffusion(variant: str, folder: Path):
    """The models of a variant, the network traced, which saves a fifth of the time and changes no bit."""
    unet, text = files.load_diffusion(variant, folder)
    example = torch.zeros(2, 4, 8, 8), torch.zeros(2), text(tokenize(["", ""]))
    with warnings.catch_warnings():
        # It is deprecated in favour of torch.compile, which needs a C++ compiler and minutes; and torch's own
        # group_norm looks whether a batch has one value per channel, which never comes up here.
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.trace(unet, example, check_trace=False)), text


@cache
def _autoencoder():
    return files.load_autoencoder().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@cache
def _reader():
    return files.load_reader()


@cache
def _clip():
    return files.load_clip()
