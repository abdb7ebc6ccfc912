"""ComfyUI's face of SteadyDiff: one file per node. The root's `comfy_entrypoint` loads it."""

from comfy_api.latest import ComfyExtension, io

from . import antibias_prompt, mdss
from .antibias_prompt import SteadyDiffAntiBiasPrompt, SteadyDiffLoadAntiBias
from .arpo import SteadyDiffARPO
from .auto_correct import SteadyDiffAuto
from .band_scaling import SteadyDiffBandScaling
from .calibrate import SteadyDiffCalibrate
from .chat_server import SteadyDiffChatServer
from .clip_scorer import SteadyDiffCLIPScorer
from .compare import SteadyDiffCompare
from .diffier import SteadyDiffDiffIER
from .diffier_report import SteadyDiffDiffIERReport
from .edit_prompt import SteadyDiffEditPrompt
from .epsilon_scaling import SteadyDiffEpsilonScaling
from .mdss import SteadyDiffLoadMDSS, SteadyDiffMDSS
from .measure import SteadyDiffMeasure
from .phrase_bank import SteadyDiffPhraseBank
from .saved_schedules import SteadyDiffLoadSchedule, SteadyDiffSaveSchedule
from .schedule import SteadyDiffSchedule
from .time_shift import SteadyDiffTimeShift
from .tinyworld import SteadyDiffTinyWorld
from .train_antibias import SteadyDiffTrainAntiBias
from .train_mdss import SteadyDiffTrainMDSS
from .vision_model import SteadyDiffVisionModel

NODES: list[type[io.ComfyNode]] = [
    SteadyDiffEpsilonScaling,
    SteadyDiffAuto,
    SteadyDiffCompare,
    SteadyDiffSchedule,
    SteadyDiffSaveSchedule,
    SteadyDiffLoadSchedule,
    SteadyDiffMeasure,
    SteadyDiffCalibrate,
    SteadyDiffTimeShift,
    SteadyDiffBandScaling,
    SteadyDiffDiffIER,
    SteadyDiffDiffIERReport,
    SteadyDiffLoadAntiBias,
    SteadyDiffAntiBiasPrompt,
    SteadyDiffTrainAntiBias,
    SteadyDiffLoadMDSS,
    SteadyDiffMDSS,
    SteadyDiffTrainMDSS,
    SteadyDiffARPO,
    SteadyDiffCLIPScorer,
    SteadyDiffPhraseBank,
    SteadyDiffVisionModel,
    SteadyDiffChatServer,
    SteadyDiffEditPrompt,
    SteadyDiffTinyWorld,
]


class SteadyDiffExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        for files in (antibias_prompt.FILES, mdss.FILES):
            files.register()  # the nodes list them
        return list(NODES)
