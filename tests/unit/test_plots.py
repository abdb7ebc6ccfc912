"""Plots show every value they are given, and refuse what cannot share an axis."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steadydiff.arpo.log import Log, Step
from steadydiff.arpo.phrases import Phrases
from steadydiff.drift.measurement import Measurement
from steadydiff.errors import SettingsError
from steadydiff.plots import arpo_figure, drift_figure, picture, pixels, schedule_figure
from steadydiff.schedules import Schedule

MEASURED = Measurement(
    space="ve", sigmas=(9.0, 3.0, 1.0, 0.0), count=4, shape=(4, 8, 8), seed=1, reference="given",
    sampling_norm=(16.0, 15.5, 12.0), training_norm=(16.0, 15.0, 10.0), sampling_rms=(16.0, 15.5, 12.0),
    training_rms=(16.0, 15.0, 10.0), state_variance=(81.5, 9.0, 2.0, 0.9),
    expected_variance=(82.0, 10.0, 2.0, 1.0),
)  # fmt: skip


def drawn(axes):
    """The curves of a panel, without its neutral line."""
    return [list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) > 2]


def test_drift_shows_norms_quotient_and_variance():
    norms, quotients, variances = (drawn(axes) for axes in drift_figure(MEASURED).axes)
    assert norms == [[16.0, 15.0, 10.0], [16.0, 15.5, 12.0]]
    assert quotients == [pytest.approx([0, 100 / 30, 20])]
    assert variances == [pytest.approx([-50 / 82, -10, 0, -10])]


def test_a_second_measurement_lies_behind():
    other = replace(MEASURED, sampling_norm=(16.0, 15.1, 10.5), label="scale 1.01 " * 20)
    norms, quotients, variances = (drawn(axes) for axes in drift_figure(MEASURED, other).axes)
    assert norms[1:] == [[16.0, 15.1, 10.5], [16.0, 15.5, 12.0]]
    assert len(quotients) == len(variances) == 2
    with pytest.raises(SettingsError, match="same number of steps; got 3 and 1"):
        shorter = {name: getattr(MEASURED, name)[:1] for name in ("sampling_norm", "training_norm")}
        shorter |= {name: getattr(MEASURED, name)[:1] for name in ("sampling_rms", "training_rms")}
        shorter |= {name: getattr(MEASURED, name)[:2] for name in ("state_variance", "expected_variance")}
        drift_figure(MEASURED, replace(MEASURED, sigmas=(9.0, 0.0), **shorter))


@pytest.mark.slow
@pytest.mark.parametrize("figure", [drift_figure(MEASURED), schedule_figure(Schedule("table", (1.01, 1.0)))])
def test_pictures_are_opaque_colours(figure):
    shown = pixels(figure)
    assert shown.ndim == 3 and shown.shape[2] == 3 and shown.dtype == "uint8"
    assert len(set(shown.reshape(-1, 3)[:, 0].tolist())) > 10


def test_a_search_shows_prompts_drawings_and_the_best_of_these():
    steps = tuple(
        Step(Phrases((str(i),)), torch.zeros(2, 2, 3), text_similarity=0.1 * i, image_similarity=near)
        for i, near in enumerate((0.2, 0.9, 0.7))
    )
    [axes] = arpo_figure(Log("", 0, Phrases(), steps)).axes
    assert drawn(axes) == [[0.2, 0.9, 0.7], pytest.approx([0.0, 0.1, 0.2])]
    [note] = axes.texts
    assert (note.get_text(), note.xy) == ("0.900", (1, 0.9))


def failing(error):
    def figure():
        raise error

    return figure


def test_a_plot_that_fails_is_a_blank_picture_and_one_line_of_log(caplog):
    shown = picture(failing(SettingsError("plots need matplotlib")))
    assert (shown.shape[2], shown.dtype) == (3, "uint8") and len(set(shown[..., 0].reshape(-1).tolist())) > 1
    assert [record.message for record in caplog.records] == [
        "SteadyDiff: no plot was drawn (plots need matplotlib)"
    ]
    picture(failing(ValueError("'module://x' is not a valid value for backend")))
    assert "ValueError: 'module://x'" in caplog.records[-1].message


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_the_backend_of_a_notebook_does_not_matter(backend):
    """It is read when matplotlib is first imported, so another process is needed."""
    code = (
        "import os; from steadydiff.plots import picture, schedule_figure; "
        "from steadydiff.schedules import Schedule; "
        "shown = picture(schedule_figure, Schedule('table', (1.01, 1.0))); "
        "print(len(set(shown.reshape(-1, 3)[:, 0].tolist())), os.environ['MPLBACKEND'])"
    )
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"MPLBACKEND": backend, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    colours, kept = done.stdout.split()
    assert int(colours) > 10 and kept == backend and "no plot" not in done.stderr, done.stderr
