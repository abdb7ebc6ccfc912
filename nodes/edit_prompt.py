"""SteadyDiffEditPrompt: other content in a found style, or found content in another style."""

from itertools import zip_longest

from comfy_api.latest import io

from ..steadydiff.arpo.language.editing import (
    EDITS,
    edit_phrases,
    exchange_words,
    known_phrases,
    read_exchanges,
)
from ..steadydiff.arpo.phrases import Phrases
from .shared import schema


class SteadyDiffEditPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffEditPrompt",
            display_name="Edit Prompt (SteadyDiff)",
            category=schema.PROMPTS,
            description="Makes novel pictures out of a prompt that ARPO found: swaps what is shown and keeps "
            "how, or the other way round, or adds phrases to either. (Ren, Reverse Prompt, section 4.2.3.)",
            search_aliases=["prompt editing", "swap style", "novel image", "reverse prompt", "arpo"],
            inputs=[
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="The prompt to edit, from ARPO, or any other whose phrases commas part.",
                ),
                io.Combo.Input(
                    "edit",
                    options=list(EDITS),
                    default="swap",
                    tooltip="swap: yours take the place of all phrases of their kind; a kind that you leave "
                    "empty stays. add: yours come after them.",
                ),
                io.String.Input(
                    "content",
                    default="",
                    multiline=True,
                    tooltip="What the new picture is to show, as phrases between commas. Empty: no change.",
                ),
                io.String.Input(
                    "style",
                    default="",
                    multiline=True,
                    tooltip="How the new picture is to be made, as phrases between commas. Empty: no change.",
                ),
                io.String.Input(
                    "remove",
                    default="",
                    multiline=True,
                    tooltip="Phrases of the prompt to take out first, between commas, in any case.",
                ),
                io.String.Input(
                    "report",
                    optional=True,
                    force_input=True,
                    tooltip="ARPO's report, which knows content from style. Without it every phrase of the "
                    "prompt counts as content.",
                ),
                io.String.Input(
                    "negative",
                    optional=True,
                    force_input=True,
                    tooltip="ARPO's negative prompt. What the edited prompt asks for is taken out of it.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Words to exchange in every phrase of the prompt, like dog -> cat, between "
                    "commas or one a line; whole words in any case. Nothing after the arrow takes one out.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="The edited prompt, for CLIP Text Encode."),
                io.String.Output(display_name="negative", tooltip="The negative prompt that goes with it."),
            ],
        )

    @classmethod
    def execute(
        cls, prompt, edit, content, style, remove, report=None, negative=None, words=""
    ) -> io.NodeOutput:
        change = Phrases(Phrases.of(content).content, Phrases.of(style).content)
        exchanges = read_exchanges(words)

        def edited(prompt: str, negative: str) -> Phrases:
            found = Phrases.of(prompt) if report is None else known_phrases(prompt, report)
            found -= Phrases.of(remove)
            whole = Phrases(found.content, found.style, Phrases.of(negative).content)
            return edit_phrases(exchange_words(whole, exchanges), change, edit)

        prompts = [prompt] if report is None else prompt.split("\n")  # ARPO's are one a line, one an image
        absent = (negative or "").split("\n") if len(prompts) > 1 else [negative or ""]
        made = [edited(*pair) for pair in zip_longest(prompts, absent[: len(prompts)], fillvalue="")]
        return io.NodeOutput(
            "\n".join(one.prompt for one in made), "\n".join(one.negative_prompt for one in made)
        )
