"""The widgets that the two nodes around language models share."""

from comfy_api.latest import io

from ..steadydiff.language.proposer import FRAMEWORKS
from . import schema


def framework():
    return io.Combo.Input(
        "framework", options=list(FRAMEWORKS), default="enhanced",
        tooltip="enhanced: the model describes content and style of each picture by itself, and compares its "
        "descriptions; 6 questions an iteration, for small models and those that see one picture. vanilla: "
        "it sees both pictures at once; 2 questions, for strong models.",
    )  # fmt: skip


def shared(max_tokens: int) -> list:
    """Seed, length, picture size and templates."""
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=0x7FFFFFFF, control_after_generate=True,
            tooltip="Of the model's choice of words. With the same seed the phrases stay the same, where the "
            "model's maker keeps that promise.",
        ),
        schema.number(
            "temperature", 0.2, 0.0, 2.0, 0.05,
            "0: the likeliest words, most exact. Higher: more varied phrases, and more that are wrong.",
        ),
        io.Int.Input(
            "max_tokens", default=max_tokens, min=16, max=32768,
            tooltip="Longest answer, in tokens. Too short cuts lists off; models that think first need more.",
        ),
        io.Int.Input(
            "image_size", default=768, min=64, max=4096,
            tooltip="Pictures are made smaller until their longer side is this. Larger shows the model finer "
            "detail and takes longer; models see no more than they were made for.",
        ),
        io.String.Input(
            "templates", default="", multiline=True,
            tooltip="Your own questions to the model, each under a line with its name in square brackets, "
            "e.g. [style]. Empty: ours, which the help page shows.",
        ),
    ]  # fmt: skip


def output():
    return schema.Proposer.Output(
        display_name="proposer", tooltip="For ARPO: says what a drawing lacks beside the reference."
    )
