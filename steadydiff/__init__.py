"""SteadyDiff: corrections of exposure bias in diffusion models. This package knows no host."""

from .denoiser import Denoise, Guided, Run, Space
from .errors import CheckpointError, HostError, ProposerError, SettingsError, ShapeError, SteadyDiffError
from .methods import SAMPLING_METHODS
from .methods.antibias_prompt import AntiBiasPrompt
from .methods.band_scaling import BandScaling
from .methods.diffier import DiffIER
from .methods.epsilon_scaling import EpsilonScaling, scale_epsilon
from .methods.mdss import MDSS
from .schedules import (
    MadeFor,
    Schedule,
    dcw_schedule,
    linear_schedule,
    snr_schedule,
    table_schedule,
    uniform_schedule,
)

__version__ = "0.1.0"

__all__ = [
    "MDSS",
    "SAMPLING_METHODS",
    "AntiBiasPrompt",
    "BandScaling",
    "CheckpointError",
    "Denoise",
    "DiffIER",
    "EpsilonScaling",
    "Guided",
    "HostError",
    "MadeFor",
    "ProposerError",
    "Run",
    "Schedule",
    "SettingsError",
    "ShapeError",
    "Space",
    "SteadyDiffError",
    "__version__",
    "dcw_schedule",
    "linear_schedule",
    "scale_epsilon",
    "snr_schedule",
    "table_schedule",
    "uniform_schedule",
]
