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
        "iterations",
        default=3,
        least=0,
        most=100,
        tooltip=(
            "How often the prompt is improved. One more drawing is made than this. It ends sooner when no "
            "phrase helps any more; 2 bring most of what there is to gain."
        ),
    ),
    Text("prompt", default="", tooltip="Prompt to start from. Empty: the proposer's caption of the image."),
    Text(
        "exclude",
        default="",
        tooltip=(
            "Words or phrases, between commas or one a line, that no proposed phrase may hold: red "
            "excludes a red hat."
        ),
    ),
    Choice(
        "best_by",
        default=PICTURE,
        options=(PICTURE, TEXT),
        tooltip=(
            "Which prompt is returned: image, whose drawing is nearest to the reference; text, the one that "
            "itself is nearest, as in the paper."
        ),
    ),
    Switch(
        "drop",
        default=False,
        tooltip="Also take out phrases that hinder, as a wrong first one does. The paper adds.",
    ),
    Number(
        "min_gain",
        default=0.0,
        least=0.0,
        most=0.1,
        step=0.001,
        tooltip=(
            "How much nearer a phrase must bring the prompt, as a difference of cosines. 0: any, as in the "
            "paper. 0.002 makes prompts shorter."
        ),
    ),
    Number(
        "target",
        default=1.0,
        least=0.0,
        most=1.0,
        step=0.01,
        tooltip="Stop when a drawing is as near to the reference as this. 1: never.",
    ),
    Line(
        "keep_as",
        default="",
        tooltip=(
            "Saves the search under this name in output/steadydiff_arpo, so that you can continue it later."
            " Use another name for another model. Empty: not saved."
        ),
    ),
    Whole(
        "seeds",
        default=1,
        least=1,
        most=8,
        tooltip=(
            "Drawings of every prompt, from seed and those that follow it. Their mean similarity decides "
            "which prompt is best, so that one lucky drawing does not. Each takes its time."
        ),
    ),
    Whole(
        "max_tokens",
        default=75,
        least=75,
        most=750,
        tooltip=(
            "How long the prompt may grow. 75: one window of CLIP, as in the paper. 150, 225 and so on: "
            "as many windows, each scored by itself and the mean taken by length, as hosts give models "
            "longer prompts."
        ),
    ),
)

FIRST, EACH, MEAN = "first", "each", "mean"
COMBINE = Choice(
    "combine",
    default=FIRST,
    options=(FIRST, EACH, MEAN),
    tooltip=(
        "Of several images: first takes only that one. each: one search after the other, a prompt for each "
        "image, one a line. mean: one prompt for what they have in common, near to the mean of all."
    ),
)

PHRASE_BANK: tuple[Input, ...] = (
    Choice(
        "bank",
        default="general",
        options=("general", "tinyworld", NO_BANK),
        tooltip=(
            "general: some 470 phrases of mediums, styles, lights, colours, compositions, moods, subjects "
            "and places. tinyworld: all that the demo model can draw. none: only your phrases below. "
            "Larger ones of one kind each: art, camera, figures, world; tags: for models taught with tags."
        ),
    ),
    Whole(
        "most",
        default=16,
        least=1,
        most=1000,
        tooltip="How many phrases of each list are proposed at a time. More find more and take longer.",
    ),
    Number(
        "against",
        default=0.5,
        least=0.0,
        most=1.0,
        step=0.05,
        tooltip="0 ranks phrases by the reference only, 1 by what the drawing lacks. 0.5 is usual.",
    ),
    Text("content", default="", tooltip="More phrases of what is shown, one a line."),
    Text("style", default="", tooltip="More phrases of how it is shown, one a line."),
    Line(
        "more",
        default="",
        tooltip=(
            "Further banks by name, between commas: art, camera, world. A part of one: art/style/prints. "
            "Your own are in models/steadydiff_banks; folders of wildcards are named after who brought "
            "them."
        ),
    ),
)

WRITER: tuple[Input, ...] = (
    Choice(
        "framework",
        default="enhanced",
        options=FRAMEWORKS,
        tooltip=(
            "enhanced: the model describes content and style of each picture by itself, and compares its "
            "descriptions; 6 questions an iteration, for small models and those that see one picture. "
            "vanilla: it sees both pictures at once; 2 questions, for strong models."
        ),
    ),
    Whole(
        "seed",
        default=0,
        least=0,
        most=0x7FFFFFFF,
        tooltip=(
            "Of the model's choice of words. With the same seed the phrases stay the same, where the model's "
            "maker keeps that promise."
        ),
    ),
    Number(
        "temperature",
        default=0.2,
        least=0.0,
        most=2.0,
        step=0.05,
        tooltip="0: the likeliest words, most exact. Higher: more varied phrases, and more that are wrong.",
    ),
    Whole(
        "max_tokens",
        default=1024,
        least=16,
        most=32768,
        tooltip="Longest answer, in tokens. Too short cuts lists off; models that think first need more.",
    ),
    Whole(
        "image_size",
        default=768,
        least=64,
        most=4096,
        tooltip=(
            "Pictures are made smaller until their longer side is this. Larger shows the model finer detail "
            "and takes longer; models see no more than they were made for."
        ),
    ),
    Text(
        "templates",
        default="",
        tooltip=(
            "Your own questions to the model, each under a line with its name in square brackets, e.g. "
            "[style]. Empty: ours, which the help page shows. The word thesis: shorter ones as in the thesis."
        ),
    ),
)

VISION_MODEL: tuple[Input, ...] = tuple(
    replace(one, default=512) if one.name == "max_tokens" else one for one in WRITER
)

CHAT_SERVER: tuple[Input, ...] = (
    Line(
        "url",
        default="http://localhost:11434/v1",
        tooltip=(
            "Where the server is. Ollama: http://localhost:11434/v1, LM Studio: http://localhost:1234/v1, "
            "llama.cpp: http://localhost:8080/v1, vLLM: http://localhost:8000/v1."
        ),
    ),
    Line(
        "model",
        default="qwen3-vl:8b",
        tooltip="The server's name of a model that sees pictures, as its own list shows it.",
    ),
    *WRITER,
    Line(
        "key_name",
        default="",
        tooltip=(
            "The NAME of a key, never the key: workflows and pictures keep what stands here. The key itself "
            "lies in the environment or in your keys.json; see the help page. Local servers need none."
        ),
    ),
    Switch(
        "free_memory",
        default=False,
        tooltip=(
            "For one graphics card that cannot hold both: the host's models leave it before the server is "
            "asked, and Ollama's model leaves it afterwards. Costs loading times."
        ),
    ),
    Whole(
        "timeout",
        default=300,
        least=1,
        most=3600,
        tooltip=(
            "Seconds for one answer, loading the model included. Shorter than that ends many a first "
            "question."
        ),
    ),
    Line(
        "text_model",
        default="",
        tooltip=(
            "Another model of the same server for the questions without pictures, such as a larger one that "
            "cannot see. Empty: the same."
        ),
    ),
    Text(
        "options",
        default="",
        tooltip=(
            'Further fields of the request as JSON, e.g. {"reasoning_effort": "none"}; null takes a field '
            "out. For what one server knows and another does not. No secrets here."
        ),
    ),
)

TINY = "tiny world"

CLIP_SCORER: tuple[Input, ...] = (
    Choice(
        "model",
        default="ViT-L-14",
        options=(*MODELS, TINY),
        tooltip=(
            "ViT-L-14 as in the paper; smaller and larger ones of open_clip; other: named below; tiny world: "
            "for the demo model only."
        ),
    ),
    Line(
        "weights",
        default="openai",
        tooltip=(
            "One of open_clip's names for weights of this model, or a file or folder in models/open_clip. A "
            "wrong name is answered with all names."
        ),
    ),
    Line(
        "architecture",
        default="",
        tooltip=(
            "With model other: which of open_clip's models the weights are of. A folder with "
            "open_clip_config.json needs none."
        ),
    ),
    Switch(
        "download",
        default=False,
        tooltip=(
            "Fetch weights that are not on this computer from huggingface.co, once. ViT-L-14 takes 1.7 GB."
        ),
    ),
)
