"""Fine-tuning a model of the host by MDSS, for the node and the command line."""

from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import torch

from ...steadydiff.files.mdss import UNET_PREFIXES
from ...steadydiff.hosts.comfy.finetune import checkpoint_blocks, finetune_base, rebuilt, schedule_of
from ...steadydiff.hosts.comfy.train import Samples, names_of
from ...steadydiff.training.distributed import team
from ...steadydiff.training.loop import Plan
from ...steadydiff.training.mdss import MdssRequest, save_trained, train_mdss
from .host import HOST
from .set_up import prepare
from .training import progress, training


def train(
    model,
    samples: Callable[[], Samples],
    name: str,
    request: MdssRequest,
    plan: Plan,
    file: Path,
    state: Path,
    about: dict,
    stored: Callable[[], dict[str, torch.Tensor]] = dict,
    **of_base: str,
) -> None:
    """Fine-tune a model of the host and write the file.

    samples: asked for them once it is clear that the model can be trained
    about:   for people who read the file
    stored:  reads the model's own file, of whose tensors a checkpoint keeps all but the network's
    of_base: what the file's card shall say of the model
    """
    schedule = schedule_of(model)
    recipe = request.recipe(schedule.space)
    recipe.check(name, schedule.space, len(schedule.sigmas))
    chosen = samples()
    chosen.check(model)
    comfy.model_management.unload_all_models()  # for room, and so that no clone's LoRA is in the weights
    device, on_step = comfy.model_management.get_torch_device(), progress(plan.steps)
    dtype = torch.bfloat16 if request.rank and device.type == "cuda" else torch.float32
    with training(plan.seed):
        fresh = rebuilt(model, dtype, device)
        if request.checkpointing:
            checkpoint_blocks(fresh.diffusion_model)
        base = finetune_base(model, name, schedule, chosen, HOST, prepare, fresh)
        heads = request.heads(base.network)
        trained = train_mdss(heads, base, recipe, plan, state, on_step)
    if team().rank:
        return

    half = torch.bfloat16 if model.model.get_dtype() == torch.bfloat16 else torch.float16

    def checkpoint(network: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        network = {key: value.to(half) for key, value in network.items()}
        own = model.model.model_config.process_unet_state_dict_for_saving(network)
        if schedule.prediction == "v":
            own["v_pred"] = torch.tensor([])  # by which the host knows some of them
        return own | {key: value for key, value in stored().items() if not key.startswith(UNET_PREFIXES[0])}

    about = {**about, **plan.facts, "samples": len(chosen.clean)}
    about["recipe"] = vars(recipe)
    facts = {**names_of(model), **of_base, "training": about}
    save_trained(file, trained, base, recipe, checkpoint, **facts)
