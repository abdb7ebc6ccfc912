"""The tiny world's CLIP as a scorer, and as one of the choices beside open_clip's own models."""

from pathlib import Path

from ..arpo.clip_scorer import OpenClipScorer, load_scorer
from ..arpo.clip_scorer import named_model as named_by_user
from ..inputs.arpo import TINY
from .files import CLIP_FOLDER


def tiny_scorer() -> OpenClipScorer:
    """Load the tiny world's CLIP."""
    return load_scorer(CLIP_FOLDER)


def named_model(model: str, weights: str, architecture: str, home: Path) -> tuple[str | Path, str | Path]:
    """What `load_scorer` takes for what a user chose: the tiny world's, or a model of open_clip."""
    return (CLIP_FOLDER, "") if model == TINY else named_by_user(model, weights, architecture, home)
