"""The one always-visible script: an accordion per method, and the hooks of a generation."""

from __future__ import annotations

from functools import partial

import gradio as gr
from modules import scripts
from modules.ui_components import InputAccordion

from steadydiff.hosts.webui import attach as webui

from . import calibration, presets, settings, xyz
from .arguments import enabled, is_strict, read
from .arpo import routes as arpo_routes
from .arpo import tab as arpo_tab
from .folders import File
from .host import find_host, native_scaling
from .panels import PANELS, epsilon_scaling
from .report import Refused, Report, begin
from .widgets import widget


class SteadyDiffScript(scripts.Script):
    """Its arguments are each panel's switch and inputs, in the panels' order."""

    def title(self):
        return "SteadyDiff"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def __init__(self):
        super().__init__()
        self._calibration, self._settings = None, {}

    def ui(self, is_img2img):
        components, self.infotext_fields, self.paste_field_names = [], [], []
        with gr.Accordion("SteadyDiff", open=False, elem_id=self.elem_id("steadydiff")):
            for panel in PANELS:
                components.extend(self._panel(panel))
            presets.row(components, self.elem_id("presets"))
        self._connect()
        return components

    def _panel(self, panel):
        elem_id = self.elem_id(panel.name)
        with InputAccordion(False, label=panel.title, elem_id=elem_id) as switch:
            widgets = [widget(one, panel.label(one), f"{elem_id}_{one.name}") for one in panel.inputs]
            if panel is epsilon_scaling.PANEL and not self.is_img2img:
                targets = [switch, *(widgets[place] for place in epsilon_scaling.CHOSEN_BY_CALIBRATION)]
                self._calibration = calibration.Row(targets, f"{elem_id}_calibration")
        self.infotext_fields.append((switch, panel.mentioned))
        for one, component in zip(panel.inputs, widgets, strict=True):
            self.infotext_fields.append((component, partial(panel.pasted, one)))
            self.paste_field_names.append(panel.key(one))
        return [switch, *widgets]

    def after_component(self, component, **kwargs):
        """Note the host's own widgets, from which a calibration takes its settings."""
        for name, elem_id in calibration.SETTINGS.items():
            if kwargs.get("elem_id") == elem_id:
                self._settings[name] = component
                self._connect()

    def _connect(self):
        """Let the calibration work once all its widgets are there, in whatever order the host makes them."""
        if self._calibration and self._settings.keys() == calibration.SETTINGS.keys():
            self._calibration.connect({name: self._settings[name] for name in calibration.SETTINGS})
            self._calibration, self._settings = None, {}

    def process(self, p, *args):
        """Write what is set into the infotext; wrong values come to light here."""
        begin(p)
        report = Report(p)
        try:
            for panel, values in enabled(read(p, args)):
                p.extra_generation_params.update(panel.infotext(values))
                for one in panel.inputs:
                    if isinstance(one, File) and (fault := one.folder.fault()):
                        report.warned(fault)
        except Exception as error:  # the host would only log it
            report.failed(webui.told(error))

    def process_before_every_sampling(self, p, *args, **kwargs):
        """Let the sampler's next run go through what is enabled."""
        webui.detach(p.sampler)
        try:
            self._attach(p, args)
        except Refused as error:  # raised here it would be swallowed
            webui.refuse(p.sampler, error)

    def _attach(self, p, args):
        strict, plans = is_strict(args), []
        try:
            chosen = list(enabled(read(p, args)))
        except Exception as error:
            if strict:
                raise Refused(webui.told(error)) from None
            return  # told by `process`
        report = Report(p, strict)
        for panel, values in chosen:
            try:
                if panel is epsilon_scaling.PANEL and (native := native_scaling()):
                    report.warned(native)
                plans.append(panel.plan(values))
            except Exception as error:
                report.failed(f"{panel.title}: {webui.told(error)}")
        if plans:
            webui.attach(p.sampler, plans, find_host(), report)


def register() -> None:
    """Register everything the host forgets when its UI is reloaded; called at every load of the script."""
    xyz.register()
    settings.register()
    searches = arpo_tab.Searches()
    arpo_tab.register(searches)
    arpo_routes.register(searches)
