"""DiffIER's strength from a measurement, in a bench."""

import torch
from torch import Tensor

from steadydiff.denoiser import Denoise, Run
from steadydiff.drift.recorder import Recorder, noise_for
from steadydiff.drift.stepping import Sampler, fixed_rng, step_calls
from steadydiff.methods.diffier import strength_from


@torch.no_grad()
def measured_strength(
    sampler: Sampler, denoise: Denoise, x: Tensor, run: Run, real: Tensor, judge: Denoise
) -> float:
    """Return the strength that *Measure Drift* gives: of samples from x [N, C, H, W] beside real ones.

    judge: the network as it is asked for `real`
    """
    recorder = Recorder(run, step_calls(sampler, x, run))
    with fixed_rng(x):  # the same whatever was drawn before
        recorder.sample(sampler, recorder.around(denoise), x)
    recorder.train(recorder.around(judge), real, noise_for(real, range(len(real))))
    return strength_from(recorder.measurement(0, "pictures"))
