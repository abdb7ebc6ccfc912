"""The one always-visible script: an accordion per method, and the hooks of a generation."""

from __future__ import annotations

from functools import partial

import gradio as gr
from modules import scripts

from steadydiff.hosts.webui import attach as webui

from . import auto_correct, calibration, docs, layout, presets, settings, xyz
from .arguments import enabled, is_strict, read
from .arpo import routes as arpo_routes
from .arpo import tab as arpo_tab
from .folders import File
from .host import find_host, native_scaling
from .measuring import SETTINGS
from .panels import PANELS, ROWS, epsilon_scaling
from .panels import auto_correct as auto_panel
from .report import Refused, Report, begin


class SteadyDiffScript(scripts.Script):
    """Its arguments are each panel's switch and inputs, in the panels' order."""

    def title(self):
        return "SteadyDiff"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def __init__(self):
        super().__init__()
        self._measuring, self._settings = [], {}

    def ui(self, is_img2img):
        label, elem_id = layout.header({panel.name: panel.defaults() for panel in PANELS}), self.elem_id
        with gr.Accordion(label, open=False, elem_id=elem_id("steadydiff")) as outer:
            use = presets.Row(elem_id("presets"))
            found = {}
            for row in ROWS:
                with gr.Row():
                    for panel in row:
                        with gr.Column(min_width=280):
                            found[panel.name] = layout.Drawn(panel, elem_id(panel.name))
        drawn = [found[panel.name] for panel in PANELS]
        components = [component for one in drawn for component in one.components]
        use.connect(components)
        layout.connect_header(outer, drawn)
        self._paste(drawn)
        if not self.is_img2img:
            self._measure(found)
        return components

    def _paste(self, drawn):
        """Say which widgets an infotext's values go to."""
        self.infotext_fields, self.paste_field_names = [], []
        for one in drawn:
            switch, *widgets = one.components
            self.infotext_fields.append((switch, one.panel.mentioned))
            for given, component in zip(one.panel.inputs, widgets, strict=True):
                self.infotext_fields.append((component, partial(one.panel.pasted, given)))
                self.paste_field_names.append(one.panel.key(given))

    def _measure(self, found):
        scaling, auto = found[epsilon_scaling.PANEL.name], found[auto_panel.PANEL.name]
        targets = [scaling.by_name[name] for name in ("enabled", *epsilon_scaling.CHOSEN_BY_CALIBRATION)]
        with scaling.below:
            calibrate = calibration.Row(targets, self.elem_id("epsilon_scaling_calibration"))
        with auto.below:
            measure = auto_correct.Row(
                auto.by_name["enabled"], auto.by_name["quality"], self.elem_id("auto_correct")
            )
        self._measuring = [calibrate, measure]
        self._connect()

    def after_component(self, component, **kwargs):
        """Note the host's own widgets, from which a measurement takes its settings."""
        for name, elem_id in SETTINGS.items():
            if kwargs.get("elem_id") == elem_id:
                self._settings[name] = component
                self._connect()

    def _connect(self):
        """Let the buttons work once all their widgets are there, in whatever order the host makes them."""
        if self._measuring and self._settings.keys() == SETTINGS.keys():
            for row in self._measuring:
                row.connect({name: self._settings[name] for name in SETTINGS})
            self._measuring, self._settings = [], {}

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
    docs.register()
    xyz.register()
    settings.register()
    searches = arpo_tab.Searches()
    arpo_tab.register(searches)
    arpo_routes.register(searches)
