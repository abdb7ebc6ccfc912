"""An ARPO search in a WebUI: in a thread of its own, with the host's generation; tab and routes watch it."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from importlib import import_module, util
from pathlib import Path
from typing import Any

import torch
from modules import call_queue, devices, paths, processing, scripts, sd_models, sd_samplers, shared
from PIL import Image

from steadydiff.arpo.bank_files import EMBEDDINGS, NO_BANK, OWN, WILDCARDS, find_banks, named_lists
from steadydiff.arpo.clip_scorer import OpenClipScorer, load_scorer, told_of
from steadydiff.arpo.language.keys import find_key
from steadydiff.arpo.language.proposer import VisionProposer
from steadydiff.arpo.language.server import ChatServer
from steadydiff.arpo.language.templates import Templates
from steadydiff.arpo.log import Log, Step, kept_names, load_log, log_file, save_log
from steadydiff.arpo.phrase_bank import ABSENT, PhraseBank
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.search import ARPO, Proposer, Scorer
from steadydiff.arpo.tagger import Captioned
from steadydiff.errors import ProposerError, SettingsError, SteadyDiffError
from steadydiff.inputs import arpo as arpo_inputs
from steadydiff.inputs.kinds import Choice, Input, Number, Text, Whole
from steadydiff.picture_files import pixels
from steadydiff.tinyworld.scorer import named_model

from ..host import on_main_thread
from ..settings import server_default
from .captioners import PROPOSER, TOOLTIP, captioners

logger = logging.getLogger("steadydiff")

Settings = dict[str, dict[str, Any]]
"""By part, by input."""

WAITING, SEARCHING, DONE, CANCELLED, FAILED = "waiting", "searching", "done", "cancelled", "failed"


class Cancelled(Exception):
    """The user has had enough."""


# --- settings ---------------------------------------------------------------------------------------------


def parts() -> dict[str, tuple[Input, ...]]:
    """What a search is told, part by part, with what this host has to choose from."""
    return {
        "drawing": drawing_inputs(),
        "search": (*arpo_inputs.SEARCH, arpo_inputs.COMBINE),
        "proposer": (
            Choice(
                "proposer", arpo_inputs.BANK, (arpo_inputs.BANK, arpo_inputs.SERVER),
                "Who says what a drawing lacks: phrase bank, lists of phrases and nothing to install; chat "
                "server, a vision-language model behind an address.",
            ),
            Choice("captioner", PROPOSER, (PROPOSER, *captioners()), TOOLTIP),
        ),
        "bank": (
            replace(arpo_inputs.PHRASE_BANK[0], options=(*banks(), NO_BANK)),
            *arpo_inputs.PHRASE_BANK[1:],
        ),
        "server": tuple(replace(one, default=server_default(one)) for one in arpo_inputs.CHAT_SERVER),
        "scorer": arpo_inputs.CLIP_SCORER,
    }  # fmt: skip


def drawing_inputs() -> tuple[Input, ...]:
    """How each prompt is drawn, named as ComfyUI's nodes name it."""
    samplers, schedulers = tuple(sd_samplers.visible_sampler_names()), ()
    if util.find_spec("modules.sd_schedulers"):  # Forge Classic's samplers bring their own
        schedulers = tuple(one.label for one in import_module("modules.sd_schedulers").schedulers)
    as_in = "Of each drawing, as in txt2img."
    return (
        Text("negative", "", "What to steer away from, at cfg above 1."),
        Choice(
            "sampler_name", "Euler" if "Euler" in samplers else samplers[0], samplers,
            as_in,
        ),
        *([Choice("scheduler", schedulers[0], schedulers, as_in)] if schedulers else []),
        Whole("steps", 20, 1, 150, as_in),
        Number("cfg", 7.0, 1.0, 30.0, 0.1, as_in),
        Whole("width", 512, 64, 2048, "Of each drawing; near the reference's proportions if you can."),
        Whole("height", 512, 64, 2048, "Of each drawing; near the reference's proportions if you can."),
        Whole(
            "seed", 0, -1, 2**32 - 1,
            "Of every drawing, so that they differ by their prompts alone. -1: one by chance for the whole "
            "search.",
        ),
    )  # fmt: skip


def read_settings(given: Mapping[str, Mapping[str, object]]) -> Settings:
    """Return every part's values, those that are missing by default.

    Raises:  SettingsError for a value out of range or a name that is not known.
    """
    known = parts()
    if unknown := given.keys() - known.keys():
        raise SettingsError(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return {part: _read_part(part, inputs, given.get(part, {})) for part, inputs in known.items()}


def _read_part(part: str, inputs: tuple[Input, ...], given: Mapping[str, object]) -> dict[str, Any]:
    names = [one.name for one in inputs]
    if not isinstance(given, Mapping) or given.keys() - set(names):
        raise SettingsError(f"{part} is an object with some of {', '.join(names)}; got {given!r}")
    try:
        return {one.name: one.read(given.get(one.name, one.default)) for one in inputs}
    except SettingsError as error:
        raise SettingsError(f"{part}: {error}") from None


def banks() -> dict[str, Path]:
    """The banks that ship, the user's in models/steadydiff_banks, and folders of wildcards."""
    models, extensions = Path(paths.models_path), Path(paths.data_path) / "extensions"
    wildcards = [models / WILDCARDS, *sorted(extensions.glob(f"*/{WILDCARDS}"))]
    return find_banks(*(models / kind for kind in OWN), wildcards=wildcards)


def log_folder() -> Path:
    return Path(paths.data_path) / "output" / "steadydiff_arpo"


# --- scorer and proposer ----------------------------------------------------------------------------------


def check_interrupted() -> None:
    if shared.state.interrupted or shared.state.stopping_generation:
        raise Cancelled


@lru_cache(maxsize=1)
def kept_scorer(model: str, weights: str, architecture: str, download: bool) -> OpenClipScorer:
    """Load a CLIP and keep it for the next search; it lies on the CPU until it is used."""
    home = Path(paths.models_path) / "open_clip"
    name, source = named_model(model, weights.strip(), architecture.strip(), home)
    device = torch.device(devices.device)

    def ready() -> None:
        check_interrupted()
        scorer.model.to(device)

    half = device.type != "cpu"
    scorer = load_scorer(name, source, download=download, half=half, ready=ready)
    return scorer


def new_proposer(settings: Settings, scorer: Scorer) -> Proposer:
    """The one that is chosen; a server's key that is missing is told now."""
    chosen, captioner = settings["proposer"]["proposer"], settings["proposer"]["captioner"]
    made = _chat(**settings["server"]) if chosen == arpo_inputs.SERVER else _bank(scorer, **settings["bank"])
    return made if captioner == PROPOSER else Captioned(made, captioners()[captioner]())


def _bank(
    scorer: Scorer, bank: str, most: int, against: float, content: str, style: str, more: str
) -> PhraseBank:
    lists = named_lists(banks(), bank, more, content, style)
    return PhraseBank(lists, scorer, most, against, ABSENT, Path(paths.models_path) / EMBEDDINGS)


def _chat(
    url, model, framework, seed, temperature, max_tokens, image_size, templates, key_name, free_memory,
    timeout, text_model, options,
) -> VisionProposer:  # fmt: skip
    server = ChatServer(
        url, model.strip(), key_name,
        temperature=temperature, seed=seed, max_tokens=max_tokens, side=image_size, timeout=timeout,
        options=options, on_wait=check_interrupted, make_room=make_room if free_memory else None,
    )  # fmt: skip
    find_key(key_name, server.address.origin)
    writer = replace(server, model=text_model.strip()) if text_model.strip() else None
    sessions = (server.session, *([writer.session] if writer else []))
    return VisionProposer(server, framework, Templates.of(templates), writer, sessions)


# --- the host's memory ------------------------------------------------------------------------------------


def has_patcher() -> bool:
    return hasattr(shared.sd_model, "forge_objects")


def make_room() -> None:
    """Take the host's models off the device; `take_back` undoes it."""
    if not has_patcher():
        sd_models.send_model_to_cpu(shared.sd_model)
        return
    name = (
        "backend.memory_management" if util.find_spec("backend") else "ldm_patched.modules.model_management"
    )
    import_module(name).unload_all_models()
    devices.torch_gc()


def take_back() -> None:
    """A1111 wants its model where it left it; patcher hosts load theirs before each use."""
    if not has_patcher():
        sd_models.send_model_to_device(shared.sd_model)


# --- drawing ----------------------------------------------------------------------------------------------


def draw(settings: Mapping[str, Any], prompt: str, seed: int) -> Image.Image:
    """Draw a prompt as txt2img does, without scripts and without saving."""
    same = ("sampler_name", "scheduler", "steps", "width", "height")
    wanted = {name: settings[name] for name in same if name in settings}
    p = processing.StableDiffusionProcessingTxt2Img(
        prompt=prompt, negative_prompt=settings["negative"], cfg_scale=settings["cfg"], seed=seed,
        do_not_save_samples=True, do_not_save_grid=True, **wanted,
    )  # fmt: skip
    p.scripts, p.script_args = scripts.ScriptRunner(), []  # none, but reForge looks for one of its own there
    with closing(p):
        done = processing.process_images(p)
    check_interrupted()
    return done.images[0]


def reach_server(settings: Mapping[str, Any]) -> None:
    """See that the chat server runs, if that is who proposes; ProposerError if it does not."""
    if settings["proposer"]["proposer"] == arpo_inputs.SERVER:
        ChatServer(settings["server"]["url"], settings["server"]["model"]).reach()


def told_of_clip(model: str, weights: str, architecture: str) -> tuple[str, bool]:
    """What is known of a CLIP in a line, and whether a download is all that it lacks."""
    home = Path(paths.models_path) / "open_clip"
    try:
        return told_of(*named_model(model, weights.strip(), architecture.strip(), home))
    except SettingsError as error:
        return f"CLIP: {error}", False


def infotext(settings: Mapping[str, Any], prompt: str, seed: int) -> str:
    """What txt2img needs to draw it again."""
    fields = {
        "Steps": settings["steps"], "Sampler": settings["sampler_name"],
        **({"Schedule type": settings["scheduler"]} if "scheduler" in settings else {}),
        "CFG scale": settings["cfg"], "Seed": seed, "Size": f"{settings['width']}x{settings['height']}",
    }  # fmt: skip
    negative = f"\nNegative prompt: {settings['negative']}" if settings["negative"] else ""
    return f"{prompt}{negative}\n" + ", ".join(f"{name}: {value}" for name, value in fields.items())


def as_tensor(picture: Image.Image) -> torch.Tensor:
    """[H, W, 3] in 0..1."""
    return pixels(picture) / 255


# --- search -----------------------------------------------------------------------------------------------


class Search:
    """A search, or one after the other for each of several images, as `combine` says.

    What it has found may be read at any time: `log` is whole after every iteration, `ended_logs` are those of
    the images before.

    Raises:  SettingsError, when it is made, for settings that cannot be.
    """

    def __init__(self, references: Sequence[Image.Image], given: Mapping[str, Mapping[str, object]]) -> None:
        self.id, self.state, self.message = uuid.uuid4().hex, WAITING, ""
        self.log: Log | None = None
        self.ended_logs: list[Log] = []
        self._drawing = False
        self.settings = read_settings(given)
        self.seed = int(processing.get_fixed_seed(self.settings["drawing"]["seed"]))
        self._cancelled = threading.Event()
        wish, pictures = self.settings["search"], [as_tensor(picture) for picture in references]
        self._themes = [pictures[:1]]
        if wish["combine"] != arpo_inputs.FIRST:
            each = wish["combine"] == arpo_inputs.EACH
            self._themes = [[picture] for picture in pictures] if each else [pictures]
        excluded = Phrases.of(wish["exclude"].replace("\n", ",")).content
        self._arpo = ARPO(
            wish["iterations"],
            wish["target"],
            wish["min_gain"],
            excluded,
            wish["drop"],
            wish["seeds"],
            wish["max_tokens"],
        )
        names = kept_names(wish["keep_as"], len(self._themes))
        self._files = [log_file(name, log_folder()) for name in names]

    def start(self) -> None:
        threading.Thread(target=self.run, name=f"steadydiff-arpo-{self.id}", daemon=True).start()

    def run(self) -> None:
        """Search now, after what the host has yet to do."""
        with call_queue.queue_lock:
            on_main_thread(self._guarded)

    def cancel(self) -> None:
        self._cancelled.set()
        if self.state == SEARCHING:
            shared.state.interrupt()

    @property
    def ended(self) -> bool:
        return self.state not in (WAITING, SEARCHING)

    @property
    def best(self) -> Step | None:
        """The step whose prompt is returned, None before the first drawing."""
        return self._best(self.log) if self.log and self.log.steps else None

    def _best(self, log: Log) -> Step:
        picture = self.settings["search"]["best_by"] == arpo_inputs.PICTURE
        return log.best if picture else log.best_by_text

    def prompt(self, step: Step) -> str:
        """A step's prompt, those of the images before it above it, one a line."""
        return "\n".join(one.phrases.prompt for one in (*map(self._best, self.ended_logs), step))

    @property
    def status(self) -> str:
        """Where it is, in words."""
        if self.state == WAITING:
            return "Waiting for the generation before it."
        if self.state == SEARCHING:
            steps = self.log.steps if self.log else ()
            number = f"{len(steps) + 1} of {self._arpo.iterations + 1} at most"
            if len(self._themes) > 1:
                number += f", image {len(self.ended_logs) + 1} of {len(self._themes)}"
            if self._drawing:
                state = shared.state
                return f"Drawing {number}, step {state.sampling_step} of {state.sampling_steps}."
            return f"Comparing, drawing {number}."
        found = self.log.stopped if self.log else ""
        return {DONE: f"Done: {found}.", CANCELLED: "Cancelled.", FAILED: self.message}[self.state]

    def negative(self, step: Step) -> str:
        """What goes with the step's prompt as a negative prompt; the drawings were made without it."""
        return self.log.negative(step) if self.log else ""

    def infotext(self, step: Step) -> str:
        return infotext(self.settings["drawing"], step.phrases.prompt, self.seed)

    def _guarded(self) -> None:
        """Search, and keep what went wrong: nobody above us would see it."""
        shared.state.begin(job="steadydiff_arpo")
        shared.state.job_count = (self._arpo.iterations + 1) * self._arpo.seeds * len(self._themes)
        self.state = SEARCHING
        try:
            self._search()
            self.state = DONE
        except Cancelled:
            self.state = CANCELLED
        except SteadyDiffError as error:
            self.message, self.state = str(error), FAILED
        except Exception as error:
            logger.exception("ARPO's search failed")
            self.message, self.state = f"{type(error).__name__}: {error}", FAILED
        finally:
            shared.state.end()
            shared.total_tqdm.clear()
            shared.state.interrupted = False

    def _search(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        scorer = kept_scorer(**self.settings["scorer"])
        proposer = new_proposer(self.settings, scorer)
        drawing, start = self.settings["drawing"], self.settings["search"]["prompt"]
        first = Phrases.of(start) if start.strip() else None

        def generate(prompt: str, seed: int) -> torch.Tensor:
            scorer.model.to("cpu")  # CLIP and the model that draws take turns
            take_back()
            self._drawing = True
            picture = as_tensor(draw(drawing, prompt, seed % 2**32))
            self._drawing = False
            return picture

        try:
            for theme, file in zip(self._themes, self._files, strict=True):
                if self.log:
                    self.ended_logs, self.log = [*self.ended_logs, self.log], None
                earlier = load_log(file) if file and file.is_file() else None
                for log in self._arpo.search(theme, generate, proposer, scorer, self.seed, first, earlier):
                    self.log = log
                    if file:
                        save_log(log, file)
                    check_interrupted()
                if self.log and self.log.failure:
                    raise ProposerError(self.log.failure)
        finally:
            scorer.model.to("cpu")
            take_back()
