"""An ARPO search in a WebUI: in a thread of its own, with the host's generation; tab and routes watch it."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Mapping, Sequence

import torch
from modules import call_queue, processing, shared
from PIL import Image

from steadydiff.arpo.language.editing import exchange_words, read_exchanges
from steadydiff.arpo.log import Log, Step, kept_names, load_log, log_file, save_log
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.search import ARPO
from steadydiff.errors import ProposerError, SteadyDiffError
from steadydiff.inputs import arpo as arpo_inputs

from ..host import on_main_thread
from .drawing import Cancelled, as_tensor, check_interrupted, draw, infotext, take_back
from .helpers import kept_scorer, new_proposer
from .settings import log_folder, read_settings

logger = logging.getLogger("steadydiff")

WAITING, SEARCHING, DONE, CANCELLED, FAILED = "waiting", "searching", "done", "cancelled", "failed"


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
        self._words = read_exchanges(wish["words"])
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
        earlier = [self._found(log, self._best(log)) for log in self.ended_logs]
        return "\n".join(found.prompt for found in (*earlier, self._found(self.log, step)))

    def _found(self, log: Log | None, step: Step) -> Phrases:
        """What a step found, its words exchanged: the drawings were made before that."""
        return exchange_words(log.found(step) if log else step.phrases, self._words)

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
        return self._found(self.log, step).negative_prompt

    def infotext(self, step: Step) -> str:
        return infotext(self.settings["drawing"], self._found(self.log, step).prompt, self.seed)

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
