"""The paper's prompt generator: a vision-language model says what a drawing lacks beside the reference.

`VisionProposer` is a `Proposer` (arpo/search.py) over anything that can be asked a text with pictures:
`ChatServer` here, ComfyUI's own models in `hosts/comfy/text.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor

from ...errors import ProposerError, SettingsError
from ..log import fingerprint
from ..phrases import Phrases
from .parsing import Kind, is_refusal, parse_phrases, without_thoughts
from .templates import KINDS, Templates, filled

log = logging.getLogger("steadydiff")

Ask = Callable[[str, Sequence[Tensor]], str]
"""(text, pictures [H, W, 3] in 0..1) -> answer; raises ProposerError if there is none."""

Framework = Literal["enhanced", "vanilla"]
FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)

AFTER_REFUSAL = "\n\nSay only what can be seen; who a person is does not matter and is not asked."
MAX_REFUSAL = 200  # characters of it that are shown
MAX_DESCRIPTION = 4000  # characters that are passed on to the next question
CAPTION = 6, 4  # content and style phrases of a first prompt, which must leave room for the search


@dataclass
class VisionProposer:
    """Ask a model for phrases, in one of the paper's two frameworks.

    see:       asked about pictures
    framework: "vanilla" shows it both pictures at once: 2 questions per proposal, for strong models;
               "enhanced" has it describe content and style of each picture by itself, and compares the
               descriptions: 6 questions, and 2 for each new reference, for models that see one picture
    templates: the questions
    write:     asked what needs no picture; None = `see`
    sessions:  entered around each caption and proposal, e.g. `ChatServer.session`

    The descriptions of the last reference are kept, since it stays the same all through a search.

    Source:  Ren, 2025, section 4.2.2 and appendix B2. There, style is told apart only in the enhanced
             framework; ours asks for both kinds in either.
    """

    see: Ask
    framework: Framework = "enhanced"
    templates: Templates = field(default_factory=Templates, repr=False)
    write: Ask | None = None
    sessions: tuple[Callable[[], AbstractContextManager[None]], ...] = field(default=(), repr=False)
    _kept: tuple[str, dict[Kind, str]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.framework not in FRAMEWORKS:
            raise SettingsError(f"framework must be one of {', '.join(FRAMEWORKS)}; got {self.framework!r}")

    def caption(self, reference: Tensor) -> Phrases:
        """A first short prompt for the reference; ProposerError if the answer holds none."""
        with self._session():
            answer = self._asked(self.templates.caption, reference)
        phrases = parse_phrases(answer)
        if not len(phrases):
            raise ProposerError(f"the model's answer holds no phrases: {' '.join(answer.split())[:100]!r}")
        return Phrases(phrases.content[: CAPTION[0]], phrases.style[: CAPTION[1]])

    def propose(self, reference: Tensor, generated: Tensor, current: Phrases) -> Phrases:
        """Candidates that would bring the drawing nearer to the reference; none if the model sees no need."""
        find = self._vanilla if self.framework == "vanilla" else self._enhanced
        with self._session():
            found = find(reference, generated, current)
        if not len(found):
            log.info("the model's answers held no phrases")
        return found

    def _vanilla(self, reference: Tensor, generated: Tensor, current: Phrases) -> Phrases:
        difference = self._asked(self.templates.difference, reference, generated)
        return self._candidates(difference, current, ("content", "style"))

    def _enhanced(self, reference: Tensor, generated: Tensor, current: Phrases) -> Phrases:
        first, second = self._of_reference(reference), self._described(generated)
        found = Phrases()
        for kind in first:
            question = filled(self.templates.compare, image1=first[kind], image2=second[kind])
            found += self._candidates(self._asked(question), current, (kind,))
        return found

    def _candidates(self, difference: str, current: Phrases, kinds: tuple[Kind, ...]) -> Phrases:
        wanted = "; ".join(text for text in KINDS if text.startswith(kinds))
        form = ", ".join(f'"{kind}": ["...", "..."]' for kind in kinds)
        question = filled(
            self.templates.candidates,
            difference=difference[:MAX_DESCRIPTION],
            prompt=current.prompt or "(empty)",
            kinds=wanted,
            answer=f"{{{form}}}",
        )
        return parse_phrases(self._asked(question), kinds[0] if len(kinds) == 1 else None)

    def _of_reference(self, reference: Tensor) -> dict[Kind, str]:
        name = fingerprint(reference)
        if self._kept is None or self._kept[0] != name:
            self._kept = name, self._described(reference)
        return self._kept[1]

    def _described(self, picture: Tensor) -> dict[Kind, str]:
        return {
            "content": self._asked(self.templates.content, picture)[:MAX_DESCRIPTION],
            "style": self._asked(self.templates.style, picture)[:MAX_DESCRIPTION],
        }

    def _asked(self, text: str, *pictures: Tensor) -> str:
        """The answer without the thoughts before it; a refusal is asked again once.

        Raises:  ProposerError for an answer that is empty or refuses again.
        """
        ask, answer = (self.see if pictures else self.write or self.see), ""
        for question in (text, text + AFTER_REFUSAL):
            answer = without_thoughts(ask(question, pictures))
            if not answer:
                raise ProposerError(
                    "the model thought, but did not answer; give it more tokens, or less to think"
                )
            log.debug("asked: %s\nanswered: %s", question, answer)
            if not is_refusal(answer):
                return answer
        words = " ".join(answer.split())[:MAX_REFUSAL]
        raise ProposerError(
            f"the model refuses: {words} - take another model or reference, or other templates"
        )

    def _session(self) -> ExitStack:
        with ExitStack() as entering:  # undone if one of them fails
            for session in self.sessions:
                entering.enter_context(session())
            return entering.pop_all()
