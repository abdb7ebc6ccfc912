"""Who writes the first prompt where none is given: taggers whose files are here. None is fetched."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from modules import paths
from torch import Tensor

from steadydiff.arpo.clip_scorer import as_pil
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.tagger import MOST, TAGGERS, find_taggers, load_tagger

PROPOSER, DEEPBOORU = "who suggests", "DeepBooru"
TOOLTIP = (
    "Who writes the first prompt if none is given. Also listed: DeepBooru, once img2img's own button has "
    "fetched it from github.com (0.6 GB); WD taggers in models/steadydiff_taggers, from huggingface.co "
    "(about 0.4 GB)."
)

Caption = Callable[[Tensor], Phrases]


def captioners() -> dict[str, Callable[[], Caption]]:
    """By name: what loads it."""
    models = Path(paths.models_path)
    found: dict[str, Callable[[], Caption]] = {}
    found |= {name: partial(load_tagger, file) for name, file in find_taggers(models / TAGGERS).items()}
    if any((models / "torch_deepdanbooru").glob("*.pt")):
        found[DEEPBOORU] = lambda: deepbooru_tags
    return found


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
