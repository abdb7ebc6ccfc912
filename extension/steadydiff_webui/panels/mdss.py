"""MDSS's panel: takes off the sampler's state what the second output of a model trained by MDSS tells."""

from pathlib import Path

from modules import shared

from steadydiff.errors import SettingsError
from steadydiff.files.mdss import load_head
from steadydiff.hosts.patch import Patch
from steadydiff.hosts.webui.attach import Plan
from steadydiff.hosts.webui.run import RunSetup
from steadydiff.inputs import mdss as inputs
from steadydiff.methods.mdss import MDSS as Method
from steadydiff.methods.mdss import XiModel

from ..folders import MDSS, NONE, File
from .panel import Panel

INPUTS = (
    File(
        "file",
        MDSS,
        "The file from models/steadydiff_mdss whose second output is used. Load the same file as "
        "the checkpoint, or as the LoRA. none: the loaded checkpoint's own.",
    ),
    *inputs.MDSS,
)


def plan(values: dict) -> Plan:
    """Return what a run needs."""
    path = loaded_checkpoint() if values["file"] == NONE else MDSS.path_of(values["file"])
    head, card = load_head(path)
    if head is None:
        raise SettingsError(f"{path.name} was trained without a second head, so there is nothing to subtract")

    def begin(setup: RunSetup) -> Patch:
        what = f"the MDSS head of {path.name}"
        setup.check(what, card, len(head.bias))
        xi = setup.route.second_output(what, head, values["branches"])
        settings = Method(XiModel(xi, card.space, card.sigma_data, card.sigma_range), values["strength"])
        return Patch(settings, values["start_percent"], values["end_percent"])

    return begin


def loaded_checkpoint() -> Path:
    """The file of the model that draws."""
    return Path(shared.sd_model.sd_checkpoint_info.filename)


PANEL = Panel(
    "MDSS",
    "mdss",
    INPUTS,
    plan,
    hint="0 is off, 1 as trained.",
    page="mdss.md",
    rows=({"file": "MDSS file", "strength": "MDSS strength"},),
    more=(
        {"start_percent": "MDSS starts at (0 to 1)", "end_percent": "MDSS ends at (0 to 1)"},
        {"branches": "Prediction used"},
    ),
)
