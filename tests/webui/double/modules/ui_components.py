"""An accordion whose head is a switch, and a small button."""

import gradio as gr


class InputAccordion(gr.Checkbox):
    """Its value is whether it is on."""

    keywords = {"value", "label", "elem_id", "visible", "elem_classes", "info"}

    def __init__(self, value, **given):
        super().__init__(value=value, **given)

    def extra(self):
        return gr.Column(elem_classes="input-accordion-extra", min_width=0)


class ToolButton(gr.Button):
    """Takes what a button takes."""
