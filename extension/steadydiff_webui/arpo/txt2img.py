"""txt2img's own drawing settings, which a search takes over."""

from __future__ import annotations

from typing import Any

from modules import infotext_utils

WHERE = {
    "negative": "txt2img_neg_prompt",
    "sampler_name": "txt2img_sampling",
    "scheduler": "txt2img_scheduler",
    "steps": "txt2img_steps",
    "cfg": "txt2img_cfg_scale",
    "width": "txt2img_width",
    "height": "txt2img_height",
}
"""By a drawing's input: the element that has it."""


def components(names: list[str]) -> dict[str, Any]:
    """txt2img's components by the inputs they stand for; empty if this host has not all of them."""
    fields = (infotext_utils.paste_fields.get("txt2img") or {}).get("fields") or []
    by_id = {getattr(field[0], "elem_id", None): field[0] for field in fields}
    wanted = [name for name in names if name in WHERE]
    return {name: by_id[WHERE[name]] for name in wanted} if by_id.keys() >= {*map(WHERE.get, wanted)} else {}
