"""SteadyDiffBandScaling: Epsilon Scaling with a scale for coarse and one for fine structure."""

from comfy_api.latest import io

from ..steadydiff.hosts.comfy.attach import attach
from ..steadydiff.hosts.patch import Patch
from ..steadydiff.inputs.kinds import Choice, Number, part
from ..steadydiff.methods.band_scaling import BandScaling
from ..steadydiff.methods.epsilon_scaling import SPACE_SETTINGS, EpsilonScaling
from ..steadydiff.schedules import TABLE_RANGE, Schedule
from .shared import schema
from .shared.host import HOST

BAND_SCALING = (
    Number(
        "coarse",
        default=1.005,
        least=TABLE_RANGE[0],
        most=TABLE_RANGE[1],
        step=0.0001,
        tooltip=(
            "The predicted noise is divided by this in structure of two latent pixels and more: "
            "composition, large areas, light. 1 is off. Above 1 more contrast of forms, below 1 flatter."
        ),
    ),
    Number(
        "fine",
        default=1.0,
        least=TABLE_RANGE[0],
        most=TABLE_RANGE[1],
        step=0.0001,
        tooltip=(
            "The predicted noise is divided by this in what changes from one latent pixel to the "
            "next: texture, edges. 1 is off. Above 1 more texture, in the end grain; below 1 smoother."
        ),
    ),
    *part(),
    Choice(
        "space",
        default="auto",
        options=SPACE_SETTINGS,
        tooltip=(
            "What is scaled, in both bands. epsilon: the noise, on every kind of model. velocity: the "
            "velocity, on flow models (SD3, Flux, Wan ...) only; weaker on the early, noisiest steps. "
            "auto: epsilon, except velocity for a dcw schedule on a flow model."
        ),
    ),
)


class SteadyDiffBandScaling(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffBandScaling",
            display_name="Band Scaling (SteadyDiff)",
            category=schema.CATEGORY,
            description="Epsilon Scaling in two bands: the noise a model predicts is divided by one number "
            "in coarse structure and by another in fine structure, as what is right for composition may be "
            "wrong for texture. The correction is split by one level of the Haar wavelet. Works on noise-, "
            "v- and flow-predicting models, with every sampler and guider, without extra model calls. (After "
            "DCW, arXiv 2604.16044, and Ning et al., arXiv 2308.15321.)",
            search_aliases=["exposure bias", "wavelet", "DCW", "frequency", "epsilon scaling", "texture"],
            advanced=["start_percent", "end_percent", "space"],
            inputs=[
                io.Model.Input("model", tooltip="The model to correct. Other uses of it stay as they are."),
                *schema.widgets(BAND_SCALING),
                schema.Schedule.Input(
                    "coarse_schedule",
                    optional=True,
                    tooltip="A scale for every single step in the coarse band, from Make Schedule. It "
                    "replaces coarse.",
                ),
                schema.Schedule.Input(
                    "fine_schedule",
                    optional=True,
                    tooltip="A scale for every single step in the fine band, from Make Schedule. It "
                    "replaces fine.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The corrected model; give it to any sampler or guider.")],
        )

    @classmethod
    def validate_inputs(cls, start_percent=0.0, end_percent=1.0):
        return schema.check_part(start_percent, end_percent)

    @classmethod
    def execute(
        cls, model, coarse, fine, start_percent, end_percent, space, coarse_schedule=None, fine_schedule=None
    ) -> io.NodeOutput:
        bands = (
            EpsilonScaling(scale, schedule=schedule and Schedule.from_json(schedule), space=space)
            for scale, schedule in ((coarse, coarse_schedule), (fine, fine_schedule))
        )
        return io.NodeOutput(attach(model, Patch(BandScaling(*bands), start_percent, end_percent), HOST))
