"""Pictures of schedules, as matplotlib Figures; matplotlib is imported when the first one is drawn."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from textwrap import fill, shorten, wrap
from typing import TYPE_CHECKING, Any

from .errors import SettingsError, SteadyDiffError
from .metrics.deltas import per_vp, predicted_step_error
from .schedules import Schedule

logger = logging.getLogger("steadydiff")

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .arpo.log import Log
    from .drift.gap import Gap
    from .drift.measurement import Measurement
    from .drift.saved_fit import SavedFit

# The plot is a card of its own, dark on light, so that it reads the same on a dark and on a light canvas.
PAPER, INK, FAINT, LINE, NEUTRAL = "#faf9f6", "#22252a", "#d9d7d0", "#0b6e99", "#8a8680"
SIZE_INCHES, DPI = (6.4, 4.0), 120
DASHES = (0, (4, 3))


def schedule_figure(schedule: Schedule) -> Figure:
    """Draw λ over the steps of a run, the noisiest step first, with the neutral λ = 1 as a reference.

    Raises:  SteadyDiffError naming the command that installs matplotlib, where it is missing.
    """
    figure = _figure()
    axes = figure.add_subplot()
    values = schedule.values
    steps = range(1, len(values) + 1)
    axes.axhline(1.0, color=NEUTRAL, linewidth=1.2, linestyle=DASHES)
    axes.annotate("1 = off", (0.5, 1.0), (4, 4), textcoords="offset points", color=NEUTRAL, fontsize=10)
    size = 5 if len(values) <= 60 else 2.5
    axes.plot(steps, values, color=LINE, linewidth=1.4, marker="o", markersize=size)
    axes.set_title(f"{schedule.mode} schedule, steps: {len(values)}", color=INK, fontsize=13, loc="left")
    axes.set_xlabel("step (first = noisiest)", color=INK)
    axes.set_ylabel("scale λ: above 1 more detail", color=INK)
    _style(axes, values)
    return figure


def drift_figure(measured: Measurement, other: Measurement | None = None) -> Figure:
    """Draw norms, their quotient and the variance error over the steps; a second measurement in grey behind.

    Bands are two standard errors over the samples to either side. The paper's curves, where they were
    measured, have two panels more; the variances there are in its units, of states alpha² + sigma² = 1.

    Raises:  SteadyDiffError as `schedule_figure`; SettingsError if the two have different numbers of steps.
    """
    if other is not None and other.run.steps != measured.run.steps:
        raise SettingsError(
            f"two measurements are drawn together if they have the same number of steps; got "
            f"{measured.run.steps} and {other.run.steps}"
        )
    paper = bool(measured.delta)
    figure = _figure((6.4, 14.0 if paper else 8.4))
    norms, quotients, variances, *more = panels = figure.subplots(5 if paper else 3, 1)
    steps = range(1, measured.run.steps + 1)
    after, ends = [step + 1 for step in steps], [*steps, len(steps) + 1]
    norms.plot(steps, measured.training_norm, color=INK, linewidth=1.2, linestyle=DASHES, label="in training")
    _band(norms, steps, measured.training_norm, measured.standard_errors.get("training_norm"), INK)
    for axes in (quotients, variances, *more[:1]):
        axes.axhline(0.0, color=INK, linewidth=1.2, linestyle=DASHES)
    drawn = [(other, NEUTRAL, "for comparison"), (measured, LINE, "in sampling")]
    for one, color, name in [(one, *look) for one, *look in drawn if one is not None]:
        style = {"color": color, "linewidth": 1.4, "marker": "o", "markersize": 4 if len(steps) <= 60 else 2}
        label = f"{name}: {one.label}" if one.label else name
        norms.plot(steps, one.sampling_norm, label=shorten(label, 84, placeholder=" ..."), **style)
        quotients.plot(steps, [100 * (quotient - 1) for quotient in one.quotient], **style)
        variances.plot(ends, [100 * error for error in one.variance_error], **style)
        errors = one.standard_errors
        _band(norms, steps, one.sampling_norm, errors.get("sampling_norm"), color)
        _band(quotients, steps, [q - 1 for q in one.quotient], errors.get("quotient"), color, 100)
        _band(variances, ends, one.variance_error, errors.get("variance_error"), color, 100)
        if paper and one.delta:
            _paper_curves(more, one, (ends, after, steps), style)
    figure.suptitle(fill(f"Shows {measured.shows}", 70), color=INK, fontsize=11, x=0.02, ha="left")
    norms.legend(frameon=False, fontsize=9, labelcolor=INK)
    titles = (
        "Norm of the predicted noise",
        "Predicted noise against training, % (0 = no drift)",
        "Variance of the states, % too large; last: the result",
        "Variance error against own clean samples: δ whole run; dashed Δ one step; dotted eq. 18",
        "e: error of the clean estimate, root mean square",
    )
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title, color=INK, fontsize=11 if len(title) < 70 else 9, loc="left")
        _look(axes)
    panels[-1].set_xlabel("step (first = noisiest); bands: ± 2 standard errors", color=INK)
    return figure


def _paper_curves(panels: Any, one: Measurement, places: tuple, style: dict) -> None:
    """δ, Δ and e of one measurement, with what equation 18 makes of e."""
    (ends, after, steps), sigmas, errors = places, one.sigmas, one.standard_errors
    units, color = [per_vp(sigma, one.space) for sigma in sigmas], style["color"]
    levels = zip(one.estimate_error, sigmas, sigmas[1:], strict=False)
    predicted = [predicted_step_error(*level, one.space) for level in levels]
    curves = (
        ("delta", ends, one.delta, units, "-"),
        ("step_delta", after, one.step_delta, units[1:], DASHES),
    )
    for name, at, values, scales, dashes in curves:
        panels[0].plot(
            at, [a * b for a, b in zip(values, scales, strict=True)], **style | {"linestyle": dashes}
        )
        _band(panels[0], at, values, errors.get(name), color, scales)
    dotted = {"color": color, "linewidth": 1.2, "linestyle": ":"}
    panels[0].plot(after, [a * b for a, b in zip(predicted, units[1:], strict=True)], **dotted)
    panels[1].plot(steps, one.estimate_error, **style)
    _band(panels[1], steps, one.estimate_error, errors.get("estimate_error"), color)


def _band(axes: Any, at: Any, values: Any, errors: Any, color: str, scale: Any = 1.0) -> None:
    """Two standard errors to either side of a curve; nothing where they are not known."""
    if errors is None:
        return
    scales = scale if isinstance(scale, list) else [scale] * len(values)
    rows = [*zip(values, errors, scales, strict=True)]
    low, high = ([by * (value + way * 2 * error) for value, error, by in rows] for way in (-1, 1))
    axes.fill_between(at, low, high, color=color, alpha=0.18, linewidth=0)


def gap_figure(plain: Gap, corrected: Gap, cfg: float) -> Figure:
    """Draw the loss over the steps, step by step and summed, and what was measured of the guidance weight.

    Raises:  SteadyDiffError as `schedule_figure`.
    """
    guided = any(weight is not None for weight in corrected.weight)
    figure = _figure((6.4, 11.2 if guided else 6.0))
    losses, sums, *more = figure.subplots(4 if guided else 2, 1)
    steps = range(1, len(corrected.before) + 1)
    style = {"linewidth": 1.4, "marker": "o", "markersize": 4 if len(steps) <= 60 else 2}
    grey, ours = {"color": NEUTRAL, **style}, {"color": LINE, **style}
    losses.plot(steps, plain.after, label=f"without, {plain.calls} model calls", **grey)
    losses.plot(
        steps, corrected.before, label="before correction", linestyle=DASHES, color=LINE, linewidth=1.2
    )
    losses.plot(steps, corrected.after, label=f"corrected, {corrected.calls} model calls", **ours)
    losses.legend(frameon=False, fontsize=9, labelcolor=INK)
    sums.plot(steps, plain.accumulated, **grey)
    sums.plot(steps, corrected.accumulated, **ours)
    if guided:
        weights, curve = more
        weights.axhline(cfg, color=INK, linewidth=1.2, linestyle=DASHES)
        weights.plot(steps, corrected.weight, **ours)
        known = [row for row in zip(steps, corrected.weight, corrected.weight_error, strict=True) if row[2]]
        if known:
            at, values, errors = zip(*known, strict=True)
            _band(weights, at, values, errors, LINE)
        tried = [max(2 * cfg, 4.0) * share / 40 for share in range(41)]
        curve.plot(tried, [corrected.loss_at(weight) for weight in tried], color=LINE, linewidth=1.4)
        curve.axvline(cfg, color=INK, linewidth=1.2, linestyle=DASHES)
        curve.set_xlabel("guidance weight", color=INK)
    titles = (
        "Error of the predicted noise at the model's own estimates, mean square",
        "The same, summed over the steps",
        "Guidance weight of the smallest error at real pictures; dashed: cfg",
        "Error at real pictures over the guidance weight; dashed: cfg",
    )
    for axes, title in zip((losses, sums, *more), titles, strict=False):
        axes.set_title(title, color=INK, fontsize=11, loc="left")
        _look(axes)
    (more[0] if guided else sums).set_xlabel("step (first = noisiest)", color=INK)
    return figure


def fit_figure(kept: SavedFit | None) -> Figure:
    """Draw the signs of plain and corrected pictures, and how near what was tried comes to the references.

    Bars are two standard errors to either side; grey where nothing was corrected.

    Raises:  SteadyDiffError as `schedule_figure`.
    """
    if kept is None:
        raise SteadyDiffError("nothing was measured")
    from matplotlib.ticker import MaxNLocator

    fit, figure = kept.fit, _figure((6.4, 3.6))
    chosen, tries = str(fit.correction), len(fit.scores)
    signs, *more = figure.subplots(1, 2 if tries > 1 else 1, squeeze=False)[0]
    shown = [("plain", fit.before, NEUTRAL, -0.1)]
    if chosen != "plain":
        shown.append(("corrected", fit.after, LINE, 0.1))
    _look(signs)
    signs.axhline(0.0, color=INK, linewidth=1.2, linestyle=DASHES)
    for label, one, color, aside in shown:
        bars = [2 * one.j_error, 2 * one.v_error]
        signs.errorbar([aside, 1 + aside], [one.j, one.v], bars, fmt="o", color=color, label=label)
    signs.set(xlim=(-0.5, 1.5), xticks=(0, 1), xticklabels=("difficulty j", "variance v"))
    signs.set_ylabel("against the references, 0 = alike", color=INK)
    figure.legend(frameon=False, fontsize=9, loc="outside lower left", ncols=2)
    for tried in more:
        _look(tried)
        tried.axvline(1.0, color=INK, linewidth=1.2, linestyle=DASHES)
        for place, (name, (score, error)) in enumerate(fit.scores.items()):
            color = LINE if name == chosen != "plain" else NEUTRAL
            tried.errorbar(score, -place, None, 2 * error, fmt="o", color=color)
        tried.set(ylim=(0.5 - tries, 0.5), yticks=range(0, -tries, -1), xlabel="distance, plain = 1")
        tried.set_yticklabels([fill(name, 18) for name in fit.scores], fontsize=9)
        tried.xaxis.set_major_locator(MaxNLocator(4))
    said = fill(kept.report().partition("\n")[0], 70)
    figure.suptitle(said, color=INK, fontsize=11, x=0.02, ha="left")
    return figure


def arpo_figure(log: Log) -> Figure:
    """Draw how near prompt and drawing came to the reference, the best drawing marked.

    Raises:  SteadyDiffError as `schedule_figure`.
    """
    figure = _figure()
    axes = figure.add_subplot()
    style = {"linewidth": 1.4, "marker": "o", "markersize": 5}
    numbers = range(len(log.steps))
    pictures = [step.image_similarity for step in log.steps]
    axes.plot(numbers, pictures, color=LINE, label="drawing", **style)
    if log.seeds > 1:
        spreads = [step.spread for step in log.steps]
        axes.errorbar(numbers, pictures, spreads, color=LINE, fmt="none", capsize=3)
    axes.plot(numbers, [step.text_similarity for step in log.steps], color=NEUTRAL, label="prompt", **style)
    best = log.steps.index(log.best)
    axes.annotate(
        f"{pictures[best]:.3f}",
        (best, pictures[best]),
        (0, 8),
        textcoords="offset points",
        color=LINE,
        fontsize=10,
        ha="center",
    )
    axes.margins(x=0.08, y=0.18)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    axes.set_title("Similarity to the reference", color=INK, fontsize=13, loc="left")
    axes.set_xlabel("iteration (0 = first prompt)", color=INK)
    _look(axes)
    return figure


def picture(figure_of: Callable[..., Figure], *args: Any) -> Any:
    """Return what `figure_of(*args)` draws as an array [H, W, 3] of uint8, or a blank one that says why not.

    A plot is never worth the result it shows, which may have taken an hour.
    """
    try:
        return pixels(figure_of(*args))
    except Exception as error:  # matplotlib missing or broken, a backend nobody has, no memory
        said = f"{type(error).__name__}: {error}" if not isinstance(error, SteadyDiffError) else str(error)
        logger.warning("SteadyDiff: no plot was drawn (%s)", said)
        return blank(f"No plot was drawn: {said}")


def blank(text: str) -> Any:
    """Return a picture [H, W, 3] of uint8 that holds nothing but a text."""
    import numpy as np
    from PIL import Image, ImageDraw

    card = Image.new("RGB", (int(SIZE_INCHES[0] * DPI), int(SIZE_INCHES[1] * DPI)), PAPER)
    ImageDraw.Draw(card).text((24, 24), "\n".join(wrap(text, 110)), INK)
    return np.array(card)


def pixels(figure: Figure) -> Any:
    """Return a figure as an array [H, W, 3] of uint8."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(size: tuple[float, float] = SIZE_INCHES) -> Figure:
    try:
        # Not pyplot: it keeps figures alive and picks a backend for the whole process.
        Figure = _matplotlib_figure()
    except ImportError as error:
        raise SteadyDiffError("plots need matplotlib; run: python -m pip install matplotlib") from error
    return Figure(size, DPI, facecolor=PAPER, layout="constrained")


def _matplotlib_figure() -> type[Figure]:
    # When first imported it reads MPLBACKEND, and fails where a notebook's backend is not installed. We need
    # none; who does, finds the one that was named.
    named = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named is not None:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = named
    return Figure


def _style(axes: Any, values: tuple[float, ...]) -> None:
    """The look of all plots, with room around the neutral line."""
    low, high = min(1.0, *values), max(1.0, *values)
    room = max(0.1 * (high - low), 0.0005)
    axes.set(xlim=(0.5, len(values) + 0.5), ylim=(low - room, high + room))
    _look(axes)


def _look(axes: Any) -> None:
    """One quiet look: few ticks, no offset in the numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    axes.set_facecolor(PAPER)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=10, length=3)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(NEUTRAL)
