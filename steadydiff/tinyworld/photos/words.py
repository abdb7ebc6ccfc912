"""Words of the photos: ten classes with their everyday names, and the captions the network is trained on."""

from __future__ import annotations

from ..text import TextConfig, WordTokenizer

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_OTHER_NAMES = {"airplane": "plane", "automobile": "car", "ship": "boat"}
_FORMS = ("{}", "a {}", "a photo of a {}", "a small photo of the {}")
WORDS = (*"a an the photo picture small of".split(), *CLASSES, *_OTHER_NAMES.values())
TEXT = TextConfig(words=WORDS)


def captions(name: str) -> list[str]:
    """Every caption of a class, as many for each class."""
    names = (name, _OTHER_NAMES.get(name, name))
    return [
        form.format(word).replace("a air", "an air").replace("a auto", "an auto")
        for word in names
        for form in _FORMS
    ]


class PhotoTokenizer(WordTokenizer):
    """The photos' words; one outside them becomes <unknown>."""

    words = WORDS
