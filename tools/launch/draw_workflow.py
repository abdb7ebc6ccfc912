"""Draws graphs of the API's form as a browser opens them; as a command: templates.py -> workflows/*.json.

A node's `_meta` may hold what only a picture needs: "title", "pos" [x, y], "size" [width, height], "mode",
"flags", "color", "bgcolor", "models", and "note", a text put beside it, with its "note_look". Run it with the
host's interpreter:

    python -m tools.launch.draw_workflow
"""

import json
import sys
from typing import Any

from tools.launch.environment import ROOT
from tools.launch.find_comfyui import ensure_host
from tools.launch.server import running
from tools.launch.templates import TEMPLATES, groups, placed

WORKFLOWS = ROOT / "workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SIZE, NOTE_SIZE = [300, 120], [380, 240]
EXTRA = {
    "ds": {"scale": 0.8, "offset": [60, 120]},  # for a file dropped on the page; the browser fits by itself
    "workflowRendererVersion": "LG",  # sizes are those of the classic canvas
    "frontendVersion": "1.47.12",
}


def main() -> None:
    with running(ensure_host(sys.executable)) as server:
        info = server.client.get("/object_info")
    for name in TEMPLATES:
        drawn = draw(placed(name), info) | {"groups": groups(name), "extra": EXTRA}
        text = json.dumps(drawn, indent=1, ensure_ascii=False) + "\n"
        (WORKFLOWS / f"{name}.json").write_text(text, encoding="utf-8")
        print(f"workflows/{name}.json")


def draw(graph: dict, info: dict) -> dict:
    """The browser's form of an API graph, given what the host says of its nodes."""
    numbers = {key: i for i, key in enumerate(graph, 1)}
    nodes, links = [], []
    for key, node in graph.items():
        drawn = draw_node(numbers[key], node, info[node["class_type"]])
        for slot, entry in enumerate(drawn["inputs"]):
            source = node["inputs"].get(entry["name"])
            if isinstance(source, list):
                entry["link"] = len(links) + 1
                links.append(
                    [entry["link"], numbers[source[0]], source[1], numbers[key], slot, entry["type"]]
                )
        nodes.append(drawn)
    for link, source, slot, *_ in links:
        nodes[source - 1]["outputs"][slot]["links"].append(link)
    nodes += draw_notes(graph, len(nodes))
    last = {"last_node_id": len(nodes), "last_link_id": len(links)}
    return {**last, "nodes": nodes, "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4}


def draw_node(number: int, node: dict, info: dict) -> dict:
    meta, names, widgets = node.get("_meta", {}), [], []
    controlled, defaults = controlled_by_a_widget(info), defaults_of(info)
    for name, kind in inputs_of(info):
        value = node["inputs"].get(name, defaults.get(name))
        if is_widget(kind) and not isinstance(value, list):
            widgets.append(value)
            if name in controlled:
                widgets.append("fixed")  # the browser's own widget after a seed
        else:
            names.append({"name": name, "type": kind, "link": None})
    outputs = zip(info["output_name"], info["output"], strict=True)
    return {
        **{"id": number, "type": node["class_type"], "pos": meta.get("pos", [320 * number, 0])},
        **{"size": meta.get("size", SIZE), "order": number - 1, "inputs": names},
        **{"mode": meta.get("mode", 0), "flags": meta.get("flags", {})},
        "outputs": [{"name": name, "type": kind, "links": []} for name, kind in outputs],
        **{name: meta[name] for name in ("title", "color", "bgcolor") if name in meta},
        "properties": {
            "Node name for S&R": node["class_type"],
            **({"models": meta["models"]} if "models" in meta else {}),
        },
        "widgets_values": widgets,
    }


def inputs_of(info: dict) -> list[tuple[str, str]]:
    """A node's inputs in order, each with its type; a list of choices is a COMBO."""
    return [(name, "COMBO" if isinstance(kind, list) else kind) for name, kind, _ in declared(info)]


def defaults_of(info: dict) -> dict[str, Any]:
    """What a page puts into the widgets that a graph does not name."""
    return {name: options["default"] for name, _, options in declared(info) if "default" in options}


def controlled_by_a_widget(info: dict) -> set[str]:
    """The seeds behind which the page puts a box that changes them after each run."""
    return {name for name, _, options in declared(info) if options.get("control_after_generate")}


def declared(info: dict) -> list[tuple[str, Any, dict]]:
    """A node's inputs in order, each with what the host says of its type and its options."""
    entries = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return [(name, kind, options[0] if options else {}) for name, (kind, *options) in entries.items()]


def is_widget(kind: str) -> bool:
    return kind in WIDGETS


def draw_notes(graph: dict, count: int) -> list[dict]:
    texts = [
        (node["_meta"], node["_meta"]["note"]) for node in graph.values() if "note" in node.get("_meta", {})
    ]
    return [
        {
            **{"id": count + i, "type": "MarkdownNote", "pos": beside(meta), "size": NOTE_SIZE, "flags": {}},
            **{"order": count + i - 1, "mode": 0, "inputs": [], "outputs": [], "properties": {}},
            **{"widgets_values": [text], **meta.get("note_look", {})},
        }
        for i, (meta, text) in enumerate(texts, 1)
    ]


def beside(meta: dict) -> list[int]:
    """Above the node that carries the note."""
    x, y = meta.get("pos", [0, 0])
    return [x, y - NOTE_SIZE[1] - 60]


if __name__ == "__main__":
    main()
