"""ComfyUI: its own language models as something to ask, through the CLIP they are loaded as.

Duck-typed like `comfy.py`. ComfyUI's text generation knows Qwen3-VL, Qwen3.5, Gemma 3 and Gemma 4, each with
a tokenizer of its own; what can see pictures shows in the tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...arpo.language.pictures import same_size, shrunk
from ...errors import HostError

SEEING = (
    "load one that sees pictures (Qwen3-VL, Qwen3.5, Gemma 3 or Gemma 4), or use Chat Server (SteadyDiff)"
)

# A model's own marks, e.g. <|image_pad|> or <start_of_turn>, and the host's embedding:file. In a text, which
# may hold a model's earlier answer, they would be taken for pictures, turns and files.
_MARK = re.compile(r"<[|/]?\w{1,40}[|]?>|embedding:")


@dataclass(frozen=True)
class HostModel:
    """Ask a model the host has loaded: call it with a text and the pictures it is about.

    clip:        the host's CLIP object around it
    temperature: 0 takes the likeliest word each time, and the seed means nothing
    max_tokens:  length of an answer
    side:        longest side of pictures in pixels

    The host moves the model to its device and away again, and ends it when the user cancels.
    """

    clip: Any
    temperature: float = 0.2
    seed: int = 0
    max_tokens: int = 512
    side: int = 768

    def check(self, pictures: int) -> None:
        """Refuse, with HostError, a model that cannot write, or cannot see that many pictures at once."""
        if not hasattr(self.clip, "generate"):
            raise HostError("this ComfyUI cannot write texts; update it, or use Chat Server (SteadyDiff)")
        transformer = _writing_part(self.clip)
        if transformer is None:
            raise HostError(f"the connected text encoder cannot write; {SEEING}")
        seen = _pictures_in(self._tokens("?", [torch.zeros(64, 64, 3)] * pictures))
        if not seen or not hasattr(transformer, "preprocess_embed"):
            raise HostError(f"the connected language model cannot see pictures; {SEEING}")
        if seen != pictures:
            raise HostError("the connected language model sees one picture at a time; choose enhanced")

    def __call__(self, text: str, pictures: Sequence[Tensor] = ()) -> str:
        """Return the model's answer to a text about pictures [H, W, 3] in 0..1."""
        ids = self.clip.generate(
            self._tokens(text, pictures),
            do_sample=self.temperature > 0,
            max_length=self.max_tokens,
            temperature=self.temperature,
            top_k=64,
            top_p=0.95,
            min_p=0.05,
            repetition_penalty=1.05,
            seed=self.seed,
        )
        return self.clip.decode(ids)

    def _tokens(self, text: str, pictures: Sequence[Tensor]) -> dict:
        image = same_size([shrunk(picture, self.side) for picture in pictures]) if pictures else None
        text = _MARK.sub(" ", text)
        return self.clip.tokenize(text, image=image, skip_template=False, min_length=1, thinking=False)


def _writing_part(clip: Any) -> Any:
    """The network that writes: inside the host's wrappers, which offer `generate` for any text encoder."""
    modules = clip.cond_stage_model.named_modules()
    named = (part for name, part in modules if name.rpartition(".")[2] == "transformer")
    return next((part for part in named if hasattr(part, "generate")), None)


def _pictures_in(tokens: Any) -> int:
    """How many of the tokens stand for one picture each."""
    rows = next(iter(tokens.values())) if isinstance(tokens, dict) else tokens
    entries = (entry[0] for entry in rows[0])
    return sum(isinstance(e, dict) and e.get("type") == "image" and len(e["data"]) == 1 for e in entries)
