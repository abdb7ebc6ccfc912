"""ComfyUI's face of SteadyDiff: one file per node. The root's `comfy_entrypoint` loads it."""

from comfy_api.latest import ComfyExtension, io

from .antibias_prompt import SteadyDiffAntiBiasPrompt, SteadyDiffLoadAntiBias, register_folder
from .calibrate import SteadyDiffCalibrate
from .chat_server import SteadyDiffChatServer
from .diffier import SteadyDiffDiffIER
from .diffier_report import SteadyDiffDiffIERReport
from .edit_prompt import SteadyDiffEditPrompt
from .epsilon_scaling import SteadyDiffEpsilonScaling
from .measure import SteadyDiffMeasure
from .schedule import SteadyDiffSchedule
from .tinyworld import SteadyDiffTinyWorld
from .train_antibias import SteadyDiffTrainAntiBias
from .vision_model import SteadyDiffVisionModel

NODES: list[type[io.ComfyNode]] = [
    SteadyDiffEpsilonScaling,
    SteadyDiffSchedule,
    SteadyDiffMeasure,
    SteadyDiffCalibrate,
    SteadyDiffDiffIER,
    SteadyDiffDiffIERReport,
    SteadyDiffLoadAntiBias,
    SteadyDiffAntiBiasPrompt,
    SteadyDiffTrainAntiBias,
    SteadyDiffVisionModel,
    SteadyDiffChatServer,
    SteadyDiffEditPrompt,
    SteadyDiffTinyWorld,
]


class SteadyDiffExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_folder()  # the nodes list its files
        return list(NODES)
