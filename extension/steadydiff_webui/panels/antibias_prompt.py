"""The anti-bias prompt's panel."""

from steadydiff.errors import SettingsError
from steadydiff.files.antibias import load_prompt
from steadydiff.hosts.patch import Patch
from steadydiff.hosts.webui.attach import Plan
from steadydiff.hosts.webui.run import RunSetup
from steadydiff.inputs.antibias_prompt import ANTIBIAS_PROMPT
from steadydiff.methods.antibias_prompt import AntiBiasPrompt

from ..folders import ANTIBIAS, NONE, File
from .panel import Panel

INPUTS = (
    File(
        "file",
        ANTIBIAS,
        "A .safetensors file of models/steadydiff_antibias, trained for the base model you use; it is "
        "refused on another kind.",
    ),
    *ANTIBIAS_PROMPT,
)


def plan(values: dict) -> Plan:
    """Return what a run needs."""
    name = values["file"]
    if name == NONE:
        raise SettingsError("choose a file of models/steadydiff_antibias")
    network, card = load_prompt(ANTIBIAS.path_of(name))

    def begin(setup: RunSetup) -> Patch:
        setup.check(f"the anti-bias model {name}", card, network.config.latent_channels)
        settings = AntiBiasPrompt(
            card.model(setup.on_device(network)),
            values["strength"],
            calls=values["calls"],
        )
        return Patch(settings, values["start_percent"], values["end_percent"])

    return begin


PANEL = Panel(
    "Anti-Bias Prompt",
    "antibias_prompt",
    INPUTS,
    plan,
    hint="0 is off, 1 as trained.",
    page="antibias_prompt.md",
    rows=({"file": "Anti-bias file", "strength": "Strength"},),
    more=(
        {"start_percent": "Anti-bias starts at (0 to 1)", "end_percent": "Anti-bias ends at (0 to 1)"},
        {"calls": "Corrected calls"},
    ),
)
