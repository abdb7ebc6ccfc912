"""How far a long measurement is, in pictures' time, said on the node; and saying anything there."""

import sys

from ...steadydiff.drift import meter
from .set_up import progress

SECONDS = 1.0  # between two texts


def say(text: str) -> None:
    """Show a text on the node that is executing, where the host can; it stays until the next one."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:  # old hosts
        return
    context = get_executing_context()
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    send = getattr(getattr(server, "instance", None), "send_progress_text", None)
    if send is not None and context is not None:
        send(text, context.node_id)


class Meter(meter.Meter):
    """Called after every model call, moves the node's bar as well, and obeys Cancel."""

    def __init__(self, model, least: int, most: int, done: int, per_picture: float):
        self._bar = progress(model, most - done, previews=False)
        super().__init__(least, most, done, per_picture, say, SECONDS)

    def __call__(self, denoised) -> None:
        self._bar(denoised)
        super().__call__()
