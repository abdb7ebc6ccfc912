"""CLIP as ARPO's scorer: any model of open_clip, by name, folder or file. open_clip is optional."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingsError, SteadyDiffError
from ..optional import import_open_clip
from .embeddings import identity_of

BATCH = 2048  # texts that are encoded at a time
OTHER = "other"
MODELS = ("ViT-L-14", "ViT-B-32", "ViT-H-14", "ViT-bigG-14", OTHER)
SIZES = {"ViT-L-14": "1.7 GB", "ViT-B-32": "0.6 GB", "ViT-H-14": "3.9 GB", "ViT-bigG-14": "10.2 GB"}
IDENTIFIED = "Photo of 2 cats, by the sea (oil on canvas)"  # shows how a tokenizer parts words
REMEMBERED = 40_000  # embeddings of texts; of ViT-L-14 some 120 MB


class TextMemory:
    """Embeddings of texts, each encoded once; texts that are new come as one batch."""

    def __init__(self, encode: Callable[[list[str]], Tensor]):
        self._encode, self._known = encode, dict[str, Tensor]()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Shapes:  result [N, D], float32 on the CPU, of length 1."""
        if len(self._known) > REMEMBERED:
            self._known.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for at in range(0, len(new), BATCH):
            batch = new[at : at + BATCH]
            self._known.update(zip(batch, unit(self._encode(batch)), strict=True))
        return torch.stack([self._known[text] for text in texts])


def unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.detach().float().cpu(), dim=-1)


@dataclass(frozen=True)
class OpenClipScorer:
    """A loaded model of open_clip as a `Scorer`.

    model, tokenizer, transform: as open_clip makes them; transform takes a PIL picture
    ready: called before each use; a host puts the model onto its device there
    """

    model: Any
    tokenizer: Callable[..., Tensor]
    transform: Callable[[Any], Tensor]
    ready: Callable[[], None] = lambda: None
    texts: TextMemory = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", TextMemory(self._encode_texts))

    @cached_property
    def identity(self) -> str:
        """Differs between models and between their tokenizers."""
        tokens = self.tokenizer([IDENTIFIED])[0].tolist()
        return identity_of(self.model, type(self.model).__name__, tokens)

    @torch.no_grad()
    def picture(self, picture: Tensor) -> Tensor:
        self.ready()
        pixels = self.transform(as_pil(picture))[None].to(self._device, self._dtype)
        return unit(self.model.encode_image(pixels))[0]

    def fits(self, texts: Sequence[str]) -> list[bool]:
        """True where a larger window shows the same tokens, and nothing but padding after them."""
        if not texts:
            return []
        window = self.model.context_length
        cut, whole = (self.tokenizer(list(texts), context_length=n) for n in (window, 4 * window))
        same = (cut == whole[:, :window]).all(1)
        return (same & (whole[:, window:] == whole[:, -1:]).all(1)).tolist()

    @torch.no_grad()
    def _encode_texts(self, texts: list[str]) -> Tensor:
        self.ready()
        return self.model.encode_text(self.tokenizer(texts).to(self._device))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


def load_scorer(
    model: str | Path,
    weights: str | Path = "",
    *,
    download: bool = False,
    device: torch.device | str = "cpu",
    half: bool | None = None,
    ready: Callable[[], None] = lambda: None,
) -> OpenClipScorer:
    """Load a model of open_clip.

    model: an architecture that open_clip knows, or a folder with open_clip_config.json
    weights: one of open_clip's tags for that architecture, or a file; a folder has its own
    download: fetch weights that are not on this computer; without it they are asked for in an error
    half: whether in float16; None where the device is not the CPU

    Raises:  SteadyDiffError naming the command that installs open_clip, or what is not there.
    """
    open_clip = import_open_clip()
    if isinstance(model, Path):
        name, tag = f"local-dir:{model}", None
        if not any(model.glob("*.safetensors")):  # open_clip would go on with random weights
            raise SettingsError(f"{model.name} has no weights; put open_clip_model.safetensors there")
    else:
        name, tag = model, str(weights)
        _check_known(open_clip, model, weights, download)
    with torch.random.fork_rng(devices=[]):  # initial weights must not move the caller's random numbers
        half = torch.device(device).type != "cpu" if half is None else half
        made, _, transform = open_clip.create_model_and_transforms(
            name, tag, precision="pure_fp16" if half else "fp32", device=device
        )
    tokenizer = open_clip.get_tokenizer(name)
    picture_transform: Any = transform
    return OpenClipScorer(made.eval().requires_grad_(False), tokenizer, picture_transform, ready)


def named_model(model: str, weights: str, architecture: str, home: Path) -> tuple[str | Path, str | Path]:
    """What `load_scorer` takes for what a user chose; files and folders only of `home`."""
    home = home.resolve()
    here = (home / weights).resolve()
    inside = bool(weights) and home in here.parents
    if inside and here.is_dir():
        return here, ""
    if model == OTHER and not architecture:
        raise SettingsError(
            f"model is other: name its architecture, or a folder of models/{home.name} as weights"
        )
    return architecture if model == OTHER else model, here if inside and here.is_file() else weights


def told_of(model: str | Path, weights: str | Path) -> tuple[str, bool]:
    """What `load_scorer` would say of a model, in a line, and whether a download is all that it lacks."""
    try:
        open_clip = import_open_clip()
        if isinstance(model, Path):
            return f"CLIP: {model.name}", False
        _check_known(open_clip, model, weights, True)
    except SteadyDiffError as error:
        return f"CLIP: {str(error).removeprefix('CLIP ')}", False
    if isinstance(weights, Path) or _is_here(open_clip.get_pretrained_cfg(model, weights)):
        return f"CLIP: {model}, on this computer", False
    size = SIZES.get(model, "some GB")
    return f"CLIP: {model}, {size} from huggingface.co, not on this computer", True


def _check_known(open_clip: Any, model: str, weights: str | Path, download: bool) -> None:
    """Refuse what open_clip has not, and what it would have to fetch unasked."""
    if model not in open_clip.list_models():
        raise SettingsError(f"open_clip knows no model {model!r}; ViT-L-14 is one it knows")
    if isinstance(weights, Path):
        return
    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights not in tags:
        raise SettingsError(f"open_clip has no weights {weights!r} for {model}; it has {', '.join(tags)}")
    if not download and not _is_here(open_clip.get_pretrained_cfg(model, weights)):
        raise SettingsError(
            f"the weights {weights} of {model} are not on this computer; allow the download, once, from "
            "huggingface.co (ViT-L-14: 1.7 GB), or give a folder or file that is here"
        )


def _is_here(source: dict) -> bool:
    """Whether the hub's cache holds the weights, under a name open_clip looks for."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, name = source.get("hf_hub", "").rpartition("/")
    names = [name] if name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    return bool(repository) and any(isinstance(try_to_load_from_cache(repository, n), str) for n in names)


def as_pil(picture: Tensor) -> Any:
    """A picture [H, W, 3] in 0..1 as PIL's, which comes with open_clip and with every host."""
    from PIL import Image

    return Image.fromarray((picture.detach().float().cpu() * 255).round().clamp(0, 255).byte().numpy())
