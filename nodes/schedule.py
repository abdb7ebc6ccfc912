"""SteadyDiffSchedule: makes, shows and writes down one scale per step for Epsilon Scaling."""

from dataclasses import replace

from comfy_api.latest import io

from ..steadydiff import schedules
from ..steadydiff.errors import SettingsError
from ..steadydiff.hosts.patch import states_of
from ..steadydiff.inputs.epsilon_scaling import SCHEDULE
from ..steadydiff.plots import schedule_figure
from ..steadydiff.schedules import MadeFor, Schedule
from .shared import ksampler, schema
from .shared.plot import image


class SteadyDiffSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffSchedule",
            display_name="Make Schedule (SteadyDiff)",
            category=schema.MEASURING,
            description="Makes a schedule for Epsilon Scaling: one scale per sampling step, from a formula "
            "or from your own numbers, with a plot. Above 1 a step takes less noise away (more detail), "
            "below 1 more (smoother).",
            search_aliases=["epsilon scaling schedule", "lambda schedule", "exposure bias", "TSR", "DCW"],
            inputs=[
                io.Combo.Input(
                    "mode",
                    options=list(schedules.SCHEDULE_MODES),
                    default="linear",
                    tooltip="uniform: scale at every step. linear: slope x t + scale, t counted back from "
                    "the last step. table: your own numbers. snr: the curve of Temporal Score Rescaling, 1 "
                    "in pure noise and 1/tsr_k at the end, so it acts on detail. dcw: moves every Euler "
                    "step as DCW does, which acts most where steps are short. snr and dcw need sigmas, snr "
                    "also model.",
                ),
                ksampler.steps(
                    "uniform, linear: the number of steps of the run, as in the sampler. Ignored "
                    "when sigmas is connected, which knows, and by table, which is as long as its numbers."
                ),
                schema.number(
                    "scale",
                    1.005,
                    0.5,
                    1.5,
                    0.0001,
                    "uniform: the scale of every step. linear: the scale of the last step. Above 1 more "
                    "detail, below 1 smoother, 1 is off.",
                ),
                schema.number(
                    "slope",
                    0.0,
                    -0.05,
                    0.05,
                    0.00001,
                    "linear: added once per step from the last step back to the first. Above 0 acts more on "
                    "composition, below 0 more on detail.",
                ),
                *schema.widgets(SCHEDULE),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="The noise levels of the whole run, e.g. from BasicScheduler, set as the "
                    "sampler is. They decide the length, and are remembered: a run over a part of them "
                    "(split sigmas, img2img, start_at_step) then finds its own part of the schedule, and "
                    "one with other levels or another number of steps reads its scales off in between.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="snr: the model to be sampled, which tells how much noise a sigma means. It is "
                    "only looked at.",
                ),
            ],
            outputs=[
                schema.Schedule.Output(display_name="schedule", tooltip="For Epsilon Scaling with Schedule."),
                io.Image.Output(display_name="plot", tooltip="The scale over the steps."),
                io.String.Output(
                    display_name="json", tooltip="The schedule as text, to keep, share, or paste into table."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, table=None):
        # Also in the modes that do not use it: naming `mode` here would put the message at both widgets.
        try:
            if table is not None:  # None is a link, whose value is not known yet
                schedules.read_table(table)
        except SettingsError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, mode, steps, sigmas=None, model=None, **settings) -> io.NodeOutput:
        levels = None if sigmas is None else tuple(sigmas.tolist())
        made = make(mode, steps, levels, model, settings)
        plot = image(schedule_figure, made)
        text = made.to_json()
        return io.NodeOutput(text, plot, text)


def make(mode: str, steps: int, sigmas: tuple[float, ...] | None, model, settings: dict) -> Schedule:
    """Return the schedule the widgets ask for, with what it is for; SettingsError if something is missing."""
    if sigmas is not None:
        steps = len(sigmas) - 1
    if steps < 1:
        raise SettingsError("sigmas holds no step; connect those of a run that samples")
    made = compute(mode, steps, sigmas, model, settings)
    facts = {
        "steps": len(made.values),
        "sigmas": sigmas,
        "model": type(model.model).__name__ if model else None,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return replace(made, made_for=replace(made.made_for, **known))


def compute(mode: str, steps: int, sigmas: tuple[float, ...] | None, model, settings: dict) -> Schedule:
    """Return the schedule of a mode."""
    if mode == "table":
        return schedules.read_table(settings["table"])
    if mode == "uniform":
        return Schedule(mode, schedules.uniform_schedule(steps, settings["scale"]))
    if mode == "linear":
        return Schedule(mode, schedules.linear_schedule(steps, settings["slope"], settings["scale"]))
    if sigmas is None:
        raise SettingsError(f"mode {mode} needs the run's noise levels; connect BasicScheduler to sigmas")
    if mode == "dcw":
        made_for = MadeFor(sampler="euler")  # the identity with DCW holds for Euler steps
        return Schedule(mode, schedules.dcw_schedule(sigmas, settings["dcw_lambda"]), made_for)
    if model is None:
        raise SettingsError("mode snr needs to know how much noise a sigma means; connect model")
    space = states_of(model.get_model_object("model_sampling")).space
    return Schedule(mode, schedules.snr_schedule(sigmas, settings["tsr_k"], settings["tsr_sigma"], space))
