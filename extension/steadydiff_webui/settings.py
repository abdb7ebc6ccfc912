"""SteadyDiff's page in the host's settings: where our files lie, and ARPO's chat server."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import script_callbacks, shared

from steadydiff.inputs import arpo as arpo_inputs
from steadydiff.inputs.kinds import Input

from .folders import FOLDERS

SECTION = ("steadydiff", "SteadyDiff")
SERVER = ("url", "model", "key_name")


def register() -> None:
    """Add the page; called at every load of the script."""
    script_callbacks.on_ui_settings(add_page)


def add_page() -> None:
    for folder in FOLDERS:
        label = f"Another folder for {folder.name}, beside the one in the host's models"
        add(folder.setting, "", label)
    for one in arpo_inputs.CHAT_SERVER:
        if one.name in SERVER:
            add(f"steadydiff_server_{one.name}", one.default, f"ARPO's chat server: {one.name}", one.tooltip)


def add(key: str, default: Any, label: str, tooltip: str = "") -> None:
    option = shared.OptionInfo(default, label, gr.Textbox, section=SECTION)
    shared.opts.add_option(key, option.info(tooltip) if tooltip else option)


def server_default(one: Input) -> Any:
    """An input of the chat server as the settings have it, or else as it is declared."""
    return shared.opts.data.get(f"steadydiff_server_{one.name}", one.default)
