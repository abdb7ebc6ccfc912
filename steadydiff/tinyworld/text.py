"""Words of the tiny world: a closed vocabulary, its tokenizer, a text encoder with CLIP's layout and names.

ComfyUI builds its own CLIP text model from the same weights and `clip_config()`; this is the trainer's side.
"""

# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false, reportIncompatibleMethodOverride=false
# (torch types every child of a Module as "Tensor | Module")

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .scenes import BACKGROUNDS, COLOURS, POSITIONS, RELATIONS, SHAPES, SIZES, STYLES


def _words() -> tuple[str, ...]:
    named = " ".join([*SHAPES, *COLOURS, *SIZES, *POSITIONS, *RELATIONS, *BACKGROUNDS, *STYLES])
    return tuple(dict.fromkeys(f"a an drawing of at the on background {named}".split()))


WORDS = _words()
SPECIAL = ("<start>", "<end>", "<unknown>")
VOCABULARY = {token: i for i, token in enumerate((*SPECIAL, *WORDS))}
START, END, UNKNOWN = range(3)
MAX_TOKENS = 24  # start, up to 22 words, end; padded with <end> as CLIP-L is


class WordTokenizer:
    """The few methods of a Hugging Face tokenizer that ComfyUI's SDTokenizer calls, over whole words.

    Case and punctuation are ignored; a word outside the vocabulary becomes <unknown>.
    """

    words = WORDS

    @classmethod
    def from_pretrained(cls, *_args, **_kwargs) -> WordTokenizer:
        return cls()

    def __call__(self, text: str) -> dict[str, list[int]]:
        words = re.findall(r"[a-z]+", text.lower())
        return {"input_ids": [START, *(self._numbers.get(word, UNKNOWN) for word in words), END]}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: i for i, token in enumerate((*SPECIAL, *self.words))}

    def get_vocab(self) -> dict[str, int]:
        return dict(self._numbers)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        names = (*SPECIAL, *self.words)
        return " ".join(names[i] for i in token_ids if not (skip_special_tokens and i < len(SPECIAL)))


def tokenize(texts: Sequence[str], tokenizer: WordTokenizer | None = None) -> Tensor:
    """Token numbers [B, 24], int64; longer texts are cut as CLIP cuts them, keeping <end>."""
    tokenizer, rows = tokenizer or WordTokenizer(), torch.full((len(texts), MAX_TOKENS), END)
    for row, text in zip(rows, texts, strict=True):
        ids = tokenizer(text)["input_ids"][: MAX_TOKENS - 1]
        row[: len(ids)] = torch.tensor(ids)
    return rows


@dataclass(frozen=True)
class TextConfig:
    width: int = 64
    layers: int = 2
    heads: int = 4
    words: tuple[str, ...] = WORDS

    @property
    def vocabulary_size(self) -> int:
        return len(SPECIAL) + len(self.words)

    def clip_config(self) -> dict:
        """The same as the JSON that CLIP text models are built from."""
        return {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "hidden_act": "gelu",
            "max_position_embeddings": MAX_TOKENS,
            "vocab_size": self.vocabulary_size,
            "eos_token_id": END,
            "projection_dim": self.width,
        }


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(
            F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        )


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.layer_norm1, self.self_attn = nn.LayerNorm(width), _Attention(width, heads)
        self.layer_norm2, self.mlp = nn.LayerNorm(width), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.layer_norm2(x))))


class TextEncoder(nn.Module):
    """Token numbers [B, T] to one vector per token [B, T, D]: causal, CLIP's last hidden state, normed."""

    def __init__(self, config: TextConfig | None = None):
        super().__init__()
        self.config = config = config or TextConfig()
        text = self.text_model = nn.Module()
        text.embeddings, text.encoder = nn.Module(), nn.Module()
        text.embeddings.token_embedding = nn.Embedding(config.vocabulary_size, config.width)
        text.embeddings.position_embedding = nn.Embedding(MAX_TOKENS, config.width)
        text.encoder.layers = nn.ModuleList(_Layer(config.width, config.heads) for _ in range(config.layers))
        text.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        text = self.text_model
        positions = text.embeddings.position_embedding.weight[: tokens.shape[1]]
        x = text.embeddings.token_embedding(tokens) + positions
        for layer in text.encoder.layers:
            x = layer(x)
        return text.final_layer_norm(x)
