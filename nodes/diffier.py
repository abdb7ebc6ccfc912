"""SteadyDiffDiffIER: asks a model about its own estimates while it samples, and corrects its errors."""

from comfy_api.latest import io

from ..steadydiff.drift.measurement import Measurement
from ..steadydiff.hosts.comfy.attach import attach
from ..steadydiff.hosts.patch import Patch
from ..steadydiff.inputs.diffier import DIFFIER
from ..steadydiff.methods.diffier import DiffIER, values_of
from .shared import schema
from .shared.host import HOST


class SteadyDiffDiffIER(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffDiffIER",
            display_name="DiffIER: Second Look (SteadyDiff)",
            category=schema.CATEGORY,
            description="Lets a model correct itself while it samples: its clean estimate is noised again, "
            "the model is asked again, and the error it makes there is taken from the estimate. Costs one "
            "model call more per corrected step; try it instead of more steps. Works with every sampler and "
            "guider. What is the paper's and what is our reading: see the help page. (After Chen et al., "
            "arXiv 2508.13628.)",
            search_aliases=["iterative error reduction", "training-inference gap", "renoise", "self-correct"],
            advanced=["divide_by_cfg", "threshold", "antithetic", "start_percent", "end_percent", "values"],
            inputs=[
                io.Model.Input("model", tooltip="The model to correct. Other uses of it stay as they are."),
                *schema.widgets(DIFFIER),
                schema.Measurement.Input(
                    "measurement",
                    optional=True,
                    tooltip="From Measure Drift. norm then pulls to the norms measured on noised clean "
                    "pictures instead of the conditional branch's; with values auto, renoise takes its "
                    "strength from it: measure the plain model as you sample, with real pictures.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The corrected model; give it to any sampler or guider.")],
        )

    @classmethod
    def validate_inputs(cls, start_percent=0.5, end_percent=1.0):
        return schema.check_part(start_percent, end_percent)

    @classmethod
    def execute(
        cls,
        model,
        mode,
        strength,
        divide_by_cfg,
        iterations,
        threshold,
        antithetic,
        start_percent,
        end_percent,
        values,
        measurement=None,
    ) -> io.NodeOutput:
        own = {
            "strength": strength,
            "divide_by_cfg": divide_by_cfg,
            "iterations": iterations,
            "threshold": threshold,
        }
        measured = None if measurement is None else Measurement.from_json(measurement)
        chosen = values_of(values, own, mode, measured)
        settings = DiffIER(mode, antithetic=antithetic, measurement=measured, **chosen)
        return io.NodeOutput(attach(model, Patch(settings, start_percent, end_percent), HOST))
