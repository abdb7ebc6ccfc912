"""The demo: runs the API-format workflows in a real ComfyUI and lays their pictures side by side.

The one convention a workflow follows: each SaveImage node's `filename_prefix` is "<workflow>/<column>". The
columns become the columns of the sheet, "baseline" first, and must be sampled with the same seeds, which is
checked. "rows" in a SaveImage's `_meta` names the pictures of a column. Standard library only (the sheet is
drawn by the host's interpreter); called by run.py.
"""

import hashlib
import json
import shutil
import subprocess
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from tools.launch.comfy_client import ComfyError, Graph
from tools.launch.console import ProgressBar, Stop, say, tail
from tools.launch.draw_workflow import draw
from tools.launch.environment import ROOT
from tools.launch.find_comfyui import Host
from tools.launch.server import Server, running

WORKFLOWS = ROOT / "workflows" / "api"
OUTPUT = ROOT / "output" / "demo"
FIRST = {  # of the tiny world's sheets those that show most; by its other workflows pictures change little
    "arpo": "a picture with a drawing of a wrong prompt, and with one of the prompt that was found",
    "measure": "how far the predicted noise wanders from training, without and with Epsilon Scaling",
}
SEED_INPUTS = ("seed", "noise_seed")


def run_demo(
    host: Host,
    started: float,
    name: str | None = None,
    shown: bool = False,
    workflows: Path = WORKFLOWS,
    output: Path = OUTPUT,
) -> None:
    """Run all workflows, or the one named; write pictures, sheets and report.json; say where they are.

    `shown` opens the sheets worth seeing first. `started` is the launcher's start on time.monotonic(); the
    report counts its waits from there.
    """
    graphs = load_graphs(workflows, name)
    output.mkdir(parents=True, exist_ok=True)
    say(f"Starting ComfyUI {host.version} ...")
    with running(host) as server:
        say(f"ComfyUI answers after {time.monotonic() - started:.1f} s.")
        system = server.client.get("/system_stats")["system"]
        info = server.client.get("/object_info")
        runs = {
            label: run_workflow(server, label, graph, output, draw(graph, info))
            for label, graph in graphs.items()
        }
    report = summarize(host, system, runs, started)
    for label in runs:
        draw_sheet(host.python, label, report["workflows"][label], output)
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for label in runs:
        say(f"{label}: {output / report['workflows'][label]['sheet']}")
    say(f"report: {output / 'report.json'}")
    point_out({label: output / run["sheet"] for label, run in report["workflows"].items()}, shown)


def point_out(sheets: dict[str, Path], shown: bool) -> None:
    """Say which sheets are worth seeing first, by label; open them if they are to be shown."""
    chosen = [label for label in FIRST if label in sheets] or list(sheets)
    say("\nWorth seeing first:")
    for label in chosen:
        say(f"  {sheets[label]}" + (f"\n    {FIRST[label]}" if label in FIRST else ""))
    if shown and not all([webbrowser.open(sheets[label].resolve().as_uri()) for label in chosen]):
        say("Nothing here opens pictures; open the files above by hand.")


def load_graphs(folder: Path, name: str | None) -> dict[str, Graph]:
    """The workflows by name, each checked against the convention before anything is started."""
    files = {file.stem: file for file in sorted(folder.glob("*.json"))}
    labels = [name] if name else list(files)
    if not labels or labels[0] not in files:
        wanted = f"no workflow '{name}'" if name else "no workflow"
        known = f"; there are: {', '.join(files)}" if files else ""
        raise Stop(f"There is {wanted} in {folder.parent.name}/{folder.name}{known}.")
    graphs = {label: json.loads(files[label].read_text(encoding="utf-8")) for label in labels}
    for label, graph in graphs.items():
        check_seeds(label, graph)
    return graphs


def columns(graph: Graph) -> dict[str, str]:
    """Column name -> id of the SaveImage node that fills it; baseline first, the others in graph order."""
    found = {
        str(node["inputs"]["filename_prefix"]).rsplit("/", 1)[-1]: node_id
        for node_id, node in graph.items()
        if node["class_type"] == "SaveImage"
    }
    return dict(sorted(found.items(), key=lambda item: item[0] != "baseline"))


def rows(graph: Graph) -> list[str]:
    """What the sheet's rows are called, if the workflow says so."""
    named = [graph[node_id].get("_meta", {}).get("rows", []) for node_id in columns(graph).values()]
    return max(named, key=len, default=[])


def check_seeds(label: str, graph: Graph) -> None:
    """Refuse a workflow whose columns could not be compared: none at all, or sampled with different seeds."""
    seeds = {column: seeds_above(graph, node_id) for column, node_id in columns(graph).items()}
    if not seeds:
        raise Stop(f"Workflow '{label}' has no SaveImage node, so the demo has nothing to show.")
    if len(set(map(tuple, seeds.values()))) > 1:
        raise Stop(f"Workflow '{label}' compares columns of different seeds: {seeds}.")


def seeds_above(graph: Graph, node_id: str) -> list[int]:
    """The seeds that a node's pictures were drawn with: of the nearest nodes above it that have one."""
    seen, waiting, seeds = set(), [node_id], set()
    while waiting:
        current = waiting.pop()
        values = [graph[current]["inputs"].get(key) for key in SEED_INPUTS]
        own = {value for value in values if isinstance(value, int)}
        seeds |= own
        if current not in seen and not own:
            waiting += [source for source, _ in links(graph[current])]
        seen.add(current)
    return sorted(seeds)


def links(node: dict) -> Iterator[tuple[str, int]]:
    """The inputs of a node that come from another node: (node id, output index)."""
    for value in node["inputs"].values():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
            yield value[0], value[1]


def run_workflow(server: Server, label: str, graph: Graph, output: Path, drawn: dict | None = None) -> dict:
    """Run one workflow, save its pictures below `output` and return its part of the report.

    drawn: the workflow as a browser opens it; kept in the pictures, which can then be dragged into ComfyUI
    """
    begun, first_step = time.monotonic(), None
    bar = ProgressBar(label)

    def on_progress(kind: str, data: dict) -> None:
        nonlocal first_step
        if kind == "progress":
            node = graph.get(str(data.get("node")), {}).get("class_type", "")
            if "Sampler" in node and first_step is None:
                first_step = time.monotonic()
            bar.update(int(data["value"]), int(data["max"]), node)

    try:
        outputs = server.client.run(graph, on_progress, drawn)
    except ComfyError as error:
        raise Stop(f"Workflow '{label}': {error}", tail(server.log)) from error
    except OSError as error:
        raise Stop(f"ComfyUI was lost during workflow '{label}': {error}.", tail(server.log)) from error
    finally:
        bar.close()
    say(f"{label}: sampled in {time.monotonic() - begun:.1f} s")
    pictures = {column: outputs.get(node, {}).get("images", []) for column, node in columns(graph).items()}
    return {
        "seeds": seeds_above(graph, next(iter(columns(graph).values()))),
        "settings": settings(graph),
        "seconds": round(time.monotonic() - begun, 2),
        "first_step": first_step,
        "rows": rows(graph),
        "images": save_pictures(server, pictures, output, label),
    }


def settings(graph: Graph) -> list[dict]:
    """What was asked of our nodes and of everything with a seed: their literal inputs."""
    return [
        {"node": node_id, "class_type": node["class_type"]}
        | {key: value for key, value in node["inputs"].items() if not isinstance(value, list)}
        for node_id, node in graph.items()
        if node["class_type"].startswith("SteadyDiff") or any(key in node["inputs"] for key in SEED_INPUTS)
    ]


def save_pictures(server: Server, pictures: dict[str, list[dict]], output: Path, label: str) -> dict:
    """Fetch the pictures into `output/<label>/`, which holds this run's only; return file and sha256 each."""
    shutil.rmtree(output / label, ignore_errors=True)
    (output / label).mkdir(parents=True)
    saved: dict[str, list] = {}
    for column, references in pictures.items():
        for index, reference in enumerate(references):
            data = server.client.image(reference)
            file = output / label / f"{column}_{index:02d}.png"
            file.write_bytes(data)
            entry = {"file": file.relative_to(output).as_posix(), "sha256": hashlib.sha256(data).hexdigest()}
            saved.setdefault(column, []).append(entry)
    return saved


def summarize(host: Host, system: dict, runs: dict[str, dict], started: float) -> dict:
    """The report: the host, the wait until sampling began, and what each workflow did."""
    first_steps = [first for run in runs.values() if (first := run.pop("first_step")) is not None]
    for label, run in runs.items():
        run["sheet"] = f"{label}_sheet.png"
    return {
        "host": f"ComfyUI {host.version}",
        "python": system.get("python_version", "").split(" ")[0],
        "torch": system.get("pytorch_version"),
        "seconds_to_first_step": round(min(first_steps) - started, 2) if first_steps else None,
        "seconds": round(time.monotonic() - started, 2),
        "workflows": runs,
    }


def draw_sheet(python: Path, label: str, run: dict, output: Path) -> None:
    """Have the host's interpreter, which has Pillow, draw one workflow's sheet."""
    seeds = ", ".join(map(str, run["seeds"]))
    order = {
        "title": f"{label}   seed {seeds}" if seeds else label,
        "columns": {name: [entry["file"] for entry in entries] for name, entries in run["images"].items()},
        "rows": run["rows"],
        "sheet": run["sheet"],
    }
    command = [str(python), str(Path(__file__).with_name("sheet.py"))]
    done = subprocess.run(
        command, input=json.dumps(order), cwd=output, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Stop(f"The sheet of '{label}' could not be drawn.", done.stderr)
