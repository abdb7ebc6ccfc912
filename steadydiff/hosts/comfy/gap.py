"""ComfyUI: measures the gap of a model, with and without its corrections, inside the host's own runs.

Duck-typed, and built on the runs of `drift.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...drift.gap import Gap, GapRecorder
from ...drift.recorder import check_reference, unit_noise
from ..patch import POST_CFG
from .attach import without_ours
from .drift import InnerRun, Setup, inside_run, steps_of
from .host import KEY
from .session import GuidedModel


def measure_gap(
    setup: Setup, shape: Sequence[int], seeds: Sequence[int], batch: int, reference: Tensor | None = None
) -> tuple[Gap, Gap]:
    """Sample from the same noise without our corrections and with them; return the gap of each.

    shape: [C, *S] of one latent
    seeds: one per sample
    batch: samples at a time, which bounds memory
    reference: clean latents [N, C, *S] in the host's units, each called about once for the guidance weight,
           which is the bare model's and therefore the same in both

    Raises:  SettingsError, ShapeError or HostError before the first model call; SteadyDiffError for NaN.
    """
    starts = steps_of(setup, shape).starts
    if reference is not None:
        check_reference(reference, shape)
    bare = replace(setup, model=without_ours(setup.model, setup.host))
    plain = _measure(bare, GapRecorder(setup.run, starts), shape, seeds, batch, reference)
    corrected = _measure(setup, GapRecorder(setup.run, starts), shape, seeds, batch)
    weights = {name: getattr(plain, name) for name in ("weight", "weight_error", "weight_loss")}
    return plain, replace(corrected, **weights)


def _measure(
    setup: Setup,
    recorder: GapRecorder,
    shape: Sequence[int],
    seeds: Sequence[int],
    batch: int,
    reference: Tensor | None = None,
) -> Gap:
    pictures = [] if reference is None else list(reference.split(batch))
    for at in range(0, len(seeds), batch):
        part, model = seeds[at : at + batch], GuidedModel(setup.host, wants_branches=True, calls_again=True)

        def work(inner: InnerRun, x: Tensor, last: bool = at + batch >= len(seeds)) -> None:
            recorder.sample(inner.sample, inner.evaluate, x)
            for shown in pictures if last else []:
                recorder.pair(inner.evaluate_plainly, setup.model.model.process_latent_in(shown).to(x))

        try:
            hooked = _hooked(setup, model, recorder)
            # The first seed of all: what DiffIER draws then does not depend on the batch size.
            inside_run(setup, hooked, unit_noise(shape, part), seeds[0], work)
        finally:
            model.close()
    return recorder.gap()


def _hooked(setup: Setup, model: GuidedModel, recorder: GapRecorder) -> Any:
    """A clone whose raw predictions are recorded: our own key, after our wrapper, before corrections."""
    recorded, clone = recorder.around(model), setup.model.clone()

    def record(executor, x, timestep, model_options={}, seed=None):  # noqa: B006  # the host's
        own = len(executor.class_obj.model_options.get(POST_CFG, ()))
        model.begin(executor, model_options, seed, own)
        return recorded(x, timestep)

    clone.add_wrapper_with_key(setup.host.predict_noise, KEY, record)
    return clone
