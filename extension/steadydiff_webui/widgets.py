"""An input's widget, of keywords that gradio 3.41 and 4.40 share."""

import gradio as gr

from steadydiff.inputs.kinds import Choice, Input

from .folders import File


def widget(one: Input | File, label: str, elem_id: str):
    """Return an input as a gradio component; what it means is told where the pointer rests on it."""
    common = {"value": one.default, "label": label, "elem_id": elem_id, "min_width": 100}
    if one.kind == "number":
        made = gr.Number(step=one.step, **common)  # its bounds are told by `read`, in a sentence
    elif one.kind == "whole":
        made = gr.Number(precision=0, **common)
    elif isinstance(one, (Choice, File)):
        made = gr.Dropdown(choices=list(one.options), **common)
    elif one.kind == "switch":
        made = gr.Checkbox(**common)
    else:
        assert one.kind in ("line", "text"), one
        made = gr.Textbox(lines=1 if one.kind == "line" else 3, **common)
    made.webui_tooltip = one.tooltip  # where the hosts look for it
    return made
