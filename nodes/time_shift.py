"""SteadyDiffTimeShift: calls a model at another noise level than the sampler's."""

from comfy_api.latest import io

from ..steadydiff.hosts.comfy.attach import attach
from ..steadydiff.hosts.patch import Patch, training_sigmas
from ..steadydiff.inputs.time_shift import TIME_SHIFT, TIME_SHIFT_LEVELS
from ..steadydiff.methods.time_shift import TimeShift
from .shared import schema
from .shared.host import HOST


class SteadyDiffTimeShift(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffTimeShift",
            display_name="Time Shift (SteadyDiff)",
            category=schema.CATEGORY,
            description="Calls a model as if a picture held a little less noise, or more, than the sampler "
            "says. Few steps, and samplers that draw noise at every step, make pictures that are softer and "
            "greyer than the model expects at that level; told the level they really have, it draws more "
            "contrast and detail. Works on noise-, v- and flow-predicting models, with every sampler and "
            "guider, without extra model calls. (After Li et al., arXiv 2305.15583.)",
            search_aliases=[
                "exposure bias",
                "lying sigma",
                "detail daemon",
                "shifted time steps",
                "grey",
                "sharper",
                "contrast",
            ],
            advanced=["start_percent", "end_percent"],
            inputs=[
                io.Model.Input("model", tooltip="The model to correct. Other uses of it stay as they are."),
                *schema.widgets(TIME_SHIFT),
                schema.advanced(TIME_SHIFT_LEVELS),
            ],
            outputs=[io.Model.Output(tooltip="The corrected model; give it to any sampler or guider.")],
        )

    @classmethod
    def validate_inputs(cls, start_percent=0.0, end_percent=1.0):
        return schema.check_part(start_percent, end_percent)

    @classmethod
    def execute(cls, model, factor, start_percent, end_percent, levels=0.0) -> io.NodeOutput:
        sampling = model.get_model_object("model_sampling")
        table = tuple(training_sigmas(sampling).tolist()) if levels else ()
        settings = TimeShift(factor, levels=levels, table=table)
        return io.NodeOutput(attach(model, Patch(settings, start_percent, end_percent), HOST))
