"""Embeddings of a bank's lists, kept from one run to the next: a file for each scorer and list."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, SteadyDiffError
from ..files.checkpoints import all_finite, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from .search import Scorer

logger = logging.getLogger("steadydiff")

KIND, VERSION = "arpo_embeddings", 1
KEPT_FROM = 32  # phrases; shorter lists are embedded sooner than a file is read
SAMPLES = 64  # of each weight, for a model's identity


def kept_embeddings(scorer: Scorer, texts: Sequence[str], width: int, folder: Path) -> Tensor:
    """The embeddings [N, D] of texts: from a file of `folder`, or by the scorer, which are then kept there.

    A file that is damaged is written anew, and one that cannot be written is only missed. What a scorer says
    that has no `identity`, a text that changes whenever its weights do, is never kept.

    width: D
    """
    identity = getattr(scorer, "identity", "")
    if not identity:
        return scorer.texts(texts)
    name = hashlib.sha256(json.dumps([identity, *texts]).encode()).hexdigest()[:32]
    file = folder / f"{name}.safetensors"
    try:
        found = load_checkpoint(file, kind=KIND, version=VERSION)[0].get("embeddings")
        if found is not None and found.shape == (len(texts), width) and all_finite([found]):
            return found.float()
    except CheckpointError as error:
        if file.exists():
            logger.warning("SteadyDiff: %s; the phrases are embedded again", error)
    embeddings = scorer.texts(texts)
    try:
        save_checkpoint(
            file,
            {"embeddings": embeddings},
            by=str(os.getpid()),
            kind=KIND,
            version=VERSION,
            scorer=identity,
            phrases=len(texts),
        )
    except SteadyDiffError as error:
        logger.warning("SteadyDiff: the phrases' embeddings are not kept: %s", error)
    return embeddings


@torch.no_grad()
def identity_of(model: nn.Module, *facts: object) -> str:
    """A digest that differs between models whose weights differ; some numbers of each weight are read.

    facts: what else the embeddings depend on, such as how texts are parted into tokens
    """
    digest = hashlib.sha256(repr(facts).encode())
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // SAMPLES)][: SAMPLES + 1]
        digest.update(some.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
