"""Fits kept in files: under which key, what was found, and what was measured of one that has not ended.

A key tells models and runs apart, not prompts and seeds: `digest` of what the fit depends on.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Run
from ..errors import CheckpointError, SettingsError
from ..files.atomic import write_whole
from ..files.checkpoints import load_checkpoint, save_checkpoint
from ..files.text import read_text
from ..methods.epsilon_scaling import EpsilonScaling
from ..methods.method import Method
from ..methods.window import later_half
from ..references import OTHER_KIND, is_shipped
from ..schedules import MadeFor, Schedule, parsed
from .correction import PLAIN, Correction
from .fit import Fit, FitSettings, Progress, Signs, disagree, why_off
from .measurement import FEW_STEP_ONLY, OWN_SAMPLES

logger = logging.getLogger("steadydiff")

FORMAT, VERSION = "steadydiff_auto", 1
UNFINISHED = "fit_in_progress"
FOUND = "auto"  # the folder of kept fits, among the schedules


@dataclass(frozen=True)
class SavedFit:
    """A fit, with what it was made for. `to_json` and `from_json` keep it.

    key:        `digest` of what it depends on
    pictures:   samples it was made on
    references: the real pictures beside them, in words
    prompt:     `digest` of the prompts, which the key does not hold
    shape:      [C, *S] of one latent
    seen:       digest of the references where the key does not hold one
    """

    key: str
    fit: Fit
    made_for: MadeFor
    pictures: int
    references: str
    prompt: str
    shape: tuple[int, ...]
    seen: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether the references were the model's own samples, so that only few-step error shows."""
        return self.references.startswith(OWN_SAMPLES)

    def to_json(self) -> str:
        known = {name: value for name, value in asdict(self.made_for).items() if value is not None}
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self), "made_for": known}, indent=1)

    @classmethod
    def from_json(cls, source: str | Mapping[str, Any]) -> SavedFit:
        """Read a kept fit.

        Raises:  SettingsError if it is none, of another version, or damaged.
        """
        data = parsed(source, "a kept fit")
        if data.get("format") != FORMAT or data.get("version") != VERSION:
            raise SettingsError(
                f"a kept fit is JSON of format {FORMAT!r}, version {VERSION}; got format "
                f"{data.get('format')!r}, version {data.get('version')!r}"
            )
        try:
            fit = dict(data["fit"])
            fit["correction"] = Correction(**fit["correction"])
            fit |= {name: Signs(**fit[name]) for name in ("before", "after")}
            fit["scores"] = {str(name): (float(a), float(b)) for name, (a, b) in fit["scores"].items()}
            facts = {one.name: data["made_for"].get(one.name) for one in fields(MadeFor)}
            own = {name: data[name] for name in ("key", "pictures", "references", "prompt")}
            shape = tuple(torch.Size(data["shape"]))
            found = cls(fit=Fit(**fit), made_for=MadeFor(**facts), shape=shape, seen=data.get("seen"), **own)
            _check(found.fit.correction)
            found.report()  # which formats every number
            return found
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SettingsError(f"a kept fit lacks something or holds what it cannot ({error!r})") from error

    @property
    def headline(self) -> str:
        """What was found, in a sentence or two."""
        found, before, trust = self.fit.correction, self.fit.before, FitSettings().trust
        if found != PLAIN:
            return f"Corrected: {in_words(found)}."
        if disagree(before, trust):
            return "Judge and variance disagree. The model is left as it is."
        if why_off(before, trust):
            return "Nothing to correct. The model is left as it is."
        return "Nothing that was tried helps. The model is left as it is."

    def report(self) -> str:
        """The headline and the figures behind it, in lines."""
        fit, before = self.fit, self.fit.before
        lines = [self.headline]
        if self.is_own:
            lines[0] = f"No pictures connected: {FEW_STEP_ONLY}. {lines[0]}"
        elif is_shipped(self.references):
            lines[0] = f"Against {self.references}, which {OTHER_KIND}. {lines[0]}"
        lines.append(f"Why: {self._why}.")
        if "disagree" in lines[0]:
            lines.append(_two_reasons(self.is_own))
        lines.append(f"Plain pictures: {_told(before)}.")
        if fit.correction != PLAIN:
            lines.append(f"Corrected pictures: {_told(fit.after)}.")
        tried = [f"{name} {score:.3f} ± {error:.3f}" for name, (score, error) in fit.scores.items()]
        if len(tried) > 1:
            lines.append(f"Distance to the references, plain is 1: {', '.join(tried)}.")
        lines.append(f"Measured on {self.pictures} pictures, against {self.references}.")
        return "\n".join(lines)

    @property
    def _why(self) -> str:
        """The reason; of a correction without its letters, which the headline has in words."""
        chosen = str(self.fit.correction)
        if self.fit.correction == PLAIN or chosen not in self.fit.scores:
            return self.fit.reason
        return f"it brings samples {1 - self.fit.scores[chosen][0]:.0%} nearer to the references"

    def remarks(self, prompt: str, shape: Sequence[int]) -> list[str]:
        """Say what is otherwise now than when it was measured, though it still holds."""
        sizes = [torch.Size(one[1:]).numel() for one in (self.shape, shape)]
        said = ["Measured with another prompt."] if prompt != self.prompt else []
        if not 0.25 <= sizes[0] / sizes[1] <= 4:
            said.append(f"Measured at another size: latents of {list(self.shape)}, now {list(shape)}.")
        return said


def _check(correction: Correction) -> None:
    """Raise ValueError, TypeError or OverflowError for what is read and no correction."""
    facts = asdict(correction)
    if not isinstance(facts.pop("later"), bool) or not all(map(math.isfinite, facts.values())):
        raise ValueError(f"{correction!r}")


def in_words(correction: Correction) -> str:
    """Return a correction as the nodes are called that do it."""
    told = [
        f"Time Shift {correction.factor:.4g}" if correction.factor != 1 else "",
        f"Epsilon Scaling {correction.scale:.4g}" if correction.scale != 1 else "",
        f"DiffIER {correction.strength:.4g}" if correction.strength else "",
        f"the sampler's own noise times {correction.s_noise:.4g}" if correction.s_noise != 1 else "",
    ]
    later = " in the later half" if correction.scale != 1 and correction.later else ""
    return " and ".join(part + (later if part.startswith("Eps") else "") for part in told if part)


def _told(signs: Signs) -> str:
    """Say what signs mean, and whether they are clear."""
    trust = FitSettings().trust
    clear = [abs(one) >= trust * error for one, error in ((signs.j, signs.j_error), (signs.v, signs.v_error))]
    hard = ("too hard" if signs.j > 0 else "too easy") + " for the model" if clear[0] else "unclear"
    varied = f"they vary too {'much' if signs.v > 0 else 'little'}" if clear[1] else "unclear"
    return (
        f"difficulty j {signs.j:+.3f} ± {signs.j_error:.3f} ({hard}), "
        f"variance v {signs.v:+.3f} ± {signs.v_error:.3f} ({varied}), against the references"
    )


def _two_reasons(own: bool) -> str:
    other = (
        "an error that finer steps do not have"
        if own
        else "images that the model was trained on, or that show something else than the prompt asks for"
    )
    return (
        f"Two possible reasons, as the model finds its own pictures too hard though they vary less: chance "
        f"in few pictures; {other}."
    )


def lambda_schedule(correction: Correction, made_for: MadeFor) -> Schedule | None:
    """Return a correction's lambda as a schedule over the sigmas it was made for, None where it has none."""
    if correction.scale == 1 or not made_for.sigmas:
        return None
    half = later_half(Run("ve", made_for.sigmas)) if correction.later else math.inf
    scales = tuple(correction.scale if sigma <= half else 1.0 for sigma in made_for.sigmas[:-1])
    return Schedule("table", scales, made_for)


def methods_of(correction: Correction, made_for: MadeFor, run: Run) -> tuple[Method, ...]:
    """Return the methods that do in a run what a fit chose, innermost first; none where that is nothing.

    Its lambda becomes a schedule, which other runs read off by level, and are told that they differ.
    """
    methods = replace(correction, scale=1.0).methods(run)
    if schedule := lambda_schedule(correction, made_for):
        methods = (*methods, EpsilonScaling(schedule=schedule))
    return methods


def schedule_in(text: str) -> Schedule:
    """Return the schedule that a file of schedules or a kept fit holds.

    Raises:  SettingsError if it is neither, or a fit without a lambda.
    """
    data = parsed(text, "a schedule")
    if data.get("format") != FORMAT:
        return Schedule.from_json(data)
    kept = SavedFit.from_json(data)
    schedule, found = lambda_schedule(kept.fit.correction, kept.made_for), kept.fit.correction
    if schedule is None or replace(found, scale=1.0, later=False) != PLAIN:
        raise SettingsError(f"Auto Correct found {found} there, which is no schedule; use Auto Correct")
    return schedule


class Unfinished:
    """What was measured of a fit that has not ended, in a file that goes when it has.

    problem: `digest` of all it depends on; a file of another problem is not read
    own:     the model's own finely stepped samples so far [M, C, *S], in the host's units, or None
    done:    what was tried so far
    """

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        self.own: Tensor | None = None
        self.done: Progress = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            tensors, header = load_checkpoint(self.path, kind=UNFINISHED, version=VERSION)
        except CheckpointError as error:
            logger.warning("SteadyDiff: %s; measuring begins anew", error)
            return
        if header.get("problem") != self.problem:
            return
        self.own = tensors.get("own")
        for at, name in enumerate(header["tried"]):
            parts = ((key.partition("."), one) for key, one in tensors.items())
            self.done[name] = {field: one for (number, _, field), one in parts if number == str(at)}

    def save(self) -> None:
        """Write all that was measured; SteadyDiffError where that fails."""
        tried = enumerate(self.done.values())
        tensors = {f"{at}.{key}": one for at, kept in tried for key, one in kept.items()}
        if self.own is not None:
            tensors["own"] = self.own
        save_checkpoint(
            self.path, tensors, kind=UNFINISHED, version=VERSION, problem=self.problem, tried=[*self.done]
        )

    def end(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def file_name(made_for: MadeFor, key: str) -> str:
    """Return the name of the file in the folder FOUND that keeps what was found for a model and run.

    It is short whatever the model's is: Windows takes 260 letters for a whole path, Linux 255 for a name.
    """
    model = re.sub(r"[^\w.-]+", "_", str(made_for.model))[:48]
    return f"{model}_{made_for.sampler}_{made_for.steps}_cfg{made_for.cfg:g}_{key[:8]}.json"


def load(path: Path, key: str) -> SavedFit | None:
    """Return the fit that a file holds, None where there is none for this key.

    Raises:  SettingsError for a file that cannot be read, naming it.
    """
    try:
        found = SavedFit.from_json(read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path.name} cannot be read ({error}); delete it, or measure again") from error
    return found if found.key == key else None


def save(path: Path, found: SavedFit) -> None:
    """Write a fit whole; SteadyDiffError where that fails."""
    write_whole(path, found.to_json())
