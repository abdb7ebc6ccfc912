"""The methods, one file per paper. A new method is a new row here; the contract tests then apply to it."""

from .antibias_prompt import AntiBiasPrompt
from .band_scaling import BandScaling
from .diffier import DiffIER
from .epsilon_scaling import EpsilonScaling
from .mdss import MDSS
from .time_shift import TimeShift

SAMPLING_METHODS = (EpsilonScaling, BandScaling, TimeShift, DiffIER, AntiBiasPrompt, MDSS)
"""Every method that wraps a denoiser: frozen settings with `wrap(denoise, run) -> Denoise`."""
