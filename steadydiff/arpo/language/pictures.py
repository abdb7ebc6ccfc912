"""Pictures as text for a server: PNG in a data URL, no larger than models look at."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor


def data_url(picture: Tensor, side: int) -> str:
    """A picture [H, W, 3] in 0..1 as data:image/png, its longer side at most `side` pixels."""
    return "data:image/png;base64," + base64.b64encode(png(shrunk(picture, side))).decode()


def shrunk(picture: Tensor, side: int) -> Tensor:
    """The picture [H, W, 3] on the CPU, smaller if its longer side has more than `side` pixels."""
    picture = picture[..., :3].detach().to("cpu", torch.float32)
    height, width = picture.shape[:2]
    if max(height, width) <= side:
        return picture
    return _resized(picture, [max(1, round(edge * side / max(height, width))) for edge in (height, width)])


def same_size(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures [H, W, 3] as a batch [N, H, W, 3], all of the first one's size."""
    size = tuple(pictures[0].shape[:2])
    return torch.stack([p if tuple(p.shape[:2]) == size else _resized(p, size) for p in pictures])


def _resized(picture: Tensor, size: Sequence[int]) -> Tensor:
    channels = picture.movedim(-1, 0)[None]
    changed = torch.nn.functional.interpolate(channels, list(size), mode="bilinear", antialias=True)
    return changed[0].movedim(0, -1)


def png(picture: Tensor) -> bytes:
    """An 8-bit RGB file. A byte is stored as its difference from the left, which packs photographs well."""
    levels = (picture.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)  # [H, W, 3]
    height, width = levels.shape[:2]
    rows = levels.clone()
    rows[:, 1:] -= levels[:, :-1]  # modulo 256
    filtered = torch.ones((height, 1 + 3 * width), dtype=torch.uint8)  # 1 names this filter
    filtered[:, 1:] = rows.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(filtered.numpy().tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
