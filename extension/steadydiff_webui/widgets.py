"""An input's widget, of keywords that gradio 3.41 and 4.40 share."""

import gradio as gr
from modules.ui_common import create_refresh_button

from steadydiff.inputs.kinds import Input


def widget(one: Input, label: str, elem_id: str):
    """Return an input as a gradio component."""
    common = {"value": one.default, "label": label, "info": one.tooltip, "elem_id": elem_id}
    if one.kind == "number":
        return gr.Slider(minimum=one.least, maximum=one.most, step=one.step, **common)
    if one.kind == "whole" and one.most > 100_000:  # a seed
        return gr.Number(precision=0, **common)
    if one.kind == "whole":
        return gr.Slider(minimum=one.least, maximum=one.most, step=1, **common)
    if one.kind == "choice":
        return gr.Dropdown(choices=list(one.options), **common)
    if one.kind == "file":
        return _file(one, common)
    if one.kind == "switch":
        return gr.Checkbox(**common)
    assert one.kind in ("line", "text"), one
    return gr.Textbox(lines=1 if one.kind == "line" else 3, **common)


def _file(one, common):
    with gr.Row():
        dropdown = gr.Dropdown(choices=list(one.options), **common)
        button = f"{common['elem_id']}_refresh"
        create_refresh_button(dropdown, lambda: None, lambda: {"choices": list(one.options)}, button)
    return dropdown
