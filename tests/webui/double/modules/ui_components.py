"""An accordion whose head is a switch; its value is whether it is on."""

import gradio as gr


class InputAccordion(gr.Checkbox):
    keywords = {"value", "label", "elem_id", "visible", "elem_classes", "info"}

    def __init__(self, value, **given):
        super().__init__(value=value, **given)
