"""What each method adds to a guided model call of a network of full size: time, and memory on a GPU.

SD1.5- and SDXL-sized UNets of random weights with the host's own guider, in half precision on a GPU; on a CPU
only SD1.5 with one picture. Calls with and without a method are taken in turn, at a corrected step: DiffIER's
then has a call of its own.
"""

import platform
import statistics
import sys

import torch

from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork, attention_at
from tools.bench import epsilon_scaling as timing
from tools.bench.shared import mdss_cost
from tools.bench.shared.frame import Bench, Figures
from tools.bench.shared.tries import METHODS
from tools.launch.inprocess import PACK, defaults_of, load, load_pack, prepare_host

SIZES = {"SD1.5": (timing.SD15, 64), "SDXL": (timing.SDXL, 128)}  # name -> (network, side of its latents)


def main() -> int:
    cuda = torch.cuda.is_available()
    prepare_host(cpu=not cuda)
    device = (
        torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    bench = Bench("cost", {"torch": torch.__version__, "device": device})
    rounds = 30 if cuda else 3
    for size in SIZES if cuda else ("SD1.5",):
        for batch in (1, 4) if cuda else (1,):
            for method in METHODS:
                bench.cell(f"{size}, batch {batch}, {method}",
                           lambda s=size, b=batch, m=method: cost(s, b, m, rounds),
                           quick=method == "Epsilon Scaling")  # fmt: skip
    return bench.run()


def cost(size: str, batch: int, method: str, rounds: int) -> Figures:
    """A guided call with the method beside one without."""
    config, side = SIZES[size]
    model = timing.make_model("EPS", config)
    found: Figures = {}

    def use(plain, ours) -> None:
        taken = timing.time_in_turn([plain, ours], rounds, warmup=1)
        plain_ms, ours_ms = (statistics.median(column) for column in zip(*taken, strict=True))
        ratio = statistics.median(own / bare for bare, own in taken)
        found.update(ours_ms=ours_ms, plain_ms=plain_ms, ratio=ratio)
        if torch.cuda.is_available():
            found["more_mib"] = (peak(ours) - peak(plain)) / 2**20

    timing.inside_runs([model, put(method, model, side)], use, shape=(batch, 4, side, side))
    return found


def put(method: str, model, side: int):
    """A clone with the method's node on, as `tries` has it, with a network or head of random weights."""
    if method == "MDSS":
        return mdss_cost.with_head(model)
    name, widgets, _ = METHODS[method]
    node = load_pack()[f"SteadyDiff{name}"]
    own = network(model, side) if method == "Anti-Bias Prompt" else {}
    return node.execute(**(defaults_of(node) | widgets | {"model": model} | own))[0]


def network(model, side: int) -> dict:
    """The paper's network for latents of this size."""
    state = sys.modules[f"{PACK}.steadydiff.hosts.comfy.antibias"]
    own = PromptNetwork(PromptConfig(4, 32, attention_levels=attention_at(side, 3))).to(model.load_device)
    kind = load("comfy.model_patcher").CoreModelPatcher
    patcher = kind(own, load_device=model.load_device, offload_device=model.load_device)
    return {
        "antibias": state.LoadedPrompt(patcher, state.AntiBiasCard(target="phi", space="ve"), name="random")
    }


def peak(call) -> int:
    """Most bytes of the GPU in use during a call."""
    torch.cuda.reset_peak_memory_stats()
    call()
    timing.synchronize()
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    sys.exit(main())
