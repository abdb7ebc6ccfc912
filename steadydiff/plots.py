"""Pictures of schedules, as matplotlib Figures; matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import SteadyDiffError
from .schedules import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The plot is a card of its own, dark on light, so that it reads the same on a dark and on a light canvas.
PAPER, INK, FAINT, LINE, NEUTRAL = "#faf9f6", "#22252a", "#d9d7d0", "#0b6e99", "#8a8680"
SIZE_INCHES, DPI = (6.4, 4.0), 120


def schedule_figure(schedule: Schedule) -> Figure:
    """Draw λ over the steps of a run, the noisiest step first, with the neutral λ = 1 as a reference.

    Raises:  SteadyDiffError naming the command that installs matplotlib, where it is missing.
    """
    figure = _figure()
    axes = figure.add_subplot()
    values = schedule.values
    steps = range(1, len(values) + 1)
    axes.axhline(1.0, color=NEUTRAL, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate("1 = off", (0.5, 1.0), (4, 4), textcoords="offset points", color=NEUTRAL, fontsize=10)
    size = 5 if len(values) <= 60 else 2.5
    axes.plot(steps, values, color=LINE, linewidth=1.4, marker="o", markersize=size)
    axes.set_title(f"{schedule.mode} schedule, steps: {len(values)}", color=INK, fontsize=13, loc="left")
    axes.set_xlabel("step (first = noisiest)", color=INK)
    axes.set_ylabel("scale λ: above 1 more detail", color=INK)
    _style(axes, values)
    return figure


def pixels(figure: Figure) -> Any:
    """Return a figure as an array [H, W, 3] of uint8."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure() -> Figure:
    try:
        # Not pyplot: it keeps figures alive and picks a backend for the whole process.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SteadyDiffError("plots need matplotlib; run: python -m pip install matplotlib") from error
    return Figure(SIZE_INCHES, DPI, facecolor=PAPER, layout="constrained")


def _style(axes: Any, values: tuple[float, ...]) -> None:
    """One quiet look: few ticks, no offset in the numbers, room around the neutral line."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(1.0, *values), max(1.0, *values)
    room = max(0.1 * (high - low), 0.0005)
    axes.set(xlim=(0.5, len(values) + 0.5), ylim=(low - room, high + room))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    axes.set_facecolor(PAPER)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=10, length=3)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(NEUTRAL)
