"""What a model writes around its answer: thoughts, channels, the marks of its turns."""

from __future__ import annotations

import re

# Tags of thoughts as the families write them: <think>, [THINK], ◁think▷, <seed:think>, <|begin_of_thought|>;
# the channels of gpt-oss, of which only the final one is meant for us; and what a server leaves of these.
_THOUGHT = re.compile(
    r"(?:<\|?|◁)(?P<slash>/?)(?P<side>begin_of_|end_of_)?(?:\w{1,20}:)?"
    r"(?:think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad)(?:\|?>|▷)"
    r"|\[(?P<slash2>/?)THINK(?:ING)?\]"
    r"|<\|channel\|>\s*(?P<channel>\w+)"
    r"|(?P<open>\Aanalysis(?=[A-Z]))|(?P<final>assistantfinal)",
    re.IGNORECASE,
)
_END = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|endoftext|end_of_text|end|return)\|>|<end_of_turn>|</s>|<｜end▁of▁sentence｜>"
)
_MARK = re.compile(
    r"<\|(?:im_start|start|start_header_id)\|>\s*(?:assistant|system|user)?"
    r"|<\|[^<>|\n]{1,40}\|>|<｜[^<>｜\n]{1,40}｜>|<(?:s|bos|eos|pad|start_of_turn)>"
)


def without_thoughts(answer: str) -> str:
    """The answer proper: thoughts stand between tags, of which the first or the last may be missing."""
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
    return bool(tag["slash"] or tag["slash2"] or tag["final"] or (tag["side"] or "").lower() == "end_of_")


def _one_turn(answer: str) -> str:
    """Up to where the model's turn ends: what follows, it wrote in another's name."""
    turns = (_MARK.sub("\n", turn).strip() for turn in _END.split(answer))
    return next(filter(None, turns), "")
