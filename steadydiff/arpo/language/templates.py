"""What a language model is asked, in words that users may change: the paper's questions in our wording.

Image 1 is always the reference: the candidates are to bring the next picture nearer to *it*.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

from ...errors import SettingsError

KINDS = (
    "content: things, persons, their number, look, pose and place, setting, background",
    "style: medium, art style, technique, lighting, colours, composition",
)

THESIS = "thesis"
_THESIS = {
    "difference": "Image 1 comes first, Image 2 second. Say in what Image 1 and Image 2 differ, one step "
    "after the other.",
    "content": "You are skilled at describing pictures. Say what this one contains: its objects and "
    "surroundings, what happens and what is done in it, its background and so on.",
    "style": "You are skilled at analysing pictures. Say which style this one has: its medium, its art style "
    "and whose style that is, the technique, the light, the colours, the resolution and so on.",
    "compare": "Image 1 and Image 2 were described.\nImage 1: {image1}\nImage 2: {image2}\nFind out of these "
    "descriptions in what the two differ, one step after the other.",
    "candidates": "Write prompts for images that take up how Image 1 and Image 2 differ: {difference}\n\n"
    "Wherever the two contrast, the prompts are to lead to images nearer to Image 1.\n\nMake them keywords "
    "or short phrases with commas between them. Give all that are possible as one Python list and write "
    "nothing but that list. Go one step after the other.",
}  # what the thesis asks, in our words; its first prompt is BLIP2's, for which ours stands
_PLACE = re.compile(r"\{(\w+)\}")
_HEADING = re.compile(r"^\[(\w+)\][ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Templates:
    """One text per question; what stands in braces is filled in.

    caption:    of the reference, for a first prompt (sees Image 1)
    difference: between the pictures, in the vanilla framework, figure B.1 (sees Images 1 and 2)
    content:    what a picture shows, in the enhanced framework, figure B.5 (sees that picture)
    style:      how a picture is made, in the enhanced framework, figure B.6 (sees that picture)
    compare:    the descriptions {image1} and {image2}, figure B.8
    candidates: phrases out of a {difference} and the present {prompt}, figure B.3; {kinds} says which kinds
                are wanted and {answer} in which form

    Source:  Ren, 2025, appendix B2.
    """

    caption: str = (
        "Look at the picture and write the beginning of a prompt with which a text-to-image model "
        'would draw it. Answer with JSON only: {"content": [...], "style": [...]}. The first content '
        "phrase is one short sentence that names the main subject and where it is or what it does; up "
        "to three more name what else is to be seen. At most three style phrases name medium, art "
        "style, lighting or colours."
    )
    difference: str = (
        "You see two pictures. The first one is Image 1, the second one is Image 2. Go through them "
        "step by step: subjects and their number, their look, pose and place in the frame, the "
        "background, then medium, art style, technique, lighting, colours and mood. Wherever they "
        "differ, say what Image 1 has and what Image 2 has instead."
    )
    content: str = (
        "Describe what this picture shows: things and persons, how many, what they look like, wear and do, "
        "where they are in the frame, the setting and the background. Say only what can be seen. At most 150 "
        "words."
    )
    style: str = (
        "Describe how this picture is made, not what it shows: its medium, art style, technique, lighting, "
        "colours, composition and degree of detail. Say only what can be seen. At most 120 words."
    )
    compare: str = (
        "Two pictures were described, each by itself.\n\nImage 1: {image1}\n\nImage 2: {image2}\n\n"
        "Go through both descriptions step by step. Wherever the pictures differ, say what Image 1 has and "
        "what Image 2 has instead. Leave out what they have in common."
    )
    candidates: str = (
        "A text-to-image model drew Image 2 from this prompt:\n{prompt}\n\nImage 2 is to become like "
        "Image 1. They differ so:\n{difference}\n\nWrite phrases to add to the prompt, so that the "
        "next picture comes nearer to Image 1. Each is two to eight words long and names something "
        "that can be seen, that Image 1 has, and that the prompt does not say yet. Never write what "
        "should be absent. The kinds of phrases are {kinds}. At most twenty of a kind, the most "
        "important ones first. Think it through, then answer with JSON only: {answer}"
    )

    def __post_init__(self) -> None:
        for name, places in {"compare": ("image1", "image2"), "candidates": ("difference",)}.items():
            if missing := [place for place in places if f"{{{place}}}" not in getattr(self, name)]:
                raise SettingsError(f"the template {name} lacks {{{missing[0]}}}")

    @classmethod
    def of(cls, text: str) -> Templates:
        """Read changed templates: each under a line [name]; those that are not there stay as they are.

        The word "thesis" before them chooses the questions of the thesis instead of ours.
        """
        before, *parts = _HEADING.split(text)
        if (chosen := before.strip().casefold()) not in ("", THESIS):
            raise SettingsError(
                f"templates must begin with a line [name], or with the word {THESIS} for its questions; "
                f"there are: {', '.join(_names())}"
            )
        found = dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
        for name, template in found.items():
            if name not in _names() or not template:
                what = "is empty" if name in _names() else f"does not exist; there are: {', '.join(_names())}"
                raise SettingsError(f"the template {name} {what}")
        return replace(cls(**(_THESIS if chosen else {})), **found)

    def text(self) -> str:
        """All of them in the form that `of` reads."""
        return "\n\n".join(f"[{name}]\n{getattr(self, name)}" for name in _names())


def filled(template: str, **values: str) -> str:
    """Put values into their places, each once: braces in a value stay braces."""
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), template)


def _names() -> list[str]:
    return [field.name for field in fields(Templates)]
