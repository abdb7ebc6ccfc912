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
from steadydiff.drift.measurement import Measurement, own_samples
from steadydiff.errors import SettingsError
from steadydiff.plots import arpo_figure, drift_figure, picture, pixels, schedule_figure
from steadydiff.schedules import Schedule

MEASURED = Measurement(
    space="ve",
    sigmas=(9.0, 3.0, 1.0, 0.0),
    count=4,
    shape=(4, 8, 8),
    seed=1,
    reference="given",
    sampling_norm=(16.0, 15.5, 12.0),
    training_norm=(16.0, 15.0, 10.0),
    sampling_rms=(16.0, 15.5, 12.0),
    training_rms=(16.0, 15.0, 10.0),
    state_variance=(81.5, 9.0, 2.0, 0.9),
    expected_variance=(82.0, 10.0, 2.0, 1.0),
)


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
def test_the_headline_says_what_the_reference_lets_be_seen():
    own = replace(MEASURED, reference=own_samples(80))
    assert own.is_own and not MEASURED.is_own
    shipped = replace(MEASURED, reference="32 shipped pictures")
    said = [drift_figure(one).get_suptitle() for one in (own, MEASURED, shipped)]
    assert said[0] == "Shows few-step error only, not the model's own bias"
    assert said[1] == "Shows few-step error and the model's own bias"
    assert said[2].startswith(f"{said[1]}, against 32 shipped") and max(map(len, said[2].split("\n"))) <= 70
    assert said[2].endswith("not only drift")


def banded(axes):
    """Lower and upper edge of each band at its first step."""
    boxes = [band.get_paths()[0].vertices for band in axes.collections]
    return [
        (box[box[:, 0] == box[:, 0].min()][:, 1].min(), box[box[:, 0] == box[:, 0].min()][:, 1].max())
        for box in boxes
    ]


def test_bands_are_two_standard_errors_wide():
    errors = {"sampling_norm": (0.5,) * 3, "training_norm": (0.25,) * 3}
    errors |= {"quotient": (0.01,) * 3, "variance_error": (0.02,) * 4}
    norms, quotients, variances = drift_figure(replace(MEASURED, standard_errors=errors)).axes
    assert banded(norms) == [pytest.approx((15.5, 16.5)), pytest.approx((15.0, 17.0))]
    assert banded(quotients) == [pytest.approx((-2, 2))]
    assert banded(variances) == [pytest.approx((-50 / 82 - 4, -50 / 82 + 4))]
    assert [banded(axes) for axes in drift_figure(MEASURED).axes] == [[], [], []]


def test_the_papers_curves_have_two_panels_in_its_units():
    curves = {"delta": (8.2, 2.0, 0.4, 0.1), "step_delta": (1.0, 0.5, 0.3), "estimate_error": (0.9, 0.6, 0.2)}
    with_paper = replace(MEASURED, **curves, standard_errors={"delta": (0.82,) * 4})
    *_, errors, estimates = drift_figure(with_paper, MEASURED).axes
    own, step, predicted = drawn(errors)
    assert own == pytest.approx([8.2 / 82, 2.0 / 10, 0.4 / 2, 0.1])
    assert step == pytest.approx([1.0 / 10, 0.5 / 2, 0.3])
    assert predicted == pytest.approx([(0.9 * 8 / 9) ** 2 / 10, (0.6 * 8 / 9) ** 2 / 2, 0.2**2])
    assert drawn(estimates) == [[0.9, 0.6, 0.2]] and banded(errors) == [pytest.approx((0.08, 0.12))]
    assert len(drift_figure(MEASURED, with_paper).axes) == 3


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
