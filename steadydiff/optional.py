"""Packages that are needed for one thing only, with a sentence where they are missing."""

from .errors import SteadyDiffError


def import_open_clip():
    """Return open_clip; SteadyDiffError that names the command which installs it."""
    try:
        import open_clip
    except ImportError as error:
        message = "CLIP needs open_clip; run: python -m pip install open_clip_torch"
        raise SteadyDiffError(message) from error
    return open_clip
