"""ARPO on the command line: from a picture back to a prompt, by the tiny world or through a running ComfyUI.

    run.py arpo scene:7                      the tiny world's own drawing number 7
    run.py arpo picture.png --iterations 3   any picture; the tiny world only knows its own shapes
    run.py arpo picture.png --port 8188      through a running ComfyUI, by the graph of --workflow

A search is kept in output/arpo/<picture>/ after every iteration: its log, its pictures and a sheet; --resume
goes on from there.
"""

import argparse
import json
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from steadydiff.arpo.bank_files import BANKS, read_bank
from steadydiff.arpo.clip_scorer import as_pil
from steadydiff.arpo.log import Log, as_dict, load_log, save_log
from steadydiff.arpo.phrase_bank import ABSENT, PhraseBank
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.search import ARPO
from steadydiff.errors import SteadyDiffError
from steadydiff.files.atomic import write_whole
from steadydiff.files.text import read_text
from steadydiff.picture_files import pixels, read_picture
from steadydiff.tinyworld import sampling
from steadydiff.tinyworld.scenes import caption, render, sample_scenes
from steadydiff.tinyworld.scorer import tiny_scorer
from steadydiff.tinyworld.train import HELD_OUT
from tools.bench.shared import world
from tools.launch.comfy_client import ComfyClient, ComfyError
from tools.launch.console import Stop, say
from tools.launch.environment import ROOT
from tools.launch.sheet import draw_sheet, enlarged

CONDITION = world.Condition("epsilon", "euler", 20, 4.0)
SCENES_SEED, SCENES = HELD_OUT + 60, 1000
OUTPUT = ROOT / "output" / "arpo"
scorer = cache(tiny_scorer)


@torch.no_grad()
def draw(prompts: list[str], seed: int) -> Tensor:
    """Pictures [N, H, W, 3] of prompts, all from the same noise."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    x = sampling.first_state(CONDITION.variant, noise, CONDITION.run.sigmas[0]).expand(
        len(prompts), -1, -1, -1
    )
    parts = [prompts[at : at + world.BATCH] for at in range(0, len(prompts), world.BATCH)]
    done = [CONDITION.sample(world.guided(CONDITION, p), x[: len(p)], CONDITION.run.sigmas) for p in parts]
    return world.decoded(torch.cat(done)).permute(0, 2, 3, 1)


def bank(name: str = "tinyworld", most: int = 16) -> PhraseBank:
    return PhraseBank(read_bank(BANKS / name), scorer(), most, absent=ABSENT)


def read_reference(name: str) -> tuple[str, Tensor]:
    """What to call a reference, and the picture [H, W, 3] in 0..1; "scene:N" is the tiny world's."""
    kind, _, number = name.partition(":")
    if kind == "scene" and number.isdecimal() and int(number) < SCENES:
        scenes = sample_scenes(SCENES_SEED, SCENES)
        say(f"reference: {caption(scenes, int(number))}")
        return f"scene_{number}", render(scenes[int(number) : int(number) + 1])[0].permute(1, 2, 0)
    return Path(name).stem, pixels(read_picture(Path(name), name)) / 255


def search(options: argparse.Namespace) -> None:
    """Search with the tiny world's own models."""
    name, reference = read_reference(options.image)
    folder = OUTPUT / name
    file = folder / "log.safetensors"
    earlier = load_log(file) if options.resume else None
    settings = ARPO(options.iterations, excluded=tuple(options.exclude), drop=options.drop)
    prompt = None if options.prompt is None else Phrases.of(options.prompt)
    begun = settings.search(
        reference, lambda text, seed: draw([text], seed)[0], bank(), scorer(), options.seed, prompt, earlier
    )
    log = None
    for log in begun:
        save_log(log, file)
        step = log.steps[-1]
        say(f"{len(log.steps) - 1}: text {step.text_similarity:.3f}, picture {step.image_similarity:.3f}")
        say(f"   {step.phrases.prompt or '(nothing)'}")
    assert log  # every search draws once
    show(log, reference, folder)
    say(f"ended: {log.stopped}\nprompt: {log.best.phrases.prompt}\npictures: {folder}")


def show(log: Log, reference: Tensor, folder: Path) -> None:
    """Write what a person looks at: log.json, every picture, and a sheet of all."""
    write_whole(folder / "log.json", json.dumps(as_dict(log), indent=1) + "\n")
    columns = {"reference": [enlarged(as_pil(reference))]}
    for i, step in enumerate(log.steps):
        picture = as_pil(step.picture)
        picture.save(folder / f"{i}.png")
        columns[f"{i}: {step.image_similarity:.3f}"] = [enlarged(picture)]
    draw_sheet(log.best.phrases.prompt, columns, []).save(folder / "sheet.png")


def search_in_host(options: argparse.Namespace) -> None:
    """Queue the workflow with this picture in a running ComfyUI and print what its ARPO node found."""
    file = Path(options.workflow or ROOT / "workflows" / "api" / "arpo.json")
    client = ComfyClient(options.port)
    try:
        outputs = client.run(with_picture(json.loads(read_text(file)), options, client))
    except (ComfyError, OSError, ValueError) as error:
        raise Stop(f"The ComfyUI at port {options.port} did not run {file.name}: {error}") from error
    say(f"prompt: {outputs['steadydiff_prompt']['text'][0]}")


def with_picture(graph: dict, options: argparse.Namespace, client: ComfyClient) -> dict:
    """The graph, its ARPO node fed with the picture and these settings, and its prompt shown."""
    nodes = graph if isinstance(graph, dict) else {}
    kinds = {key: node.get("class_type") for key, node in nodes.items() if isinstance(node, dict)}
    found = [key for key, kind in kinds.items() if kind == "SteadyDiffARPO"]
    if len(found) != 1:
        raise ValueError(
            f"a workflow in API format with one SteadyDiffARPO node is needed; this one has {len(found)}"
        )
    data = Path(options.image).read_bytes()
    uploaded = client.upload(Path(options.image).name, data)
    graph["steadydiff_reference"] = {"class_type": "LoadImage", "inputs": {"image": uploaded}}
    settings = {"image": ["steadydiff_reference", 0], "iterations": options.iterations, "seed": options.seed}
    graph[found[0]]["inputs"] |= settings | ({} if options.prompt is None else {"prompt": options.prompt})
    graph["steadydiff_prompt"] = {"class_type": "PreviewAny", "inputs": {"source": [found[0], 0]}}
    return graph


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="run.py arpo", description="From a picture back to a prompt.")
    top.add_argument("image", help="a picture file, or scene:N for a drawing of the tiny world")
    top.add_argument("--prompt", help="where to begin; without it a caption, '' for nothing")
    top.add_argument("--iterations", type=int, default=5)
    top.add_argument("--seed", type=int, default=0, help="of every drawing")
    top.add_argument("--exclude", nargs="*", default=[], metavar="PHRASE", help="never propose these")
    top.add_argument("--drop", action="store_true", help="also take out phrases that hinder")
    top.add_argument("--resume", action="store_true", help="go on from the log of an earlier search")
    top.add_argument("--port", type=int, help="search in the ComfyUI that runs at this port")
    top.add_argument(
        "--workflow", metavar="FILE", help="with --port: a graph in API format with an ARPO node"
    )
    return top


def main() -> int:
    options = parser().parse_args()
    try:
        search_in_host(options) if options.port else search(options)
    except (Stop, SteadyDiffError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; --resume goes on from the last whole iteration.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
