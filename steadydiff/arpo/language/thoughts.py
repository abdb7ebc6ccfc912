"""What a model writes around its answer: thoughts, channels, the marks of its turns."""

from __future__ import annotations

import re

_WORD = (
    r"(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad|monologue|rationale|planning|"
    r"plan|deliberation|internal|cot)"
)
# Comments, fences and folds of thoughts; the last may be open to the end.
_FOLDED = re.compile(
    rf"<!--.*?(?:-->|\Z)|```{_WORD}\s.*?(?:```|\Z)"
    rf"|<details>\s{{0,9}}<summary>[^<>]{{0,40}}\b{_WORD}\b.*?(?:</details>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
# Headings: of thoughts, and of the answer that comes after them.
_HEADING = re.compile(
    rf"^[#*_ ]{{0,9}}(?:my )?{_WORD}(?: process)?[*_ ]{{0,4}}[:\n]", re.IGNORECASE | re.MULTILINE
)
_ANSWER = re.compile(
    r"^[#*_ ]{0,9}(?:my |the )?(?:final )?(?:answer|output|result|response|phrases|json)"
    r"[*_ ]{0,4}[:\n][*_\s]{0,9}",
    re.IGNORECASE | re.MULTILINE,
)
# Tags of thoughts as the families write them: <think>, [THINK], ◁think▷, <seed:think>, <|begin_of_thought|>,
# <|START_THINKING|>, MedGemma's <unused94>; the channels of gpt-oss, of which only the final one is meant for
# us, those of Gemma 4, where <channel|> ends a thought; Granite's words; and what a server leaves of these.
_THOUGHT = re.compile(
    r"(?:(?:<|&lt;)\|?|◁)\s?(?P<slash>/?)\s?(?P<side>begin_of_|end_of_|start_of_|start_|end_)?"
    rf"(?:\w{{1,20}}[:_]|ant)?{_WORD}(?:_\w{{1,20}})?(?:\s[^<>\n]{{0,80}})?(?:\|?(?:>|&gt;)|▷)"
    rf"|\[(?P<slash2>/?){_WORD}\]|<unused9(?:4|(?P<unused>5))>"
    r"|<\|channel\|?>\s*(?P<channel>\w+)|(?P<shut><channel\|>)"
    r"|(?P<open>\Aanalysis(?=[A-Z])|^here is my thought process:)"
    r"|(?P<final>assistantfinal|^here is my response:)",
    re.IGNORECASE | re.MULTILINE,
)
_END = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|endoftext|end_of_text|end|return)\|>|<end_of_turn>|<turn\|>|</s>"
    r"|<｜end▁of▁sentence｜>|^(?:user|### ?(?:human|user|instruction)):",
    re.IGNORECASE | re.MULTILINE,
)
_MARK = re.compile(
    r"<\|(?:im_start|start|start_header_id)\|>\s*(?:assistant|system|user)?"
    r"|<\|[^<>|\n]{1,40}\|>|<｜[^<>｜\n]{1,40}｜>|<\|turn>\s*(?:model|user)?"
    r"|<(?:s|bos|eos|pad|start_of_turn|[a-z]+_\d+)>"
)


def without_thoughts(answer: str) -> str:
    """The answer proper: thoughts stand between tags, of which the first or the last may be missing."""
    answer = _FOLDED.sub("", answer)
    if (begun := _HEADING.search(answer)) and (ended := _ANSWER.search(answer, begun.end())):
        answer = answer[: begun.start()] + answer[ended.end() :]
    kept: list[str] = []
    at, thinking = 0, False
    for tag in _THOUGHT.finditer(answer):
        closing = _closes(tag)
        if closing and not thinking:
            kept.clear()  # it had begun before the answer did
        elif not thinking:
            kept.append(answer[at : tag.start()])
        at, thinking = tag.end(), not closing
    return _one_turn("".join(kept if thinking else [*kept, answer[at:]]))


def _closes(tag: re.Match[str]) -> bool:
    if tag["channel"]:
        return tag["channel"].lower() == "final"
    ends = (tag["side"] or "").lower().startswith("end_")
    return ends or any(tag[name] for name in ("slash", "slash2", "unused", "shut", "final"))


def _one_turn(answer: str) -> str:
    """Up to where the model's turn ends: what follows, it wrote in another's name."""
    turns = (_MARK.sub("\n", turn).strip() for turn in _END.split(answer))
    return next(filter(None, turns), "")
