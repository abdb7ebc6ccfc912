"""What each method is tried with: a file per method, named as the method's own."""

from dataclasses import dataclass

from steadydiff.denoiser import Run

RUNS = {
    "ve": Run("ve", (14.6, 6.0, 2.0, 0.6, 0.03, 0.0), seed=7),
    "flow": Run("flow", (1.0, 0.9, 0.6, 0.3, 0.05, 0.0), seed=7),
    "zsnr": Run("ve", (4518.76, 40.39, 7.6, 0.8, 0.03, 0.0), seed=7),
}


@dataclass(frozen=True)
class Cases:
    """What to try a method with.

    neutral: settings that change nothing
    active:  settings that do, each with the runs it works on
    refused: settings and a run they cannot work on
    """

    neutral: tuple
    active: tuple
    refused: tuple
