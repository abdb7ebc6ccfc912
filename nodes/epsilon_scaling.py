"""SteadyDiffEpsilonScaling: makes a model trust its own noise a little less, or more, while it samples."""

from comfy_api.latest import io

from ..steadydiff.hosts.comfy.attach import attach
from ..steadydiff.hosts.patch import Patch
from ..steadydiff.inputs.epsilon_scaling import EPSILON_SCALING
from ..steadydiff.methods.epsilon_scaling import EpsilonScaling
from ..steadydiff.schedules import Schedule
from .shared import schema
from .shared.host import HOST


class SteadyDiffEpsilonScaling(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffEpsilonScaling",
            display_name="Epsilon Scaling with Schedule (SteadyDiff)",
            category=schema.CATEGORY,
            description="Corrects drift by dividing the predicted noise by a number near 1. Start with 1.005 "
            "(flow models 1.001). Works with every sampler and guider and costs no time. Two of these nodes "
            "in a row multiply. (Ning et al., arXiv 2308.15321.)",
            search_aliases=[
                "exposure bias",
                "drift",
                "more detail",
                "smoother",
                "grain",
                "noise scaling",
                "velocity scaling",
                "ES",
                "lambda",
            ],
            advanced=["slope", "start_percent", "end_percent", "space"],
            inputs=[
                io.Model.Input("model", tooltip="The model to correct. Other uses of it stay as they are."),
                *schema.widgets(EPSILON_SCALING),
                schema.Schedule.Input(
                    "schedule",
                    optional=True,
                    tooltip="A scale for every single step, from Make Schedule. It replaces scale and slope.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The corrected model; give it to any sampler or guider.")],
        )

    @classmethod
    def validate_inputs(cls, start_percent=0.0, end_percent=1.0):
        return schema.check_part(start_percent, end_percent)

    @classmethod
    def execute(cls, model, scale, slope, start_percent, end_percent, space, schedule=None) -> io.NodeOutput:
        by_step = None if schedule is None else Schedule.from_json(schedule)
        settings = EpsilonScaling(scale=scale, slope=slope, schedule=by_step, space=space)
        return io.NodeOutput(attach(model, Patch(settings, start_percent, end_percent), HOST))
