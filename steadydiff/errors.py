"""Everything SteadyDiff raises on purpose. Used at the edges: settings, files, adapters.

    SteadyDiffError
    ├── SettingsError (ValueError)    a setting or a combination of settings that cannot work
    ├── ShapeError (ValueError)       tensors that do not fit together
    ├── CheckpointError               a weight file that is missing, damaged or made for something else
    ├── HostError                     a host that lacks, or changed, what an adapter needs
    └── ProposerError                 a proposer of phrases that could not answer; ARPO ends and keeps its log

A message says what came, what is allowed and what to do.
"""


class SteadyDiffError(Exception):
    """Base of all our errors; catch this to catch every one of them."""

    # ComfyUI shows it before the message, where it would be a path in the user's folders.
    __module__ = "steadydiff"

    def __init_subclass__(cls) -> None:
        cls.__module__ = "steadydiff"


class SettingsError(SteadyDiffError, ValueError):
    """A setting is out of range, or settings contradict each other or the run."""


class ShapeError(SteadyDiffError, ValueError):
    """Two tensors that belong together differ in shape."""


class CheckpointError(SteadyDiffError):
    """A weight file is missing, damaged, or made for another model."""


class HostError(SteadyDiffError):
    """The host does not offer what the adapter needs, or was changed by someone else."""


class ProposerError(SteadyDiffError):
    """Nobody answered what a picture shows or a drawing lacks, or the answer could not be read."""
