"""SteadyDiffDiffIER: asks a model about its own estimates while it samples, and corrects its errors."""

from comfy_api.latest import io

from ..steadydiff.hosts.comfy import attach
from ..steadydiff.hosts.session import Patch
from ..steadydiff.measurement import Measurement
from ..steadydiff.methods.diffier import MODES, PAPER, DiffIER
from . import schema
from .epsilon_scaling import check_part
from .host import HOST

VALUES = ("as set", "paper")


class SteadyDiffDiffIER(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffDiffIER",
            display_name="DiffIER (SteadyDiff)",
            category=schema.CATEGORY,
            description="Lets a model correct itself while it samples: its clean estimate is noised again, "
            "the model is asked again, and the error it makes there is taken from the estimate. Costs one "
            "model call more per corrected step; try it instead of more steps. Works with every sampler and "
            "guider. What is the paper's and what is our reading: see the help page. (After Chen et al., "
            "arXiv 2508.13628.)",
            search_aliases=["iterative error reduction", "training-inference gap", "renoise", "twicing"],
            inputs=[
                io.Model.Input("model", tooltip="The model to correct. Other uses of it stay as they are."),
                io.Combo.Input(
                    "mode", options=list(MODES), default="renoise",
                    tooltip="renoise: the model is asked again at its own noised estimate, at one more model "
                    "call per iteration and step. norm: free; pulls the guided noise to the strength of the "
                    "conditional branch's, against the burnt look of high cfg; at cfg 1 it does nothing. "
                    "previous, literal: for research only, both make pictures worse; previous pulls to the "
                    "step before, literal towards plain noise, which is what the paper prints.",
                ),
                schema.number(
                    "strength", 0.5, 0.0, 1.0, 0.01,
                    "The share of the found error that is corrected: twice the paper's eta. 0 is off. More "
                    "brings more contrast and detail, in the end grain and hard edges.",
                ),
                io.Boolean.Input(
                    "divide_by_cfg", default=True,
                    tooltip="renoise divides strength by the sampler's cfg. Guidance multiplies the errors a "
                    "model makes by about as much; without this, high cfg needs a strength of 0.1 or less.",
                ),
                io.Int.Input(
                    "iterations", default=1, min=0, max=100,
                    tooltip="How often per step, at most; in mode renoise each costs a model call. 0 is off. "
                    "Three at strength 0.1 do about what one does at 0.3.",
                ),
                schema.number(
                    "threshold", 0.0, 0.0, 10.0, 0.0001,
                    "renoise ends a step early for a picture whose mean loss changes by less than this from "
                    "one iteration to the next; norm ends below it. 0 is never. Larger saves calls where "
                    "there is little to correct.",
                ),
                io.Boolean.Input(
                    "antithetic", default=False,
                    tooltip="renoise asks twice, with a noise and its opposite: the correction is calmer and "
                    "adds no grain of its own, at twice the extra model calls.",
                ),
                schema.number(
                    "start_percent", 0.5, 0.0, 1.0, 0.001,
                    "Where in the run it begins to act; 0 is the first, noisiest step. The later half is the "
                    "better half, at half the cost. Equal to end_percent it is off.",
                ),
                schema.number(
                    "end_percent", 1.0, 0.0, 1.0, 0.001,
                    "Where in the run it ceases to act; 1 is the last step. Earlier saves calls and leaves "
                    "fine texture as the model draws it.",
                ),
                io.Combo.Input(
                    "values", options=list(VALUES), default="as set",
                    tooltip=f"paper: strength {PAPER['strength']} (eta 0.05), threshold {PAPER['threshold']} "
                    f"and up to {PAPER['iterations']} iterations instead of what is set above; slower, and "
                    "weaker per model call.",
                ),
                schema.Measurement.Input(
                    "measurement", optional=True,
                    tooltip="From Measure Drift. norm then pulls to the norms measured on noised clean "
                    "pictures instead of the conditional branch's; the other modes ignore it.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The corrected model; give it to any sampler or guider.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, start_percent=0.5, end_percent=1.0):
        return check_part(start_percent, end_percent)

    @classmethod
    def execute(
        cls, model, mode, strength, divide_by_cfg, iterations, threshold, antithetic, start_percent,
        end_percent, values, measurement=None,
    ) -> io.NodeOutput:  # fmt: skip
        own = {
            "strength": strength, "divide_by_cfg": divide_by_cfg, "iterations": iterations,
            "threshold": threshold,
        }  # fmt: skip
        measured = None if measurement is None else Measurement.from_json(measurement)
        chosen = PAPER if values == "paper" else own
        settings = DiffIER(mode, antithetic=antithetic, measurement=measured, **chosen)
        return io.NodeOutput(attach(model, Patch(settings, start_percent, end_percent), HOST))
