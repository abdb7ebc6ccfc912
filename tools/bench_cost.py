"""What each method adds to a guided model call of a network of full size: time, and memory on a GPU.

SD1.5- and SDXL-sized UNets of random weights with the host's own guider, in half precision on a GPU; on a CPU
only SD1.5 with one picture. Calls with and without a method are taken in turn, at a corrected step: DiffIER's
then has a call of its own.
"""

import platform
import sys

import torch

from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork, attention_at
from steadydiff.networks.xi_head import last_layer
from tools import bench_epsilon_scaling as timing
from tools.bench import Bench, Figures, paired_ratio
from tools.inprocess import PACK, load, load_pack, prepare_host

SIZES = {"SD1.5": (timing.SD15, 64), "SDXL": (timing.SDXL, 128)}  # name -> (network, side of its latents)
METHODS = {"Epsilon Scaling": {}, "Anti-Bias Prompt": {}, "DiffIER": {"start_percent": 0.0}, "MDSS": {}}


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
        found.update(paired_ratio(waited(ours), waited(plain), rounds, warmup=1))
        if torch.cuda.is_available():
            found["more_mib"] = (peak(ours) - peak(plain)) / 2**20

    timing.inside_runs([model, put(method, model, side)], use, shape=(batch, 4, side, side))
    return found


def put(method: str, model, side: int):
    """A clone with the method's node at its defaults, with a network or head of random weights."""
    node = load_pack()[f"SteadyDiff{method}".replace(" ", "").replace("-", "")]
    inputs = {entry.id: entry.default for entry in node.GET_SCHEMA().inputs if hasattr(entry, "default")}
    own = {"Anti-Bias Prompt": network, "MDSS": head}.get(method, lambda model, side: {})
    return node.execute(**(inputs | METHODS[method] | {"model": model} | own(model, side)))[0]


def network(model, side: int) -> dict:
    """The paper's network for latents of this size."""
    state = sys.modules[f"{PACK}.steadydiff.hosts.comfy_state"]
    own = PromptNetwork(PromptConfig(4, 32, attention_levels=attention_at(side, 3))).to(model.load_device)
    kind = load("comfy.model_patcher").CoreModelPatcher
    patcher = kind(own, load_device=model.load_device, offload_device=model.load_device)
    return {"antibias": state.LoadedPrompt(patcher, state.Card(target="phi", space="ve"), name="random")}


def head(model, side: int) -> dict:
    """A second last layer that answers almost nothing."""
    files = sys.modules[f"{PACK}.steadydiff.mdss_files"]
    layer = last_layer(model.model.diffusion_model)
    assert layer is not None
    weight = layer.get_parameter("weight")
    made = files.Head(torch.full(weight.shape, 1e-6), torch.zeros(len(weight)))
    loaded = sys.modules[f"{PACK}.steadydiff.hosts.comfy_mdss"].LoadedHead
    return {"head": loaded(made, files.Card(form="lora", space="ve"), "random")}


def waited(call):
    """The call, and the wait for the device to finish it."""

    def both() -> None:
        call()
        timing.synchronize()

    return both


def peak(call) -> int:
    """Most bytes of the GPU in use during a call."""
    torch.cuda.reset_peak_memory_stats()
    call()
    timing.synchronize()
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    sys.exit(main())
