"""What a search is told, part by part, with what this host has to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module, util
from pathlib import Path
from typing import Any

from modules import paths, sd_samplers

from steadydiff.arpo.bank_files import NO_BANK, OWN, WILDCARDS, find_banks
from steadydiff.errors import SettingsError
from steadydiff.inputs import arpo as arpo_inputs
from steadydiff.inputs.kinds import Choice, Input, Number, Text, Whole

from ..settings import server_default
from .captioners import PROPOSER, TOOLTIP, captioners

Settings = dict[str, dict[str, Any]]
"""By part, by input."""

WORDS = Text(
    "words",
    "",
    "Words to exchange in every phrase of the prompts found, like dog -> cat, between commas or one a line; "
    "whole words in any case. Nothing after the arrow takes one out. The drawings are of before.",
)


def parts() -> dict[str, tuple[Input, ...]]:
    """What a search is told, part by part, with what this host has to choose from."""
    return {
        "drawing": drawing_inputs(),
        "search": (*arpo_inputs.SEARCH, arpo_inputs.COMBINE, WORDS),
        "proposer": (
            Choice(
                "proposer",
                arpo_inputs.BANK,
                (arpo_inputs.BANK, arpo_inputs.SERVER),
                "Who says what a drawing lacks: phrase bank, lists of phrases and nothing to install; chat "
                "server, a vision-language model behind an address.",
            ),
            Choice("captioner", PROPOSER, (PROPOSER, *captioners()), TOOLTIP),
        ),
        "bank": (
            replace(arpo_inputs.PHRASE_BANK[0], options=(*banks(), NO_BANK)),
            *arpo_inputs.PHRASE_BANK[1:],
        ),
        "server": tuple(replace(one, default=server_default(one)) for one in arpo_inputs.CHAT_SERVER),
        "scorer": arpo_inputs.CLIP_SCORER,
    }


def drawing_inputs() -> tuple[Input, ...]:
    """How each prompt is drawn, named as ComfyUI's nodes name it."""
    samplers, schedulers = tuple(sd_samplers.visible_sampler_names()), ()
    if util.find_spec("modules.sd_schedulers"):  # Forge Classic's samplers bring their own
        schedulers = tuple(one.label for one in import_module("modules.sd_schedulers").schedulers)
    as_in = "Of each drawing, as in txt2img."
    return (
        Text("negative", "", "What to steer away from, at cfg above 1."),
        Choice(
            "sampler_name",
            "Euler" if "Euler" in samplers else samplers[0],
            samplers,
            as_in,
        ),
        *([Choice("scheduler", schedulers[0], schedulers, as_in)] if schedulers else []),
        Whole("steps", 20, 1, 150, as_in),
        Number("cfg", 7.0, 1.0, 30.0, 0.1, as_in),
        Whole("width", 512, 64, 2048, "Of each drawing; near the reference's proportions if you can."),
        Whole("height", 512, 64, 2048, "Of each drawing; near the reference's proportions if you can."),
        Whole(
            "seed",
            0,
            -1,
            2**32 - 1,
            "Of every drawing, so that they differ by their prompts alone. -1: one by chance for the whole "
            "search.",
        ),
    )


def read_settings(given: Mapping[str, Mapping[str, object]]) -> Settings:
    """Return every part's values, those that are missing by default.

    Raises:  SettingsError for a value out of range or a name that is not known.
    """
    known = parts()
    if unknown := given.keys() - known.keys():
        raise SettingsError(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return {part: _read_part(part, inputs, given.get(part, {})) for part, inputs in known.items()}


def _read_part(part: str, inputs: tuple[Input, ...], given: Mapping[str, object]) -> dict[str, Any]:
    names = [one.name for one in inputs]
    if not isinstance(given, Mapping) or given.keys() - set(names):
        raise SettingsError(f"{part} is an object with some of {', '.join(names)}; got {given!r}")
    try:
        return {one.name: one.read(given.get(one.name, one.default)) for one in inputs}
    except SettingsError as error:
        raise SettingsError(f"{part}: {error}") from None


def banks() -> dict[str, Path]:
    """The banks that ship, the user's in models/steadydiff_banks, and folders of wildcards."""
    models, extensions = Path(paths.models_path), Path(paths.data_path) / "extensions"
    wildcards = [models / WILDCARDS, *sorted(extensions.glob(f"*/{WILDCARDS}"))]
    return find_banks(*(models / kind for kind in OWN), wildcards=wildcards)


def log_folder() -> Path:
    return Path(paths.data_path) / "output" / "steadydiff_arpo"
