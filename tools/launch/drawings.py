"""Pictures for where a template asks for a folder of somebody's own: the tiny world's drawings."""

from pathlib import Path

from PIL import Image

from steadydiff.tinyworld.scenes import render, sample_scenes


def draw_into(folder: Path, count: int = 16) -> None:
    """Fill a folder with pictures, 0.png and so on, of 64 x 64."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(render(sample_scenes(0, count))):
        pixels = (picture.movedim(0, -1) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
