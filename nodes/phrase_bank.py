"""SteadyDiffPhraseBank: proposes phrases for ARPO out of lists, without a language model."""

from dataclasses import replace
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..steadydiff.arpo.phrase_bank import ABSENT, PhraseBank, find_banks, read_bank
from ..steadydiff.arpo.phrases import Phrases
from ..steadydiff.inputs import arpo as arpo_inputs
from .shared import schema

FOLDER, NONE = "steadydiff_phrases", arpo_inputs.NO_BANK


def banks() -> dict[str, Path]:
    """The banks that ship, and the user's in models/steadydiff_phrases."""
    return find_banks(Path(folder_paths.models_dir) / FOLDER)


class SteadyDiffPhraseBank(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffPhraseBank",
            display_name="Phrase Bank (SteadyDiff)",
            category=schema.CATEGORY,
            description="Proposes phrases for ARPO out of plain text files: those that are near to the "
            "reference and not to the drawing. No language model, nothing to download but the scorer's CLIP. "
            "Your own banks are folders of .txt files in models/steadydiff_phrases.",
            search_aliases=["wildcards", "interrogator", "reverse prompt", "flavors", "arpo"],
            inputs=[
                schema.Scorer.Input("scorer", tooltip="Who ranks the phrases; the same as ARPO's."),
                schema.widget(replace(arpo_inputs.PHRASE_BANK[0], options=(*banks(), NONE))),
                *schema.widgets(arpo_inputs.PHRASE_BANK[1:]),
            ],
            outputs=[
                schema.Proposer.Output(display_name="proposer", tooltip="For ARPO: proposes phrases.")
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, bank, **_):
        folder = banks().get(bank)  # a file may have been written since
        return sorted((str(f), f.stat().st_mtime_ns) for f in folder.rglob("*.txt")) if folder else None

    @classmethod
    def execute(cls, scorer, bank, most, against, content, style) -> io.NodeOutput:
        own = Phrases(tuple(content.splitlines())), Phrases((), tuple(style.splitlines()))
        lists = read_bank(banks()[bank]) if bank != NONE else ()
        lists = (*lists, *(phrases for phrases in own if len(phrases)))
        return io.NodeOutput(PhraseBank(lists, scorer, most, against, absent=ABSENT))
