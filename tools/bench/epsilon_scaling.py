"""What Epsilon Scaling costs: its own time per model call, beside ComfyUI's node and beside a real UNet call.

The calls run inside real sampling runs of the host, whose guiders get a network that costs nothing: fixed
branches from a `calc_cond_batch` function. A node's own time is that of a guided call with it, less that of
one without, taken in turn; `ratio` compares ours with core's. "import of the pack" times loading it into a
host that has loaded itself.
"""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from tools.bench.shared.frame import Bench, Figures
from tools.launch.environment import ROOT
from tools.launch.inprocess import defaults_of, load, load_pack, prepare_host

SHAPE = (1, 4, 64, 64)
CASES = {  # name -> (kind of model, widgets of our node)
    "default": ("EPS", {}),
    "slope": ("EPS", {"slope": 0.001}),
    "part": ("EPS", {"start_percent": 0.1, "end_percent": 0.9}),
    "velocity": ("FLOW", {"space": "velocity"}),
    "flow": ("FLOW", {}),
}
IMPORT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tools.launch.inprocess import load_pack, prepare_host, load
prepare_host(True)
load("nodes")
begun = time.perf_counter()
load_pack()
print(time.perf_counter() - begun)
"""


def main() -> int:
    prepare_host(cpu=not torch.cuda.is_available())
    device = load("comfy.model_management").get_torch_device()
    facts = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "shape": SHAPE,
    }
    bench = Bench("epsilon_scaling", facts)
    node, rounds = load_pack()["SteadyDiffEpsilonScaling"], 300 if bench.quick else 1000
    for name, (kind, widgets) in CASES.items():
        bench.cell(f"own time, {name}", lambda k=kind, w=widgets: own_time(node, k, w, rounds))
    bench.cell("guided SD1.5 call", lambda: unet_call(3), quick=False)  # minutes on a busy CPU
    bench.cell("import of the pack", lambda: import_time(1 if bench.quick else 5))
    return bench.run(summary)


def summary(cells: dict[str, Any]) -> Figures:
    """The three goals: at most 1.0, 0.1 % and 0.15 s."""
    own, call = cells.get("own time, default", {}), cells.get("guided SD1.5 call", {})
    share = 100 * own["ours_ms"] / call["call_ms"] if own and call else None
    import_s = cells.get("import of the pack", {}).get("seconds")
    return {"ratio_to_core": own.get("ratio"), "percent_of_guided_call": share, "import_s": import_s}


def own_time(node, kind: str, widgets: dict, rounds: int) -> Figures:
    """A node's own milliseconds per guided call: ours and core's, each less a call without any node."""
    bare = with_fixed_branches(make_model(kind, TINY))
    defaults = defaults_of(node)
    ours = node.execute(model=bare, **(defaults | widgets))[0]
    core = load("comfy_extras.nodes_eps").EpsilonScaling.execute(bare, 1.005)[0]
    taken: list[list[float]] = []
    inside_runs([bare, core, ours], lambda *calls: taken.extend(time_in_turn(calls, rounds)))
    bare_ms, core_ms, ours_ms = (statistics.median(column) for column in zip(*taken, strict=True))
    own, reference = ours_ms - bare_ms, core_ms - bare_ms
    return {
        "ours_ms": own,
        "core_ms": reference,
        "ratio": own / reference,
        "call_without_network_ms": bare_ms,
    }


def time_in_turn(calls, rounds: int, warmup: int = 20) -> list[list[float]]:
    """Milliseconds of each call in each round; who begins changes from round to round."""
    taken = []
    for turn in range(-warmup, rounds):
        row = [0.0] * len(calls)
        for i in range(len(calls)):
            at = (turn + i) % len(calls)
            row[at] = milliseconds(calls[at])
        taken.append(row)
    return taken[warmup:]


def milliseconds(call: Callable[[], object]) -> float:
    synchronize()
    begun = time.perf_counter()
    call()
    synchronize()
    return 1000 * (time.perf_counter() - begun)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def unet_call(calls: int) -> Figures:
    """A guided call of an SD1.5-sized UNet of random weights: two branches in one batch, as the host asks."""
    model, taken = make_model("EPS", SD15), []
    inside_runs([model], lambda call: taken.extend(milliseconds(call) for _ in range(calls)))
    weights = sum(weight.numel() for weight in model.model.diffusion_model.parameters())
    return {"call_ms": statistics.median(taken), "million_weights": round(weights / 1e6)}


def import_time(starts: int) -> Figures:
    """Seconds that loading the pack adds after the host has loaded itself, the median of fresh processes."""
    command = [sys.executable, "-c", IMPORT, str(ROOT)]
    taken = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        for _ in range(starts)
    ]
    return {"seconds": statistics.median(taken)}


SHARED = {
    **{"image_size": 32, "in_channels": 4, "out_channels": 4, "num_heads": 8, "context_dim": 768},
    **{"use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False},
}
TINY = {
    **{**SHARED, "model_channels": 32, "num_res_blocks": [1], "channel_mult": [1], "dtype": torch.float32},
    **{"transformer_depth": [0], "transformer_depth_output": [0, 0], "transformer_depth_middle": -1},
}
SD15 = {
    **{**SHARED, "model_channels": 320, "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4]},
    **{"transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_output": [1] * 9 + [0] * 3},
    "transformer_depth_middle": 1,
}


SDXL = {  # without the vector of sizes, a thousandth of its weights
    **{**SHARED, "model_channels": 320, "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4]},
    **{"num_heads": -1, "num_head_channels": 64, "context_dim": 2048, "use_linear_in_transformer": True},
    **{"transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_output": [0] * 3 + [2] * 3 + [10] * 3},
    "transformer_depth_middle": 10,
}


def make_model(kind: str, config: dict):
    """A randomly initialised model on the host's device, in the precision the host would choose for SD1.5."""
    base, supported = load("comfy.model_base"), load("comfy.supported_models_base").BASE({})
    device = load("comfy.model_management").get_torch_device()
    precision = torch.float16 if device.type == "cuda" else torch.float32
    supported.unet_config = {"dtype": precision, **config}
    supported.latent_format = load("comfy.latent_formats").SD15()
    model = base.BaseModel(supported, base.ModelType[kind], device=device)
    for weight in model.diffusion_model.parameters():
        torch.nn.init.uniform_(weight, -0.02, 0.02)
    return load("comfy.model_patcher").CoreModelPatcher(model, load_device=device, offload_device=device)


def with_fixed_branches(model):
    """A clone whose network is never asked: the same two branches at every call."""
    device = load("comfy.model_management").get_torch_device()
    branches = [torch.randn(SHAPE, device=device), torch.randn(SHAPE, device=device)]
    clone = model.clone()
    clone.model_options["sampler_calc_cond_batch_function"] = lambda args: list(branches)
    return clone


def inside_runs(
    models: list, use: Callable, calls: tuple = (), shape: tuple = SHAPE, conds: list | None = None
) -> None:
    """Start a sampling run on each model, one in the other, and hand `use` a guided model call of each.

    conds: two prompts, as text encoders return them; made up where none are given
    """
    if not models:
        return use(*calls)

    def sample(model, x, sigmas, extra_args, callback=None, disable=None):
        sigma = sigmas[1] * x.new_ones(len(x))  # as samplers make it
        inside_runs(models[1:], use, (*calls, lambda: model(x, sigma, **extra_args)), shape, conds)
        return x

    samplers = load("comfy.samplers")
    guider = samplers.CFGGuider(models[0])
    width = models[0].model.model_config.unet_config.get("context_dim")
    guider.set_conds(*conds or ([[torch.randn(1, 77, width), {}]] for _ in "+-"))
    guider.set_cfg(7.0)
    with torch.inference_mode():  # as the host executes nodes
        sigmas = samplers.calculate_sigmas(models[0].get_model_object("model_sampling"), "simple", 20)
        guider.sample(
            torch.randn(shape), torch.zeros(shape), samplers.KSAMPLER(sample), sigmas, disable_pbar=True
        )


if __name__ == "__main__":
    sys.exit(main())
