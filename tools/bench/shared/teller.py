"""A vision-language model whose errors are known: the tiny world's reader, which answers ARPO's questions.

It stands for a chat server in the bench of the paper's frameworks. Of every picture it tells what the reader
sees, but some answers are taken by chance, and where it is shown two pictures at once some are told of the
other one. Which errors it makes depends on the pictures alone, as with a model at a fixed seed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steadydiff.arpo.language.proposer import Framework, VisionProposer
from steadydiff.arpo.language.templates import Templates
from steadydiff.arpo.log import theme_fingerprint
from steadydiff.tinyworld import files
from steadydiff.tinyworld.reader import HEADS
from steadydiff.tinyworld.scenes import RELATIONS, Scenes, caption

QUESTIONS = Templates(
    caption="caption",
    difference="difference",
    content="content",
    style="style",
    compare="compare\n{image1}\nor\n{image2}",
    candidates="candidates\n{difference}",
)
NOTHING = "none"


@dataclass
class Teller:
    """An `Ask` of QUESTIONS.

    noise: share of the answers that are taken by chance, of those there are to the question
    mixed: share of the answers that are told of the other picture, where two are shown
    asked: how many questions it was asked
    """

    noise: float = 0.0
    mixed: float = 0.0
    asked: int = field(default=0, init=False)

    def __call__(self, text: str, pictures: Sequence[Tensor] = ()) -> str:
        self.asked += 1
        question, *lines = text.split("\n")
        if question == "candidates":
            kinds: dict[str, list[str]] = {"content": [], "style": []}
            for phrase in lines:
                kinds["style" if phrase.endswith(" drawing") else "content"].append(phrase)
            return json.dumps({} if lines == [NOTHING] else kinds)
        if question == "compare":
            first, second = lines[: lines.index("or")], lines[lines.index("or") + 1 :]
        else:
            first, *others = phrases_of(self.seen(pictures))
            second = others[0] if others else []
        style = {"content": False, "style": True}.get(question)
        told = [phrase for phrase in first if phrase not in second]
        return "\n".join(p for p in told if style in (None, p.endswith(" drawing"))) or NOTHING

    def seen(self, pictures: Sequence[Tensor]) -> Scenes:
        """What it sees in pictures [H, W, 3] that are shown together."""
        chance = torch.Generator().manual_seed(int(theme_fingerprint(pictures)[:15], 16))
        read = files.load_reader().read(torch.stack([*pictures]).permute(0, 3, 1, 2))
        told = {}
        for name, count in HEADS.items():
            answers = read[name]
            other = torch.rand(answers.shape, generator=chance) < self.mixed
            guessed = torch.rand(answers.shape, generator=chance) < self.noise
            guess = torch.randint(count, answers.shape, generator=chance)
            told[name] = torch.where(guessed, guess, torch.where(other, answers.flip(0), answers))
        return scenes_of(told)

    def proposer(self, framework: Framework) -> VisionProposer:
        return VisionProposer(self, framework, QUESTIONS)


def scenes_of(read: dict[str, Tensor]) -> Scenes:
    """The scenes [N] that these answers of the reader speak of; where exactly things lie it does not say."""
    told = {name: answers.numpy() for name, answers in read.items()}
    pair, nothing = told["pair"], torch.zeros(len(read["pair"]), 2)
    both = {
        name: torch.stack([read[f"first_{name}"], read[f"second_{name}"]], 1).numpy()
        for name in ("shape", "colour", "size")
    }
    return Scenes(
        count=1 + (pair > 0),
        **both,
        position=told["position"],
        relation=(pair - 1).clip(0) * 2,  # left of, or above
        background=told["background"],
        style=told["style"],
        centre_px=nothing[:, None].expand(-1, 2, 2).numpy(),
        radius_px=nothing.numpy(),
        angle=nothing.numpy(),
        tint=nothing[:, None].expand(-1, 2, -1).numpy(),
    )


def phrases_of(scenes: Scenes) -> list[list[str]]:
    """All that is true of each scene, in the bank's own words."""
    found = []
    for i in range(len(scenes)):
        style, rest = caption(scenes, i).split(" of ", 1)
        rest, ground = rest.rsplit(" on a ", 1)
        cut = f" {RELATIONS[scenes.relation[i]]} " if scenes.count[i] == 2 else " at the "
        found.append([*rest.replace(cut, f", {cut.strip()} ").split(", "), f"on a {ground}", style])
    return found
