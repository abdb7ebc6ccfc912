"""What each method adds to a guided model call of a network of full size: time, and memory on a GPU.

Networks of random weights with the host's own guider: SD1.5, SDXL, SD3 and Flux in half precision on a GPU,
for one and four pictures, with weights of 8 bits and compiled; on a CPU SD1.5 with one picture. Calls with
and without a method are taken in turn, at a corrected step: DiffIER's renoise then has a call of its own.
`compiled` cells count what torch.compile makes more of than without us; `train` cells time whole steps.

`--memory lowvram` or `novram` keeps the host's weights elsewhere, as its options of that name.
"""

import platform
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from steadydiff.errors import SteadyDiffError
from steadydiff.files.antibias import AntiBiasCard
from steadydiff.hosts.comfy import finetune
from steadydiff.hosts.comfy.antibias import LoadedPrompt
from steadydiff.hosts.comfy.train import Samples
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from steadydiff.networks.xi_head import TwoHeads
from steadydiff.training.mdss import PLAN, MdssRecipe, train_mdss, variant_for
from tools.bench import epsilon_scaling as timing
from tools.bench.shared import mdss_cost
from tools.bench.shared.frame import Bench, Figures, options_of
from tools.bench.shared.tries import METHODS
from tools.launch.inprocess import PACK, defaults_of, load, load_pack, prepare_host


@dataclass(frozen=True)
class Size:
    """A class of comfy.supported_models and the configuration of its full-sized network.

    shape: of one latent
    text:  of a prompt [tokens, width] and
    more:  the widths of what it carries beside it
    dtype: of the weights on a GPU
    """

    family: str
    network: dict
    shape: tuple[int, int, int]
    text: tuple[int, int] = (77, 768)
    more: dict[str, int] = field(default_factory=dict)
    dtype: torch.dtype = torch.float16


SD3 = {
    **{"input_size": None, "patch_size": 2, "in_channels": 16, "depth": 24, "adm_in_channels": 2048},
    **{"pos_embed_max_size": 192, "num_patches": 192**2, "pos_embed_scaling_factor": None},
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 1536},
    },
}
FLUX = {
    **{"in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096},
    **{"hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38},
    **{"axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True},
    "txt_ids_dims": [],
}
SIZES = {
    "SD1.5": Size("SD15", timing.SD15, (4, 64, 64)),
    "SDXL": Size("SDXL", timing.SDXL, (4, 128, 128), (77, 2048)),
    "SD3": Size("SD3", SD3, (16, 128, 128), (154, 4096), {"pooled_output": 2048}),
    "Flux": Size("Flux", FLUX, (16, 128, 128), (512, 4096), {"pooled_output": 768}, torch.bfloat16),
}
ROUNDS = 30
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "cudaStreamSynchronize", "cudaDeviceSynchronize")


def main() -> int:
    memory = options_of("cost").parse_args().memory
    cuda = torch.cuda.is_available()
    prepare_host(not cuda, *([] if memory == "normal" else [memory]))
    device = (
        torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    bench = Bench("cost", {"torch": torch.__version__, "device": device})
    add_cells(bench, cuda, "" if memory == "normal" else f"{memory}, ")
    return bench.run()


def add_cells(bench: Bench, cuda: bool, prefix: str = "") -> None:
    """Add all that can be measured: on a CPU only what fits one."""
    rounds = ROUNDS if cuda else 3
    for size in SIZES if cuda else ("SD1.5",):
        for batch in (1, 4) if cuda else (1,):
            for method in METHODS:
                bench.cell(
                    f"{prefix}{size}, batch {batch}, {method}",
                    lambda s=size, b=batch, m=method: cost(SIZES[s], m, rounds, b),
                    quick=method == "Epsilon Scaling",
                )
        for method in METHODS if cuda and not prefix else ():
            bench.cell(
                f"{size}, 8 bits, {method}",
                lambda s=size, m=method: cost(SIZES[s], m, rounds, weights=torch.float8_e4m3fn),
                quick=False,
            )
            bench.cell(
                f"{size}, compiled, {method}",
                lambda s=size, m=method: recompiled(compiled(SIZES[s]), m, SIZES[s]),
                quick=False,
            )
    for size in ("SD1.5", "SDXL") if cuda and not prefix else ():
        for rank, checkpointing in ((16, False), (16, True), (0, True)):
            kind = f"LoRA {rank}" if rank else "whole"
            kept = ", checkpointed" if checkpointing else ""
            bench.cell(
                f"train MDSS, {size}, {kind}{kept}",
                lambda s=size, r=rank, c=checkpointing: training(SIZES[s], r, c),
                quick=False,
            )


def cost(size: Size, method: str, rounds: int, batch: int = 1, weights: torch.dtype | None = None) -> Figures:
    """A guided call with the method beside one without."""
    model = make(size, weights)
    found: Figures = {}

    def use(plain, ours) -> None:
        taken = timing.time_in_turn([plain, ours], rounds, warmup=1)
        plain_ms, ours_ms = (statistics.median(column) for column in zip(*taken, strict=True))
        ratio = statistics.median(own / bare for bare, own in taken)
        found.update(ours_ms=ours_ms, plain_ms=plain_ms, ratio=ratio, more_waits=waits(ours) - waits(plain))
        if torch.cuda.is_available():
            found["more_mib"] = (peak(ours) - peak(plain)) / 2**20

    _inside([model, put(method, model, size)], size, use, batch)
    return found


def compiled(size: Size, backend: str = "inductor"):
    """A model whose network torch compiles when it is first called."""
    model = make(size).clone()
    load("comfy_api.torch_helpers").set_torch_compile_wrapper(model, backend=backend)
    return model


def recompiled(model, method: str, size: Size, calls: int = 4) -> Figures:
    """What a compiled network is compiled to in guided calls, and what the method's calls add to it."""
    counters, counted = torch._dynamo.utils.counters, []
    for ours in (False, True):
        try:
            model = put(method, model, size) if ours else model
            _inside([model], size, lambda call: [call() for _ in range(calls)])
        except SteadyDiffError as error:
            return {"refused": str(error)}
        counted.append((counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())))
    (graphs, breaks), (our_graphs, our_breaks) = counted
    return {"graphs": graphs, "more_graphs": our_graphs - graphs, "more_breaks": our_breaks - breaks}


def training(size: Size, rank: int, checkpointing: bool, batch: int = 4, steps: int = 6) -> Figures:
    """Pictures a second of MDSS's training, on a GPU in bfloat16, two batches to a step, and its memory."""
    load_pack()
    node = sys.modules[f"{PACK}.nodes.shared.mdss_training"]
    model = make(size)
    device, cuda = model.load_device, model.load_device.type == "cuda"
    text = [_prompt(size, torch.Generator().manual_seed(i)) for i in range(3)]
    samples = Samples(torch.randn(8, *size.shape), (text * 3)[:8], text[0])
    with node.training(0):
        fresh = finetune.rebuilt(model, torch.bfloat16 if rank and cuda else torch.float32, device)
        if checkpointing:
            finetune.checkpoint_blocks(fresh.diffusion_model)
        levels = finetune.schedule_of(model)
        base = finetune.finetune_base(model, "random", levels, samples, node.HOST, node.prepare, fresh)
        heads = TwoHeads(base.network, rank=rank).to(device)
        recipe = MdssRecipe(variant_for(base.space), batch=batch)
        taken = [time.perf_counter()]

        def on_step(step: int, loss: float) -> None:
            timing.synchronize()
            taken.append(time.perf_counter())

        if cuda:
            torch.cuda.reset_peak_memory_stats()
        with TemporaryDirectory() as work:
            train_mdss(
                heads, base, recipe, replace(PLAN, steps=steps, accumulate=2), Path(work, "s"), on_step
            )
    seconds = statistics.median(after - before for before, after in zip(taken[1:], taken[2:], strict=False))
    found: Figures = {"pictures_a_second": 2 * batch / seconds, "ms_a_step": 1000 * seconds}
    return found | ({"peak_mib": torch.cuda.max_memory_allocated() / 2**20} if cuda else {})


def make(size: Size, weights: torch.dtype | None = None):
    """A model of random weights on the host's device, with `weights` cast to the size's own for each call."""
    kind = getattr(load("comfy.supported_models"), size.family)
    device = load("comfy.model_management").get_torch_device()
    dtype = size.dtype if device.type == "cuda" else torch.float32
    own = {key: value for key, value in kind.unet_config.items() if key == "image_model"}
    config = kind({**own, **size.network, "dtype": weights or dtype})
    config.set_inference_dtype(weights or dtype, dtype if weights else None)
    model = config.get_model({}, "", device)
    network = model.diffusion_model
    for weight in (*network.parameters(), *network.buffers()):  # SD3's table of positions is a buffer
        weight.data = torch.empty_like(weight, dtype=dtype).uniform_(-0.02, 0.02).to(weight.dtype)
    return load("comfy.model_patcher").CoreModelPatcher(model, load_device=device, offload_device=device)


def put(method: str, model, size: Size):
    """A clone of the model with the method's node on, as `tries` has it, and a network or head made up."""
    if method == "MDSS":
        return mdss_cost.with_head(model)
    name, widgets, _ = METHODS[method]
    node = load_pack()[f"SteadyDiff{name}"]
    own = network(model, size.shape) if method == "Anti-Bias Prompt" else {}
    return node.execute(**(defaults_of(node) | widgets | {"model": model} | own))[0]


def network(model, shape: tuple[int, int, int]) -> dict:
    """The paper's network for latents of this shape."""
    own = PromptNetwork(PromptConfig.for_latents(shape, 32))
    kind = load("comfy.model_patcher").CoreModelPatcher
    patcher = kind(own.to(model.load_device), load_device=model.load_device, offload_device=model.load_device)
    card = AntiBiasCard(target="phi", space=mdss_cost.space_of(model))
    return {"antibias": LoadedPrompt(patcher, card, name="random")}


def waits(call) -> int:
    """How often a call reads a value back from the device, for which the host waits; seen on a CPU too."""
    with torch.profiler.profile(acc_events=True) as profile:
        call()
    return sum(event.count for event in profile.key_averages() if event.key in WAITS)


def peak(call) -> int:
    """Most bytes of the GPU in use during a call."""
    torch.cuda.reset_peak_memory_stats()
    call()
    timing.synchronize()
    return torch.cuda.max_memory_allocated()


def _inside(models: list, size: Size, use, batch: int = 1) -> None:
    conds = [_prompt(size, torch.Generator().manual_seed(seed)) for seed in range(2)]
    timing.inside_runs(models, use, shape=(batch, *size.shape), conds=conds)


def _prompt(size: Size, generator: torch.Generator) -> list:
    more = {name: torch.randn(1, width, generator=generator) for name, width in size.more.items()}
    return [[torch.randn(1, *size.text, generator=generator), more]]


if __name__ == "__main__":
    sys.exit(main())
