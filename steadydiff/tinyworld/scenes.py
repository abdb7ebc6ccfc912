"""The pictures of the tiny world: scenes drawn at random by seed, their captions, and the renderer.

Endless and deterministic: `sample_scenes(seed, n)` gives the same scenes on every machine, `render` the same
pictures up to float rounding. Called by the trainer and the benches; it holds no network and no file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

SIZE_PX = 64

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond", "moon", "flower")
COLOURS = {
    "red": (214, 48, 49),
    "orange": (240, 138, 36),
    "yellow": (247, 205, 58),
    "green": (66, 160, 80),
    "teal": (28, 158, 160),
    "blue": (46, 98, 206),
    "purple": (128, 68, 176),
    "pink": (240, 128, 170),
    "brown": (122, 78, 46),
    "black": (36, 36, 46),
}
SIZES = ("small", "medium", "large")
POSITIONS = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
RELATIONS = ("left of", "right of", "above", "below")
# Top and bottom colour of a vertical gradient; "checkered" alternates the two in cells of 8 px.
BACKGROUNDS = {
    "white": ((252, 252, 252), (246, 246, 248)),
    "cream": ((252, 244, 224), (248, 236, 210)),
    "grey": ((176, 180, 186), (164, 168, 176)),
    "mint": ((214, 242, 224), (198, 232, 212)),
    "lavender": ((226, 218, 246), (212, 202, 238)),
    "sky": ((142, 196, 240), (232, 246, 252)),
    "sunset": ((252, 206, 160), (196, 158, 214)),
    "night": ((22, 26, 58), (52, 58, 104)),
    "checkered": ((236, 238, 242), (214, 220, 228)),
}
STYLES = ("flat", "outlined", "hatched", "soft", "dotted", "shaded")

# Relative frequencies; the rare values are there so that a method can be caught losing them.
RARE = {"flower": 0.3, "brown": 0.3, "black": 0.3, "night": 0.3, "checkered": 0.3}

RADIUS_PX = {1: (8.0, 13.0, 19.0), 2: (7.5, 10.5, 13.5)}  # by number of objects, then by size
_OFFSET_PX = (14.0, 14.0, 10.0)  # distance of a cell's centre from the picture's, by size
_PAIR_OFFSET_PX = 15.0


@dataclass(frozen=True)
class Scenes:
    """N scenes as arrays of indices into the names above; a second object that is not there is 0.

    Shapes:  shape, colour, size, radius_px, angle [N, 2]; centre_px [N, 2, 2]; tint [N, 2, 3]; the rest [N].
    Units:   centres and radii in pixels of the 64x64 picture, y downwards; angle in radians; tint in 0..255.
    """

    count: np.ndarray
    shape: np.ndarray
    colour: np.ndarray
    size: np.ndarray
    position: np.ndarray
    relation: np.ndarray
    background: np.ndarray
    style: np.ndarray
    centre_px: np.ndarray
    radius_px: np.ndarray
    angle: np.ndarray
    tint: np.ndarray

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, index) -> Scenes:
        return Scenes(*(getattr(self, f.name)[index] for f in fields(self)))


def _draw(rng: np.random.Generator, names: Sequence[str], shape) -> np.ndarray:
    weight = np.array([RARE.get(name, 1.0) for name in names])
    return rng.choice(len(names), size=shape, p=weight / weight.sum())


def sample_scenes(seed: int, n: int) -> Scenes:
    """Draw n scenes; the same seed and n give the same scenes.

    An object never takes a colour that its background would hide; the objects of a pair differ in both.
    """
    rng = np.random.default_rng(seed)
    count = 1 + (rng.random(n) < 0.4)
    shape, colour = _draw(rng, SHAPES, (n, 2)), _draw(rng, tuple(COLOURS), (n, 2))
    background = _draw(rng, tuple(BACKGROUNDS), n)
    night, black, brown = (
        list(BACKGROUNDS).index("night"),
        *(list(COLOURS).index(c) for c in ("black", "brown")),
    )
    hidden = (background[:, None] == night) & ((colour == black) | (colour == brown))
    colour = np.where(hidden, rng.integers(0, min(black, brown), (n, 2)), colour)
    for values, names in ((shape, SHAPES), (colour, COLOURS)):
        values[:, 1] = np.where(
            values[:, 0] == values[:, 1], (values[:, 1] + 1) % (len(names) - 2), values[:, 1]
        )
    size = rng.integers(0, 3, (n, 2))
    position, relation = rng.integers(0, 9, n), rng.integers(0, 4, n)
    pair = count == 2
    scenes = Scenes(
        count=count,
        shape=shape,
        colour=colour,
        size=size,
        position=position,
        relation=relation,
        background=background,
        style=_draw(rng, STYLES, n),
        centre_px=_centres(size, position, relation, pair) + rng.uniform(-2, 2, (n, 2, 2)),
        radius_px=np.where(pair[:, None], np.take(RADIUS_PX[2], size), np.take(RADIUS_PX[1], size))
        * rng.uniform(0.95, 1.05, (n, 2)),
        angle=rng.uniform(-0.14, 0.14, (n, 2)),
        tint=rng.uniform(-6, 6, (n, 2, 3)),
    )
    for name in (
        "shape",
        "colour",
        "size",
    ):  # what a scene does not have is 0, so that equal scenes compare equal
        getattr(scenes, name)[~pair, 1] = 0
    return scenes


def _centres(size: np.ndarray, position: np.ndarray, relation: np.ndarray, pair: np.ndarray) -> np.ndarray:
    step = np.stack([position % 3 - 1, position // 3 - 1], -1)  # [N, 2] as (x, y)
    single = 32 + step * np.take(_OFFSET_PX, size[:, 0])[:, None]
    away = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])[relation] * _PAIR_OFFSET_PX
    first = np.where(pair[:, None], 32 + away, single)
    return np.stack([first, 32 - away], 1)  # [N, 2 objects, 2]


# --- captions ---------------------------------------------------------------------------------------------


def caption(scenes: Scenes, i: int, rng: np.random.Generator | None = None) -> str:
    """Say scene i in words; with `rng`, each optional attribute is left out now and then, as people do."""

    def said(chance: float) -> bool:
        return rng is None or rng.random() >= chance

    def thing(k: int, sized: bool) -> str:
        words = f"{tuple(COLOURS)[scenes.colour[i, k]]} {SHAPES[scenes.shape[i, k]]}"
        return with_article(f"{SIZES[scenes.size[i, k]]} {words}" if sized else words)

    sized = said(0.25)
    kind = with_article(f"{STYLES[scenes.style[i]]} drawing" if said(0.2) else "drawing")
    text = f"{kind} of {thing(0, sized)}"
    if scenes.count[i] == 2:
        text += f" {RELATIONS[scenes.relation[i]]} {thing(1, sized)}"
    elif said(0.25):
        text += f" at the {POSITIONS[scenes.position[i]]}"
    if said(0.2):
        text += f" on {with_article(tuple(BACKGROUNDS)[scenes.background[i]])} background"
    return text


def with_article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


# --- renderer ---------------------------------------------------------------------------------------------


def _sector(x: Tensor, y: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Fold the plane into half a sector of an n-fold symmetry around the upward axis."""
    step = 2 * math.pi / n
    radius, angle = torch.hypot(x, y), torch.atan2(x, y)
    angle = (torch.remainder(angle + step / 2, step) - step / 2).abs()
    return radius * angle.sin(), radius * angle.cos()


def _star(x: Tensor, y: Tensor) -> Tensor:
    x, y = _sector(x, y, 5)
    inner_x, inner_y = 0.46 * math.sin(math.pi / 5), 0.46 * math.cos(math.pi / 5)
    dx, dy = inner_x, inner_y - 1.0  # the edge runs from the tip (0, 1) to the inner corner
    return (-x * dy + (y - 1.0) * dx) / math.hypot(dx, dy)


def _flower(x: Tensor, y: Tensor) -> Tensor:
    px, py = _sector(x, y, 5)
    return torch.minimum(torch.hypot(px, py - 0.56) - 0.4, torch.hypot(x, y) - 0.4)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    x = x.abs()
    body = (x + (y + 0.05).abs()) * math.sqrt(
        0.5
    ) - 0.53  # a square on its corner, two lobes on its upper sides
    return torch.minimum(body, torch.hypot(x - 0.375, y - 0.325) - 0.53)


def _box(x: Tensor, y: Tensor, half_x: float, half_y: float) -> Tensor:
    return torch.maximum(x.abs() - half_x, y.abs() - half_y)


# Signed distance in units of the radius, y upwards, negative inside; in the order of SHAPES.
_DISTANCE = (
    lambda x, y: torch.hypot(x, y) - 0.95,
    lambda x, y: _box(x, y, 0.8, 0.8),
    lambda x, y: torch.maximum(x.abs() * math.sqrt(0.75) + (y + 0.1) * 0.5, -(y + 0.1)) - 0.55,
    _star,
    _heart,
    lambda x, y: (torch.hypot(x, y) - 0.68).abs() - 0.25,
    lambda x, y: torch.minimum(_box(x, y, 0.92, 0.3), _box(x, y, 0.3, 0.92)),
    lambda x, y: (x.abs() / 0.7 + y.abs() - 1.0) * 0.573,
    lambda x, y: torch.maximum(torch.hypot(x, y) - 0.95, 0.78 - torch.hypot(x - 0.46, y - 0.22)),
    _flower,
)


def _tile(rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    """Hatching and dots [H, W] in 0..1, anchored to the picture with a period of 8 px."""
    wave = (torch.remainder(rows + cols, 8) - 4).abs()  # 4 on the line, 0 between the lines
    dots = torch.hypot(torch.remainder(rows, 8) - 4, torch.remainder(cols, 8) - 4)
    return (wave - 1.5).clamp(0, 1), (2.9 - dots).clamp(0, 1)


def _paint(distance: Tensor, colour: Tensor, style: Tensor, light: Tensor, rows: Tensor, cols: Tensor):
    """Colour [N, 3, H, W] and coverage [N, 1, H, W] of one object from its distance in px, styled."""
    hatch, dots = _tile(rows, cols)
    ink = (distance + 3.0).clamp(0, 1)  # 1 in a rim of 2.5 px inside the edge, and outside
    pale = colour * 0.28 + 0.72

    def styled(name: str) -> Tensor:
        return (style == STYLES.index(name))[:, None, None]

    keep = torch.where(styled("outlined"), ink, 1.0)  # how much of the full colour, against the pale tint
    keep = torch.where(styled("hatched"), torch.maximum(ink, hatch), keep)
    keep = torch.where(styled("dotted"), 1 - dots, keep).unsqueeze(1)
    shade = torch.where(styled("shaded").unsqueeze(1), 1.12 - 0.42 * light, 1.0)
    softness = torch.where(styled("soft"), 5.0, 1.0)
    cover = (0.5 - distance / softness).clamp(0, 1)
    cover = torch.where(softness > 1, cover * cover * (3 - 2 * cover), cover).unsqueeze(1)
    return ((colour * keep + pale * (1 - keep)) * shade).clamp(0, 1), cover


def _object(scenes: Scenes, k: int, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    """Paint and coverage of object k in every scene given."""
    centre, radius, angle = (
        torch.from_numpy(a[:, k]).float() for a in (scenes.centre_px, scenes.radius_px, scenes.angle)
    )
    x = (cols - centre[:, 0, None, None]) / radius[:, None, None]
    y = (centre[:, 1, None, None] - rows) / radius[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    distance = torch.empty((len(scenes), SIZE_PX, SIZE_PX))
    for s, shape_distance in enumerate(_DISTANCE):
        at = torch.from_numpy(np.flatnonzero(scenes.shape[:, k] == s))
        px, py = x[at] * cos[at] + y[at] * sin[at], y[at] * cos[at] - x[at] * sin[at]
        distance[at] = shape_distance(px, py) * radius[at, None, None]
    table = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    colour = (
        table[torch.from_numpy(scenes.colour[:, k])] + torch.from_numpy(scenes.tint[:, k]).float()
    ) / 255
    light = ((x - y) / 2 + 0.5).clamp(0, 1).unsqueeze(1)  # from the upper left
    return _paint(
        distance, colour.clamp(0, 1)[:, :, None, None], torch.from_numpy(scenes.style), light, rows, cols
    )


def render(scenes: Scenes) -> Tensor:
    """Draw the scenes.

    Shapes:  result [N, 3, 64, 64].
    Units:   RGB in 0..1, as ComfyUI's IMAGE, channels first.
    Dtype:   float32.
    """
    axis = torch.arange(SIZE_PX, dtype=torch.float32) + 0.5
    rows, cols = axis[:, None], axis[None, :]
    table = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32) / 255
    top, bottom = table[torch.from_numpy(scenes.background)].unbind(1)
    checks = torch.remainder(
        torch.div(rows, 8, rounding_mode="floor") + torch.div(cols, 8, rounding_mode="floor"), 2
    )
    checkered = torch.from_numpy(scenes.background == list(BACKGROUNDS).index("checkered"))[:, None, None]
    mix = torch.where(checkered, checks, (rows / SIZE_PX).expand_as(checks)).unsqueeze(1)
    picture = top[:, :, None, None] * (1 - mix) + bottom[:, :, None, None] * mix
    for k in (1, 0):  # the first object on top
        at = np.flatnonzero(scenes.count > k)
        ink, cover = _object(scenes[at], k, rows, cols)
        at = torch.from_numpy(at)
        picture[at] = picture[at] * (1 - cover) + ink * cover
    return picture.clamp(0, 1)
