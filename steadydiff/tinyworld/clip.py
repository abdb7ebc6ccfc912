"""A tiny CLIP of the tiny world, in open_clip's own form: its settings, captions, loss, files and face.

`train.py` trains it and `files.load_clip` loads what ships. open_clip is optional and imported when used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..optional import import_open_clip
from .reader import HEADS, answers_loss
from .scenes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZE_PX,
    SIZES,
    STYLES,
    Scenes,
    caption,
    with_article,
)
from .text import END, MAX_TOKENS, SPECIAL, START, UNKNOWN, VOCABULARY

# open_clip_config.json. Four layers make open_clip's ResNet; its text tower reads at the first <end>.
CONFIG = {
    "model_cfg": {
        "embed_dim": 96,
        "vision_cfg": {"image_size": SIZE_PX, "layers": [1, 1, 1, 1], "width": 16},
        "text_cfg": {
            "context_length": MAX_TOKENS,
            "vocab_size": len(VOCABULARY),
            "hf_tokenizer_name": "tinyworld",
            "width": 64,
            "heads": 4,
            "layers": 2,
            "pool_type": "eos",
            "eos_id": END,
            "pad_id": END,
        },
    },
    "preprocess_cfg": {
        "mean": [0.80, 0.79, 0.81],
        "std": [0.21, 0.20, 0.19],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": MAX_TOKENS,
    "bos_token": SPECIAL[START],
    "eos_token": SPECIAL[END],
    "pad_token": SPECIAL[END],
    "unk_token": SPECIAL[UNKNOWN],
}
LARGEST_SCALE = 100.0  # of similarities in the loss, as CLIP bounds it


def normalised(pictures: Tensor) -> Tensor:
    """Pictures [B, 3, 64, 64] in 0..1 as the picture tower wants them."""
    mean, std = (torch.tensor(CONFIG["preprocess_cfg"][k])[:, None, None] for k in ("mean", "std"))
    return (pictures - mean) / std


# --- training ---------------------------------------------------------------------------------------------


def partial_caption(scenes: Scenes, i: int, rng: np.random.Generator) -> str:
    """Some of what can be said of scene i, as loose phrases in any order: a prompt that still grows."""

    def maybe_a(words: str) -> str:
        return with_article(words) if rng.random() < 0.5 else words

    def thing(k: int) -> str:
        words = (
            SIZES[scenes.size[i, k]],
            tuple(COLOURS)[scenes.colour[i, k]],
            SHAPES[scenes.shape[i, k]],
        )
        return maybe_a(" ".join([w for w in words if rng.random() < 0.7] or [words[rng.integers(3)]]))

    phrases = [thing(0)]
    if scenes.count[i] == 2 and rng.random() < 0.5:
        phrases = [f"{thing(0)} {RELATIONS[scenes.relation[i]]} {thing(1)}"]
    elif scenes.count[i] == 2:
        phrases += [thing(1)]
    else:
        phrases += [f"{rng.choice(('at the ', ''))}{POSITIONS[scenes.position[i]]}"]
    phrases += [maybe_a(f"{STYLES[scenes.style[i]]} drawing")]
    phrases += [f"{rng.choice(('on ', ''))}{maybe_a(tuple(BACKGROUNDS)[scenes.background[i]])} background"]
    kept = rng.permutation(phrases)[: rng.integers(1, len(phrases) + 1)]
    return ", ".join([caption(scenes, i, rng), *kept[:2]] if rng.random() < 0.25 else kept)


class Trainee(nn.Module):
    """The model and, only while it trains, the reader's questions asked of its picture features.

    Captions alone leave the shapes unlearned: colours, places and backgrounds already tell most pictures of a
    batch apart, so that little is to be gained from the feature that is hardest to see.
    """

    def __init__(self):
        super().__init__()
        self.clip = import_open_clip().CLIP(**CONFIG["model_cfg"])
        self.heads = nn.ModuleDict(
            {k: nn.Linear(CONFIG["model_cfg"]["embed_dim"], n) for k, n in HEADS.items()}
        )

    def loss(self, pictures: Tensor, tokens: Tensor, answers: dict[str, Tensor]) -> dict[str, Tensor]:
        """Shapes:  pictures [B, 3, 64, 64] in 0..1; tokens [B, K, 24], K captions each; answers [B]."""
        seen = self.clip.encode_image(normalised(pictures))
        read = self.clip.encode_text(tokens.flatten(0, 1), normalize=True).unflatten(0, tokens.shape[:2])
        logits = {k: head(seen) for k, head in self.heads.items()}
        match = contrastive_loss(F.normalize(seen, dim=-1), read, self.clip.logit_scale)
        answer = answers_loss(logits, answers)
        return {"loss": match + answer, "match": match, "answer": answer}


def contrastive_loss(pictures: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """Each picture must know its caption among all, and each caption its picture.

    Shapes:  pictures [B, D], texts [B, K, D] of length 1, K captions of each picture; log_scale a number.
    At its optimum a similarity is, up to scale and offset, the log of how much likelier the caption becomes
    by seeing the picture: every right phrase raises it by what it tells, every wrong one lowers it.
    """
    scale, own = log_scale.clamp(max=math.log(LARGEST_SCALE)).exp(), torch.arange(len(pictures))
    logits = [scale * pictures @ captions.T for captions in texts.unbind(1)]
    return torch.stack([F.cross_entropy(x, own) for table in logits for x in (table, table.T)]).mean()


# --- files and face ---------------------------------------------------------------------------------------


def tokenizer_json() -> str:
    """tokenizer.json, with the token numbers that `text.tokenize` gives."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[a-z]+"), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[START]} $A {SPECIAL[END]}",
        special_tokens=[(SPECIAL[START], START), (SPECIAL[END], END)],
    )
    return tokenizer.to_str(pretty=True)


@dataclass(frozen=True)
class Clip:
    """A loaded model; similarities are dot products of its features, which have length 1."""

    model: Any  # open_clip's CLIP, a module
    tokenizer: Callable[[list[str]], Tensor]

    @torch.no_grad()
    def picture_features(self, pictures: Tensor) -> Tensor:
        """Features [B, 96] of pictures [B, 3, 64, 64] in 0..1."""
        return self.model.encode_image(normalised(pictures), normalize=True)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Features [B, 96] of texts."""
        return self.model.encode_text(self.tokenizer(list(texts)), normalize=True)
