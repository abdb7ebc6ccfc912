"""SteadyDiffCalibrate: finds a schedule for Epsilon Scaling from a measurement, without a search."""

import torch
from comfy_api.latest import io

from ..steadydiff.drift.calibration import TRIALS, as_method, remarks
from ..steadydiff.drift.measurement import Measurement
from ..steadydiff.drift.steady import steady
from ..steadydiff.hosts.comfy.drift import calibrate_model, check_calibration
from ..steadydiff.inputs.drift import CALIBRATE
from ..steadydiff.plots import schedule_figure
from ..steadydiff.references import is_shipped
from ..steadydiff.schedules import Schedule
from .shared import schema
from .shared.plot import image
from .shared.set_up import make_setup


class SteadyDiffCalibrate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffCalibrate",
            display_name="Calibrate (SteadyDiff)",
            category=schema.MEASURING,
            description="Finds the scale of every step for Epsilon Scaling from a measurement: such that at "
            "the next step the model predicts as much noise as it does on noised clean pictures, or the "
            "state varies as they do. Step by step, so that what earlier steps repaired is counted in. Costs "
            "at most three sampling runs of a small batch. Measured without references, it mends few-step "
            "error only, not the model's own bias.",
            search_aliases=["exposure bias", "auto epsilon scaling", "epsilon scaling schedule"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that was measured. SteadyDiff's corrections are left out."
                ),
                io.Conditioning.Input("positive", tooltip="Prompt, as in the measurement."),
                io.Conditioning.Input("negative", tooltip="Negative prompt, as in the measurement."),
                io.Sampler.Input(
                    "sampler", tooltip="The sampler the schedule is for; not one of the CFG++ kind."
                ),
                schema.Measurement.Input(
                    "measurement",
                    lazy=True,  # measuring takes minutes; see check_lazy_status
                    tooltip="From Measure Drift; sigmas, cfg and seed are taken from it. If it had no "
                    "reference, the scales mend few-step error only, not the model's own bias.",
                ),
                *schema.widgets(CALIBRATE),
            ],
            outputs=[
                schema.Schedule.Output(display_name="schedule", tooltip="For Epsilon Scaling with Schedule."),
                io.Image.Output(display_name="plot", tooltip="The scale over the steps."),
                io.String.Output(
                    display_name="json",
                    tooltip="The schedule as text, to keep, share, or paste into Make Schedule.",
                ),
                io.String.Output(
                    display_name="report", tooltip="How far the scales are to be trusted, in sentences."
                ),
            ],
        )

    @classmethod
    def check_lazy_status(cls, model, positive, negative, sampler, measurement, method, count) -> list[str]:
        """Ask for the measurement, once it is known that there is a use for it."""
        if measurement is not None:
            return []
        most, latent = (
            model.get_model_object("model_sampling").sigma_max,
            model.get_model_object("latent_format"),
        )
        sigmas = torch.tensor([1.0, 0.5, 0.25, 0.0]) * float(most)  # any do to see how a sampler steps
        setup = make_setup(model, positive, negative, sampler, sigmas, 1.0, calls=0)
        check_calibration(setup, (latent.latent_channels, *[16] * latent.latent_dimensions))
        return ["measurement"]

    @classmethod
    def execute(cls, model, positive, negative, sampler, measurement, method, count) -> io.NodeOutput:
        measured = Measurement.from_json(measurement)
        cfg = measured.made_for.cfg
        sigmas = torch.tensor(measured.sigmas, dtype=torch.float32)
        calls = TRIALS * measured.run.steps
        setup = make_setup(model, positive, negative, sampler, sigmas, 1.0 if cfg is None else cfg, calls)
        target = "variance" if method == "variance" else "norm"
        found, taken, drawn = calibrate_model(setup, measured, count, target)
        scales = steady(found.scales, found.errors, measured.sigmas, setup.space)
        made = Schedule(*as_method(method, scales), setup.made_for)
        plot = image(schedule_figure, made)
        text = made.to_json()
        said = remarks(found, taken, drawn, measured.is_own, is_shipped(measured.reference))
        return io.NodeOutput(text, plot, text, "\n".join(said))
