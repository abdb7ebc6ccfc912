"""ARPO on the command line: from pictures back to prompts, by the tiny world or through a running ComfyUI.

    run.py arpo scene:7                      the tiny world's own drawing number 7
    run.py arpo drawing.png --iterations 3   a drawing of the tiny world
    run.py arpo photo.png --comfyui 8188 --checkpoint sd15.safetensors
    run.py arpo FOLDER --comfyui 8188 ...    every picture of a folder; its prompt is written beside it

Without a ComfyUI a search is kept in output/arpo/<picture>/ after every iteration: its log, its pictures and
a sheet; --resume goes on from there.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from steadydiff.arpo.bank_files import BANKS, NO_BANK, find_banks, named_lists, read_bank
from steadydiff.arpo.clip_scorer import as_pil, load_scorer
from steadydiff.arpo.language.keys import find_key
from steadydiff.arpo.language.proposer import VisionProposer
from steadydiff.arpo.language.server import ChatServer
from steadydiff.arpo.log import Log, as_dict, load_log, save_log, theme_fingerprint
from steadydiff.arpo.phrase_bank import ABSENT, PhraseBank
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.search import ARPO, Proposer, Scorer
from steadydiff.arpo.tagger import Captioned, load_tagger
from steadydiff.errors import SteadyDiffError
from steadydiff.files.atomic import write_whole
from steadydiff.inputs.arpo import CHAT_SERVER, TINY
from steadydiff.picture_files import SUFFIXES, pictures_in, pixels, read_picture
from steadydiff.tinyworld import sampling
from steadydiff.tinyworld.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    STYLES,
    caption,
    render,
    sample_scenes,
)
from steadydiff.tinyworld.scorer import tiny_scorer
from steadydiff.tinyworld.train import HELD_OUT
from tools.bench.shared import world
from tools.launch.arpo_host import EachFails, HostSearch
from tools.launch.console import Stop, say
from tools.launch.environment import ROOT
from tools.launch.sheet import draw_sheet, enlarged

CONDITION = world.Condition("epsilon", "euler", 20, 4.0)
SCENES_SEED, SCENES = HELD_OUT + 60, 1000
SIDE = 64  # of the tiny world's pictures
OUTPUT = ROOT / "output" / "arpo"
DRAWS = (
    f"It draws one or two of {len(SHAPES)} shapes ({', '.join(SHAPES[:3])} ...) in {len(COLOURS)} colours on "
    f"{len(BACKGROUNDS)} backgrounds in {len(STYLES)} styles, {SIDE} x {SIDE} pixels, and nothing else."
)
OF_A_HOST = {"size": 512, "steps": 20, "cfg": 7.0, "negative": ""}  # options, and what they are by default
OF_A_GRAPH = {"bank": None, "server": None, "clip": None, "download": False}
RESUMED = "--resume goes on from the last whole iteration"
AGAIN = "the same command goes on with a folder's pictures that have no .txt yet"
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


# --- what the user named ----------------------------------------------------------------------------------


def references(name: str) -> dict[str, Path | None]:
    """Pictures by name: one, all of a folder, or a scene of the tiny world, which has no file."""
    path = Path(name)
    if name.startswith("scene:") and scene_of(name) is None:
        raise Stop(f"{name} is no drawing of the tiny world; there are scene:0 to scene:{SCENES - 1}.")
    if not path.is_dir():
        return {name: None if scene_of(name) is not None else path}
    if not (found := pictures_in(path)):
        raise Stop(f"{name} has no pictures: a folder with {', '.join(SUFFIXES)} files is needed.")
    return {str(file): file for file in found}


def scene_of(name: str) -> int | None:
    kind, _, number = name.partition(":")
    return int(number) if kind == "scene" and number.isdecimal() and int(number) < SCENES else None


def read_reference(name: str) -> tuple[str, Tensor]:
    """What to call a reference, and the picture [H, W, 3] in 0..1; "scene:N" is the tiny world's."""
    number = scene_of(name)
    if number is not None:
        scenes = sample_scenes(SCENES_SEED, SCENES)
        say(f"reference: {caption(scenes, number)}")
        return f"scene_{number}", render(scenes[number : number + 1])[0].permute(1, 2, 0)
    return Path(name).stem, pixels(read_picture(Path(name), name)) / 255


def named_scorer(options: argparse.Namespace) -> Scorer:
    """The CLIP of --clip: a folder, or a model of open_clip with its weights after a slash."""
    if options.clip in (None, TINY):
        return scorer()
    if Path(options.clip).is_dir():
        return load_scorer(Path(options.clip))
    model, _, weights = options.clip.partition("/")
    return load_scorer(model, weights or "openai", download=options.download)


def named_proposer(options: argparse.Namespace, clip: Scorer) -> PhraseBank | VisionProposer:
    """A chat server where one is named, else the banks of --bank: names, or folders and files."""
    if options.server:
        server = ChatServer(options.server, options.model, options.key_name)
        find_key(options.key_name, server.address.origin)
        writer = replace(server, model=options.text_model) if options.text_model else None
        sessions = (server.session, *([writer.session] if writer else []))
        return VisionProposer(server, write=writer, sessions=sessions)
    lists: list[Phrases] = []
    banks = find_banks()
    for name in filter(None, map(str.strip, (options.bank or "tinyworld").split(","))):
        own = name.split("/")[0] not in banks and Path(name).exists()
        lists += read_bank(Path(name)) if own else named_lists(banks, NO_BANK, name)
    return PhraseBank(tuple(lists), clip, cache=OUTPUT / ".embeddings")


def reach_server(options: argparse.Namespace) -> None:
    """Raises EachFails if a chat server proposes and does not run."""
    try:
        if options.server:
            ChatServer(options.server, options.model).reach()
    except SteadyDiffError as error:
        raise EachFails(str(error)) from None


# --- searching here ---------------------------------------------------------------------------------------


def search(
    options: argparse.Namespace, settings: ARPO, clip: Scorer, proposer: Proposer, names: list[str]
) -> str:
    """Draw with the tiny world; returns the prompt of a picture, or of what several share."""
    read = [read_reference(name) for name in names]
    theme = [reference for _, reference in read]
    for name, reference in zip(names, theme, strict=True):
        check_drawable(name, reference, options.force)
    reach_server(options)
    folder = OUTPUT / (read[0][0] if len(names) == 1 else f"{Path(options.image).resolve().name}_theme")
    file = folder / "log.safetensors"
    one_of_many = len(names) == 1 and Path(options.image).is_dir()
    if options.resume and not file.is_file() and not one_of_many:
        say(f"no log of an earlier search is in {folder}; this one begins anew")
    earlier = load_log(file) if options.resume and file.is_file() else None
    if earlier and one_of_many and earlier.reference != theme_fingerprint(theme):
        earlier = None  # of a namesake in another folder
    prompt = None if options.prompt is None else Phrases.of(options.prompt)
    begun = settings.search(
        theme, lambda text, seed: draw([text], seed)[0], proposer, clip, options.seed, prompt, earlier
    )
    log = None
    for log in begun:
        save_log(log, file)
        step = log.steps[-1]
        say(f"{len(log.steps) - 1}: text {step.text_similarity:.3f}, picture {step.image_similarity:.3f}")
        say(f"   {step.phrases.prompt or '(nothing)'}")
    assert log  # every search draws once
    if log.failure:  # the prompt that would come out is the one that was given
        raise Stop(log.failure)
    show(log, theme, folder)
    say(f"ended: {log.stopped}\nprompt: {log.best.phrases.prompt}\npictures: {folder}")
    return log.best.phrases.prompt


def check_drawable(name: str, reference: Tensor, force: bool) -> None:
    """Refuse what the tiny world cannot have drawn, unless forced."""
    if tuple(reference.shape[:2]) != (SIDE, SIDE) and not force:
        height, width = reference.shape[:2]
        raise Stop(
            f"{name} has {width} x {height} pixels and is no drawing of the tiny world, the only model here. "
            f"{DRAWS} Draw with a model of yours: --comfyui ADDRESS --checkpoint NAME. Or insist: --force."
        )


def show(log: Log, theme: list[Tensor], folder: Path) -> None:
    """Write what a person looks at: log.json, every picture, and a sheet of all."""
    write_whole(folder / "log.json", json.dumps(as_dict(log), indent=1) + "\n")
    columns = {"reference": [enlarged(as_pil(theme[0]))]}
    for i, step in enumerate(log.steps):
        pictures = [as_pil(picture) for picture in step.pictures]
        for k, picture in enumerate(pictures):
            picture.save(folder / (f"{i}_{k}.png" if k else f"{i}.png"))
        columns[f"{i}: {step.image_similarity:.3f}"] = [enlarged(pictures[0])]
    draw_sheet(log.best.phrases.prompt, columns, []).save(folder / "sheet.png")


# --- all of it --------------------------------------------------------------------------------------------


def search_all(options: argparse.Namespace) -> int:
    """Search for one picture, for what a folder's share, or for each, written beside it; the exit code.

    What goes wrong with one picture of a folder is told, and the others are worked through, unless it would
    go wrong with each.
    """
    named, folder, code = references(options.image), Path(options.image).is_dir(), 0
    find = searcher(options)
    if options.combine:
        say(f"\n{len(named)} pictures as one theme")
        find(list(named))
        return 0
    for name, file in named.items():
        beside = file.with_suffix(".txt") if file and folder else None
        if beside and beside.exists() and not options.overwrite:
            say(f"{beside} is there already and stays; --overwrite finds it anew")
            continue
        try:
            say(f"\n{name}")
            prompt = find([name])
            if beside:
                write_whole(beside, prompt + "\n")
        except EachFails:
            raise
        except (Stop, SteadyDiffError) as error:
            print(error, file=sys.stderr)
            code = 1
    return code


def searcher(options: argparse.Namespace) -> Callable[[list[str]], str]:
    """What finds the prompt of a picture, or of several together; says with which model it draws."""
    if options.comfyui or options.port:
        if options.resume:
            raise Stop("--resume is for searches without a ComfyUI, whose logs are kept here; leave it out.")
        if scene_of(options.image) is not None:
            raise Stop(f"{options.image} has no file that a ComfyUI could load; give a picture or a folder.")
        if not options.checkpoint and (ignored := given(options, OF_A_HOST | OF_A_GRAPH)):
            raise Stop(f"a workflow has its own settings; {ignored} is for --checkpoint NAME.")
        host = HostSearch.of(options)
        say(f"draws with: {host.draws_with} in the ComfyUI at {host.address}")
        if host.tiny:
            say(DRAWS)

        def found(names: list[str]) -> str:
            pictures = {Path(name): read_picture(Path(name), name) for name in names}
            for file, picture in pictures.items():
                if host.tiny:
                    check_drawable(str(file), pixels(picture), options.force)
            if host.at_home:
                reach_server(options)
            return host.find({file: picture.size for file, picture in pictures.items()})

        return found
    if options.checkpoint or options.workflow:
        raise Stop("A checkpoint or a workflow runs in a ComfyUI: say which one by --comfyui ADDRESS.")
    if ignored := given(options, OF_A_HOST):
        raise Stop(f"{ignored} is for drawing in a ComfyUI: say which one by --comfyui ADDRESS.")
    say(f"draws with: the tiny world. {DRAWS}")
    settings = ARPO(
        options.iterations,
        excluded=tuple(options.exclude),
        drop=options.drop,
        seeds=options.seeds,
        max_tokens=options.max_tokens,
    )
    clip = named_scorer(options)
    proposer = named_proposer(options, clip)
    if options.tagger:
        proposer = Captioned(proposer, load_tagger(Path(options.tagger)))
    return partial(search, options, settings, clip, proposer)


def given(options: argparse.Namespace, defaults: dict) -> str:
    """Which of these options were given another value than by default."""
    return ", ".join(f"--{name}" for name in defaults if getattr(options, name) != defaults[name])


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="run.py arpo",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = top.add_argument
    add("image", help="a picture, a folder of pictures, or scene:N for a drawing of the tiny world")
    add("--prompt", help="where to begin; without it a caption, '' for nothing")
    add("--iterations", type=int, default=5)
    add("--seed", type=int, default=0, help="of every drawing")
    add("--seeds", type=int, default=1, help="drawings of each prompt, whose mean counts; %(default)s")
    add("--max-tokens", type=int, default=75, help="of the prompt: 75, 150, 225 ...; %(default)s")
    add("--exclude", nargs="*", default=[], metavar="PHRASE", help="never propose these")
    add("--drop", action="store_true", help="also take out phrases that hinder")
    add("--resume", action="store_true", help="go on from the log of an earlier search; not in a ComfyUI")
    add("--combine", action="store_true", help="one prompt for what the pictures of a folder share")
    add("--overwrite", action="store_true", help="of a folder: also pictures that have a .txt beside them")
    add("--force", action="store_true", help="also pictures that the tiny world cannot draw")
    add = top.add_argument_group("who proposes, and who scores").add_argument
    add(
        "--bank",
        metavar="NAMES",
        help="phrase banks between commas, such as general,art,camera; here also folders and files (default: "
        "tinyworld here, general in a ComfyUI)",
    )
    add(
        "--server",
        metavar="URL",
        help="a vision model on a chat server proposes instead, such as http://localhost:11434/v1",
    )
    add("--model", metavar="NAME", default=CHAT_SERVER[1].default, help="its model that sees; %(default)s")
    add("--text-model", metavar="NAME", default="", help="another one of it for questions without pictures")
    add("--key-name", metavar="NAME", default="", help="the NAME of the server's key, never the key itself")
    add(
        "--tagger",
        metavar="FILE",
        help="a WD tagger (.onnx, or .safetensors with its config.json; its .csv beside it) that writes the "
        "first prompt; in a ComfyUI the name of one in its models/steadydiff_taggers",
    )
    add(
        "--clip",
        metavar="MODEL",
        help="the scorer: a model of open_clip, its weights after a slash (ViT-L-14/openai); here also a "
        "folder (default: the tiny world's here, ViT-L-14/openai in a ComfyUI)",
    )
    add("--download", action="store_true", help="fetch the scorer's weights; ViT-L-14 takes 1.7 GB")
    add = top.add_argument_group("drawing in a ComfyUI that runs, with SteadyDiff installed").add_argument
    add("--comfyui", metavar="ADDRESS", help="host:port, or a port of this computer")
    add("--port", type=int, help="the same as --comfyui PORT")
    add("--checkpoint", metavar="NAME", help="of its models/checkpoints; without one --workflow is run")
    add(
        "--workflow",
        metavar="FILE",
        help="a graph in API format with an ARPO node (default: workflows/api/"
        "arpo.json, which draws with the tiny world)",
    )
    add(
        "--size",
        type=int,
        default=OF_A_HOST["size"],
        help="drawings have about SIZE x SIZE pixels, in the reference's proportions; %(default)s",
    )
    add("--steps", type=int, default=OF_A_HOST["steps"])
    add("--cfg", type=float, default=OF_A_HOST["cfg"])
    add("--negative", default=OF_A_HOST["negative"], metavar="TEXT", help="what to steer away from")
    return top


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return search_all(options)
    except (Stop, SteadyDiffError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Stopped; {AGAIN if options.comfyui or options.port else RESUMED}.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    os.chdir(os.environ.get("STEADYDIFF_FROM", "."))  # where run.py was called, which paths are meant from
    sys.exit(main())
