"""What a user of ARPO sets, part by part, once for all hosts' faces; see `inputs.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ..arpo.bank_files import NO_BANK
from ..arpo.clip_scorer import MODELS
from ..arpo.language.proposer import FRAMEWORKS
from .kinds import Choice, Input, Number, Switch, Text, Whole

PICTURE, TEXT = "image", "text"
BANK, SERVER = "phrase bank", "chat server"


@dataclass(frozen=True)
class Line(Text):
    """A text of one line."""

    kind: ClassVar[Literal["text", "line"]] = "line"


SEARCH: tuple[Input, ...] = (
    Whole(
        "iterations", 3, 0, 100,
        "How often the prompt is improved. One more drawing is made than this. It ends sooner when no "
        "phrase helps any more; 2 bring most of what there is to gain.",
    ),
    Text("prompt", "", "Prompt to start from. Empty: the proposer's caption of the image."),
    Text(
        "exclude", "",
        "Words or phrases, between commas or one a line, that no proposed phrase may hold: red excludes a "
        "red hat.",
    ),
    Choice(
        "best_by", PICTURE, (PICTURE, TEXT),
        "Which prompt is returned: image, whose drawing is nearest to the reference; text, the one that "
        "itself is nearest, as in the paper.",
    ),
    Switch(
        "drop", False, "Also take out phrases that hinder, as a wrong first one does. The paper adds.",
    ),
    Number(
        "min_gain", 0.0, 0.0, 0.1, 0.001,
        "How much nearer a phrase must bring the prompt, as a difference of cosines. 0: any, as in the "
        "paper. 0.002 makes prompts shorter.",
    ),
    Number(
        "target", 1.0, 0.0, 1.0, 0.01,
        "Stop when a drawing is as near to the reference as this. 1: never.",
    ),
    Line(
        "keep_as", "",
        "Saves the search under this name in output/steadydiff_arpo, so that you can continue it later."
        " Use another name for another model. Empty: not saved.",
    ),
    Whole(
        "seeds", 1, 1, 8,
        "Drawings of every prompt, from seed and those that follow it. Their mean similarity decides which "
        "prompt is best, so that one lucky drawing does not. Each takes its time.",
    ),
    Whole(
        "max_tokens", 75, 75, 750,
        "How long the prompt may grow. 75: one window of CLIP, as in the paper. 150, 225 and so on: as many "
        "windows, each scored by itself and the mean taken by length, as hosts give models longer prompts.",
    ),
)  # fmt: skip

FIRST, EACH, MEAN = "first", "each", "mean"
COMBINE = Choice(
    "combine", FIRST, (FIRST, EACH, MEAN),
    "Of several images: first takes only that one. each: one search after the other, a prompt for each "
    "image, one a line. mean: one prompt for what they have in common, near to the mean of all.",
)  # fmt: skip

PHRASE_BANK: tuple[Input, ...] = (
    Choice(
        "bank", "general", ("general", "tinyworld", NO_BANK),
        "general: some 470 phrases of mediums, styles, lights, colours, compositions, moods, subjects and "
        "places. tinyworld: all that the demo model can draw. none: only your phrases below. Larger ones of "
        "one kind each: art, camera, figures, world; tags: for models taught with tags.",
    ),
    Whole(
        "most", 16, 1, 1000,
        "How many phrases of each list are proposed at a time. More find more and take longer.",
    ),
    Number(
        "against", 0.5, 0.0, 1.0, 0.05,
        "0 ranks phrases by the reference only, 1 by what the drawing lacks. 0.5 is usual.",
    ),
    Text("content", "", "More phrases of what is shown, one a line."),
    Text("style", "", "More phrases of how it is shown, one a line."),
    Line(
        "more", "",
        "Further banks by name, between commas: art, camera, world. A part of one: art/style/prints. Your "
        "own are in models/steadydiff_banks; folders of wildcards are named after who brought them.",
    ),
)  # fmt: skip

WRITER: tuple[Input, ...] = (
    Choice(
        "framework", "enhanced", FRAMEWORKS,
        "enhanced: the model describes content and style of each picture by itself, and compares its "
        "descriptions; 6 questions an iteration, for small models and those that see one picture. vanilla: "
        "it sees both pictures at once; 2 questions, for strong models.",
    ),
    Whole(
        "seed", 0, 0, 0x7FFFFFFF,
        "Of the model's choice of words. With the same seed the phrases stay the same, where the model's "
        "maker keeps that promise.",
    ),
    Number(
        "temperature", 0.2, 0.0, 2.0, 0.05,
        "0: the likeliest words, most exact. Higher: more varied phrases, and more that are wrong.",
    ),
    Whole(
        "max_tokens", 1024, 16, 32768,
        "Longest answer, in tokens. Too short cuts lists off; models that think first need more.",
    ),
    Whole(
        "image_size", 768, 64, 4096,
        "Pictures are made smaller until their longer side is this. Larger shows the model finer detail "
        "and takes longer; models see no more than they were made for.",
    ),
    Text(
        "templates", "",
        "Your own questions to the model, each under a line with its name in square brackets, e.g. "
        "[style]. Empty: ours, which the help page shows. The word thesis: shorter ones as in the thesis.",
    ),
)  # fmt: skip

VISION_MODEL: tuple[Input, ...] = tuple(
    replace(one, default=512) if one.name == "max_tokens" else one for one in WRITER
)

CHAT_SERVER: tuple[Input, ...] = (
    Line(
        "url", "http://localhost:11434/v1",
        "Where the server is. Ollama: http://localhost:11434/v1, LM Studio: http://localhost:1234/v1, "
        "llama.cpp: http://localhost:8080/v1, vLLM: http://localhost:8000/v1.",
    ),
    Line(
        "model", "qwen3-vl:8b",
        "The server's name of a model that sees pictures, as its own list shows it.",
    ),
    *WRITER,
    Line(
        "key_name", "",
        "The NAME of a key, never the key: workflows and pictures keep what stands here. The key itself "
        "lies in the environment or in your keys.json; see the help page. Local servers need none.",
    ),
    Switch(
        "free_memory", False,
        "For one graphics card that cannot hold both: the host's models leave it before the server is "
        "asked, and Ollama's model leaves it afterwards. Costs loading times.",
    ),
    Whole(
        "timeout", 300, 1, 3600,
        "Seconds for one answer, loading the model included. Shorter than that ends many a first question.",
    ),
    Line(
        "text_model", "",
        "Another model of the same server for the questions without pictures, such as a larger one that "
        "cannot see. Empty: the same.",
    ),
    Text(
        "options", "",
        'Further fields of the request as JSON, e.g. {"reasoning_effort": "none"}; null takes a field out. '
        "For what one server knows and another does not. No secrets here.",
    ),
)  # fmt: skip

TINY = "tiny world"

CLIP_SCORER: tuple[Input, ...] = (
    Choice(
        "model", "ViT-L-14", (*MODELS, TINY),
        "ViT-L-14 as in the paper; smaller and larger ones of open_clip; other: named below; tiny world: "
        "for the demo model only.",
    ),
    Line(
        "weights", "openai",
        "One of open_clip's names for weights of this model, or a file or folder in models/open_clip. A "
        "wrong name is answered with all names.",
    ),
    Line(
        "architecture", "",
        "With model other: which of open_clip's models the weights are of. A folder with "
        "open_clip_config.json needs none.",
    ),
    Switch(
        "download", False,
        "Fetch weights that are not on this computer from huggingface.co, once. ViT-L-14 takes 1.7 GB.",
    ),
)  # fmt: skip
