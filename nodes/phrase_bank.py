"""SteadyDiffPhraseBank: proposes phrases for ARPO out of lists, without a language model."""

from dataclasses import replace
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..steadydiff.arpo.bank_files import (
    EMBEDDINGS,
    NO_BANK,
    OWN,
    WILDCARDS,
    find_banks,
    named_banks,
    named_lists,
)
from ..steadydiff.arpo.phrase_bank import ABSENT, PhraseBank
from ..steadydiff.inputs import arpo as arpo_inputs
from .shared import schema


def banks() -> dict[str, Path]:
    """The banks that ship, the user's in models/steadydiff_banks, and folders of wildcards."""
    models = Path(folder_paths.models_dir)
    known = {kind: known_folders(kind) for kind in (*OWN, WILDCARDS, "custom_nodes")}
    wildcards = [folder for pack in known["custom_nodes"] for folder in sorted(pack.glob(f"*/{WILDCARDS}"))]
    return find_banks(
        *(folder for kind in OWN for folder in (models / kind, *known[kind])),
        wildcards=[models / WILDCARDS, *known[WILDCARDS], *wildcards],
    )


def known_folders(kind: str) -> list[Path]:
    """Folders that the host knows for a kind of files, as those of extra_model_paths.yaml."""
    return list(map(Path, folder_paths.folder_names_and_paths.get(kind, ([],))[0]))


class SteadyDiffPhraseBank(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffPhraseBank",
            display_name="Phrase Bank (SteadyDiff)",
            category=schema.PROMPTS,
            description="Proposes phrases for ARPO out of plain text files: those that are near to the "
            "reference and not to the drawing. No language model, nothing to download but the scorer's CLIP. "
            "Your own banks are .txt files, or folders of them, in models/steadydiff_banks.",
            search_aliases=["wildcards", "interrogator", "reverse prompt", "flavors", "arpo"],
            inputs=[
                schema.Scorer.Input("scorer", tooltip="Who ranks the phrases; the same as ARPO's."),
                schema.widget(replace(arpo_inputs.PHRASE_BANK[0], options=(*banks(), NO_BANK))),
                *schema.widgets(arpo_inputs.PHRASE_BANK[1:-1]),
                schema.later(arpo_inputs.PHRASE_BANK[-1]),
            ],
            outputs=[schema.Proposer.Output(display_name="proposer", tooltip="For ARPO: proposes phrases.")],
        )

    @classmethod
    def fingerprint_inputs(cls, bank, more="", **_):
        return [one.files() for one in named_banks(banks(), bank, more)]  # one may have been written since

    @classmethod
    def execute(cls, scorer, bank, most, against, content, style, more="") -> io.NodeOutput:
        lists, cache = (
            named_lists(banks(), bank, more, content, style),
            Path(folder_paths.models_dir) / EMBEDDINGS,
        )
        return io.NodeOutput(PhraseBank(lists, scorer, most, against, ABSENT, cache))
