"""How far a long measurement is, in pictures' time, said on the node."""

from ...steadydiff.drift import meter
from .host import say
from .set_up import progress

SECONDS = 1.0  # between two texts


class Meter(meter.Meter):
    """Called after every model call, moves the node's bar as well, and obeys Cancel."""

    def __init__(self, model, least: int, most: int, done: int, per_picture: float):
        self._bar = progress(model, most - done, previews=False)
        super().__init__(least, most, done, per_picture, say, SECONDS)

    def __call__(self, denoised) -> None:
        self._bar(denoised)
        super().__call__()
