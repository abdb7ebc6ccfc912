"""The part of pasting that an extension touches."""

import gradio as gr


class ParamBinding:
    def __init__(
        self,
        paste_button,
        tabname,
        source_text_component=None,
        source_image_component=None,
        source_tabname=None,
        override_settings_component=None,
        paste_field_names=(),
    ):
        self.paste_button, self.tabname = paste_button, tabname


def create_buttons(tabs_list):
    return {tab: gr.Button(value=f"Send to {tab}") for tab in tabs_list}


def register_paste_params_button(binding):
    pass
