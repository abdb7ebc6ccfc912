"""Who writes the first prompt where none is given: models whose files are here. None is fetched."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from modules import devices, paths
from torch import Tensor

from steadydiff.arpo.clip_scorer import as_pil
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.tagger import MOST, TAGGERS, find_taggers, load_tagger

PROPOSER, BLIP, DEEPBOORU = "who suggests", "BLIP", "DeepBooru"
WORDS_OF_BLIP = "bert-base-uncased", "vocab.txt"  # which its code fetches beside the weights
TOOLTIP = (
    "Who writes the first prompt if none is given. Also listed: BLIP and DeepBooru, once img2img's own "
    "buttons have fetched them (about 0.9 GB from storage.googleapis.com, about 0.6 GB from github.com); WD "
    "taggers in models/steadydiff_taggers, from huggingface.co (about 0.4 GB)."
)

Caption = Callable[[Tensor], Phrases]


def captioners() -> dict[str, Callable[[], Caption]]:
    """By name: what loads it."""
    models = Path(paths.models_path)
    found: dict[str, Callable[[], Caption]] = {}
    found |= {name: partial(load_tagger, file) for name, file in find_taggers(models / TAGGERS).items()}
    if has_blip(models):
        found[BLIP] = lambda: blip_sentence
    if any((models / "torch_deepdanbooru").glob("*.pt")):
        found[DEEPBOORU] = lambda: deepbooru_tags
    return found


def has_blip(models: Path) -> bool:
    """Whether all is here that the host would fetch for it."""
    if not any((models / BLIP).glob("*.pth")) or BLIP not in paths.paths:
        return False
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(*WORDS_OF_BLIP), str)


def blip_sentence(picture: Tensor) -> Phrases:
    """By the host's own model, alone: the host's interrogation goes on with a CLIP, which it would fetch."""
    host = import_module("modules.interrogate").InterrogateModels("")
    host.dtype = host.dtype or torch.float32
    device = getattr(host, "load_device", devices.device_interrogate)
    host.blip_model = host.load_blip_model().to(device, host.dtype)
    return Phrases.of(host.generate_caption(as_pil(picture)))


def deepbooru_tags(picture: Tensor) -> Phrases:
    """By the host's own model, with the threshold of its settings."""
    model = import_module("modules.deepbooru").model
    model.start()
    try:
        text = model.tag_multi(as_pil(picture), force_disable_ranks=True)
    finally:
        model.stop()
    tags = Phrases.of(text.replace("\\", "").replace("_", " ")).content
    return Phrases(tags[:MOST])
