"""Who helps a search: the CLIP that scores, and who proposes phrases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from modules import devices, paths

from steadydiff.arpo.bank_files import EMBEDDINGS, named_lists
from steadydiff.arpo.clip_scorer import OpenClipScorer, load_scorer, told_of
from steadydiff.arpo.language.keys import find_key
from steadydiff.arpo.language.proposer import VisionProposer
from steadydiff.arpo.language.server import ChatServer
from steadydiff.arpo.language.templates import Templates
from steadydiff.arpo.phrase_bank import ABSENT, PhraseBank
from steadydiff.arpo.search import Proposer, Scorer
from steadydiff.arpo.tagger import Captioned
from steadydiff.errors import SettingsError
from steadydiff.inputs import arpo as arpo_inputs
from steadydiff.tinyworld.scorer import named_model

from .captioners import PROPOSER, captioners
from .drawing import check_interrupted, make_room
from .settings import Settings, banks


@lru_cache(maxsize=1)
def kept_scorer(model: str, weights: str, architecture: str, download: bool) -> OpenClipScorer:
    """Load a CLIP and keep it for the next search; it lies on the CPU until it is used."""
    home = Path(paths.models_path) / "open_clip"
    name, source = named_model(model, weights.strip(), architecture.strip(), home)
    device = torch.device(devices.device)

    def ready() -> None:
        check_interrupted()
        scorer.model.to(device)

    half = device.type != "cpu"
    scorer = load_scorer(name, source, download=download, half=half, ready=ready)
    return scorer


def new_proposer(settings: Settings, scorer: Scorer) -> Proposer:
    """The one that is chosen; a server's key that is missing is told now."""
    chosen, captioner = settings["proposer"]["proposer"], settings["proposer"]["captioner"]
    made = _chat(**settings["server"]) if chosen == arpo_inputs.SERVER else _bank(scorer, **settings["bank"])
    return made if captioner == PROPOSER else Captioned(made, captioners()[captioner]())


def _bank(
    scorer: Scorer, bank: str, most: int, against: float, content: str, style: str, more: str
) -> PhraseBank:
    lists = named_lists(banks(), bank, more, content, style)
    return PhraseBank(lists, scorer, most, against, ABSENT, Path(paths.models_path) / EMBEDDINGS)


def _chat(
    url,
    model,
    framework,
    seed,
    temperature,
    max_tokens,
    image_size,
    templates,
    key_name,
    free_memory,
    timeout,
    text_model,
    options,
) -> VisionProposer:
    server = ChatServer(
        url,
        model.strip(),
        key_name,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        side=image_size,
        timeout=timeout,
        options=options,
        on_wait=check_interrupted,
        make_room=make_room if free_memory else None,
    )
    find_key(key_name, server.address.origin)
    writer = replace(server, model=text_model.strip()) if text_model.strip() else None
    sessions = (server.session, *([writer.session] if writer else []))
    return VisionProposer(server, framework, Templates.of(templates), writer, sessions)


def reach_server(settings: Mapping[str, Any]) -> None:
    """See that the chat server runs, if that is who proposes; ProposerError if it does not."""
    if settings["proposer"]["proposer"] == arpo_inputs.SERVER:
        ChatServer(settings["server"]["url"], settings["server"]["model"]).reach()


def told_of_clip(model: str, weights: str, architecture: str) -> tuple[str, bool]:
    """What is known of a CLIP in a line, and whether a download is all that it lacks."""
    home = Path(paths.models_path) / "open_clip"
    try:
        return told_of(*named_model(model, weights.strip(), architecture.strip(), home))
    except SettingsError as error:
        return f"CLIP: {error}", False
