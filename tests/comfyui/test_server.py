"""The pack in a real ComfyUI server: what it offers, what it runs, and what it refuses before running."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from tools.launch.comfy_client import ComfyError
from tools.launch.demo import columns
from tools.launch.draw_workflow import defaults_of
from tools.launch.templates import COLUMNS, FOLDER, TEMPLATES, offline, placed

ROOT = Path(__file__).resolve().parents[2]
NODES = sorted(page.stem for page in (ROOT / "web" / "docs").glob("*.md"))
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(scope="module")
def client(server):
    return server.client


@pytest.fixture(scope="module")
def info(client):
    """What the host tells a browser about our nodes."""
    return {name: client.get(f"/object_info/{name}")[name] for name in NODES}


def inputs_of(node):
    shown = [node["input"].get(group, {}) for group in ("required", "optional")]  # and not the hidden ones
    return {name: entry for group in shown for name, entry in group.items()}


def test_every_node_has_a_help_page(client):
    assert sorted(name for name in client.get("/object_info") if name.startswith("SteadyDiff")) == NODES


@pytest.mark.parametrize("name", NODES)
def test_everything_is_explained(name, info, client):
    node = info[name]
    assert len(node["description"]) > 60
    assert node["search_aliases"]
    assert node["category"].startswith("SteadyDiff")
    for _, (_, options) in inputs_of(node).items():
        assert len(options["tooltip"]) > 20
    assert len(node["output_tooltips"]) == len(node["output"])
    assert all(node["output_tooltips"])


SHELVES = {"Measure and Schedule", "Trained Corrections", "Image to Prompt", "Demo"}


def test_the_menu_begins_with_what_corrects_at_once(info):
    first = {name for name, node in info.items() if node["category"] == "SteadyDiff"}
    assert {"SteadyDiffEpsilonScaling", "SteadyDiffCompare", "SteadyDiffDiffIER"} <= first
    others = {node["category"] for name, node in info.items() if name not in first}
    assert others == {f"SteadyDiff/{shelf}" for shelf in SHELVES}
    found = {name for name, node in info.items() if "exposure bias" in node["search_aliases"]}
    assert not {name for name in found if info[name]["category"].endswith("Trained Corrections")}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("SteadyDiffEpsilonScaling", {"model", "scale", "schedule"}),
        ("SteadyDiffTimeShift", {"model", "factor"}),
        ("SteadyDiffDiffIER", {"model", "measurement", "mode", "strength", "iterations"}),
        ("SteadyDiffAntiBiasPrompt", {"model", "antibias", "strength"}),
        ("SteadyDiffMDSS", {"model", "head", "strength"}),
        ("SteadyDiffChatServer", {"url", "model"}),
    ],
)
def test_what_is_rarely_turned_is_folded_away(name, shown, info):
    given = inputs_of(info[name])
    assert {one for one, (_, options) in given.items() if not options.get("advanced")} == shown
    if "start_percent" in given:
        assert given["start_percent"][1]["display_name"] == "start"


@pytest.mark.parametrize("language", ["", "/zh"], ids=["en", "zh"])
@pytest.mark.parametrize("name", NODES)
def test_a_help_page_names_every_input(name, language, info, client):
    status, page = client._send("GET", f"/extensions/SteadyDiff/docs/{name}{language}.md")
    assert status == 200
    assert [word for word in inputs_of(info[name]) if word not in page.decode()] == []


@pytest.mark.parametrize("name", NODES)
def test_a_help_page_shows_the_labels_of_the_page(name, info):
    """As "label `name`" where they differ."""
    page = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
    labels = {one: entry[1].get("display_name", one) for one, entry in inputs_of(info[name]).items()}
    wanted = [f"{label} `{one}`" for one, label in labels.items() if label != one]
    assert [text for text in wanted if text not in page] == []


def test_chinese_is_served(client):
    ours = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert client.get("/i18n")["zh"]["nodeDefs"] == ours


def widgets_of(node):
    """The defaults of a node's widgets."""
    widgets = {}
    for name, (kind, options) in inputs_of(node).items():
        if kind == "COMBO":
            widgets[name] = options.get("default", options["options"][0])
        elif kind in ("INT", "FLOAT", "STRING"):
            widgets[name] = options["default"]
    return widgets


@pytest.fixture
def graph(info):
    """A graph that samples nothing: our nodes between a model that need not load and a picture."""

    def make(node, **widgets):
        schedule = {"class_type": "SteadyDiffSchedule", "inputs": widgets_of(info["SteadyDiffSchedule"])}
        scaling = {
            "class_type": "SteadyDiffEpsilonScaling",
            "inputs": widgets_of(info["SteadyDiffEpsilonScaling"]),
        }
        scaling["inputs"] |= {"model": ["world", 0], "schedule": ["schedule", 0]}
        nodes = {
            "world": {"class_type": "SteadyDiffTinyWorld", "inputs": {"variant": "epsilon"}},
            "schedule": schedule,
            "scaling": scaling,
            "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["world", 1], "text": "a red star"}},
            "latent": {
                "class_type": "EmptyLatentImage",
                "inputs": {"width": 64, "height": 64, "batch_size": 1},
            },
            "sampler": {
                "class_type": "KSampler",
                "inputs": {
                    **{"model": ["scaling", 0], "positive": ["text", 0], "negative": ["text", 0]},
                    **{"latent_image": ["latent", 0], "seed": 1, "steps": 2, "cfg": 1.0, "denoise": 1.0},
                    **{"sampler_name": "euler", "scheduler": "simple"},
                },
            },
            "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["world", 2]}},
            "save": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
        }
        nodes[node]["inputs"] |= widgets
        return nodes

    return make


@pytest.mark.parametrize(
    ("node", "widget", "value"),
    [
        *(("scaling", "scale", value) for value in (0, -1, NAN, INFINITY, "much", 1.6)),
        *(("scaling", "slope", value) for value in (NAN, INFINITY)),
        ("scaling", "space", "everywhere"),
        *(("schedule", "table", value) for value in ("1.0, abc", "", "1.0 -2", "nan", '{"format": "other"}')),
        *(("schedule", name, NAN) for name in ("scale", "slope", "tsr_k", "tsr_sigma", "dcw_lambda")),
        ("schedule", "mode", "guess"),
        ("schedule", "steps", 0),
    ],
)
def test_bad_values_are_refused_at_their_widget_and_nothing_runs(node, widget, value, graph, client):
    status, answer = client.request("POST", "/prompt", {"prompt": graph(node, **{widget: value})})
    assert status == 400
    assert list(answer["node_errors"]) == [node]
    [error] = answer["node_errors"][node]["errors"]
    assert error["extra_info"]["input_name"] == widget
    assert error["message"] and (widget in error["details"])
    assert client.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert client.get("/history") == {}


@pytest.mark.parametrize("part", [(0.8, 0.2), (NAN, 1.0), (-0.1, 1.0), (0.0, 1.1)])
def test_bad_parts_of_a_run_are_refused(part, graph, client):
    widgets = dict(zip(("start_percent", "end_percent"), part, strict=True))
    status, answer = client.request("POST", "/prompt", {"prompt": graph("scaling", **widgets)})
    assert status == 400
    found = {error["extra_info"]["input_name"] for error in answer["node_errors"]["scaling"]["errors"]}
    assert found == set(widgets)  # each may be the one that is meant
    assert "start_percent" in answer["node_errors"]["scaling"]["errors"][0]["details"] or part[1] == 1.1


def test_a_schedule_is_made_and_drawn(info, client):
    widgets = widgets_of(info["SteadyDiffSchedule"])
    graph = {
        "made": {"class_type": "SteadyDiffSchedule", "inputs": widgets | {"mode": "linear", "steps": 7}},
        "plot": {"class_type": "PreviewImage", "inputs": {"images": ["made", 1]}},
        "text": {"class_type": "PreviewAny", "inputs": {"source": ["made", 2]}},
    }
    outputs = client.run(graph)
    assert client.image(outputs["plot"]["images"][0]).startswith(b"\x89PNG")
    assert len(json.loads(outputs["text"]["text"][0])["values"]) == 7


def test_a_misfit_is_told_by_the_sampler_before_it_starts(graph, client):
    with pytest.raises(
        ComfyError, match="KSampler.*the schedule has 4 steps, the run has 2; make the schedule for 2"
    ):
        client.run(graph("schedule", mode="table"))


def test_the_whole_graph_runs(graph, client):
    outputs = client.run(graph("schedule", steps=2))
    assert client.image(outputs["save"]["images"][0]).startswith(b"\x89PNG")


def test_a_picture_keeps_the_drawn_workflow(graph, client):
    own = graph("schedule", steps=2, scale=1.003)  # of one that has run the host shows what it has saved
    outputs = client.run(own, drawn={"nodes": [], "mark": "kept"})
    picture = client.image(outputs["save"]["images"][0])
    assert b"tEXtworkflow\0" in picture and b'"mark": "kept"' in picture


@pytest.mark.parametrize(("wire", "acted"), [("scaling", True), ("world", False)])
def test_compare_ends_a_graph_and_shows_its_sheet(wire, acted, graph, info, client):
    nodes = {name: node for name, node in graph("schedule", steps=2).items() if name != "save"}
    wires = {name: nodes["sampler"]["inputs"][name] for name in ("positive", "negative", "latent_image")}
    widgets = widgets_of(info["SteadyDiffCompare"]) | {"steps": 2, "show_difference": True}
    inputs = {**widgets, **wires, "model": [wire, 0], "vae": ["world", 2]}
    nodes["compare"] = {"class_type": "SteadyDiffCompare", "inputs": inputs}
    nodes["told"] = {"class_type": "PreviewAny", "inputs": {"source": ["compare", 4]}}
    outputs = client.run(nodes)
    assert client.image(outputs["compare"]["images"][0]).startswith(b"\x89PNG")
    [told] = outputs["told"]["text"]
    assert told.startswith("mean difference") if acted else told == "identical: nothing acted"
    inputs["scales"] = "1, much"
    status, answer = client.request("POST", "/prompt", {"prompt": nodes})
    assert status == 400 and "scales" in answer["node_errors"]["compare"]["errors"][0]["details"]


def test_auto_correct_measures_once_on_a_server(graph, info, client):
    nodes = graph("schedule", steps=2)
    ends = {name: nodes["sampler"]["inputs"][name] for name in ("positive", "negative", "latent_image")}
    run = {"steps": 2, "cfg": 1.0, "quality": "quick", "batch_size": 16}
    inputs = {**widgets_of(info["SteadyDiffAuto"]), **run, **ends, "model": ["world", 0]}
    nodes["auto"] = {"class_type": "SteadyDiffAuto", "inputs": inputs}
    nodes["sampler"]["inputs"]["model"] = ["auto", 0]
    nodes["told"] = {"class_type": "PreviewAny", "inputs": {"source": ["auto", 1]}}
    [first] = client.run(nodes)["told"]["text"]
    inputs |= {"seed": 1, "measure": "never"}
    [second] = client.run(nodes)["told"]["text"]
    assert first == second and first.startswith("No pictures connected: few-step error only")


def test_auto_correct_takes_the_pictures_of_a_folder(graph, info, client):
    nodes = graph("schedule", steps=2)
    ends = {name: nodes["sampler"]["inputs"][name] for name in ("positive", "negative", "latent_image")}
    run = {"steps": 2, "cfg": 1.0, "quality": "quick", "batch_size": 16}
    wires = {"model": ["world", 0], "vae": ["world", 2], "images": ["folder", 0]}
    inputs = {**widgets_of(info["SteadyDiffAuto"]), **run, **ends, **wires}
    folder = {"class_type": "LoadImageDataSetFromFolder", "inputs": {"folder": FOLDER}}
    nodes = {**nodes, "folder": folder, "auto": {"class_type": "SteadyDiffAuto", "inputs": inputs}}
    nodes["told"] = {"class_type": "PreviewAny", "inputs": {"source": ["auto", 1]}}
    outputs = client.run(nodes)
    assert "against 16 connected images" in outputs["told"]["text"][0]
    assert client.image(outputs["auto"]["images"][0]).startswith(b"\x89PNG")


GRAPHS = sorted((ROOT / "workflows" / "api").glob("*.json"))


def as_api(drawn, client):
    """What a browser would queue of a drawn workflow: {node: (type, inputs)}, links as (node, slot)."""
    sources = {link: (str(node), slot) for link, node, slot, *_ in drawn["links"]}
    graph = {}
    for node in drawn["nodes"]:
        if "Note" in node["type"]:
            continue
        inputs = {entry["name"]: sources[entry["link"]] for entry in node["inputs"] if entry["link"]}
        values, linked = iter(node["widgets_values"]), {entry["name"] for entry in node["inputs"]}
        for name, entry in inputs_of(client.get(f"/object_info/{quote(node['type'])}")[node["type"]]).items():
            if name not in linked:
                inputs[name] = next(values)
            if len(entry) > 1 and entry[1].get("control_after_generate"):
                assert next(values) == "fixed"
        assert list(values) == []
        graph[str(node["id"])] = (node["type"], inputs)
    return graph


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_drawn_from_its_graph(name, client):
    graph = placed(name)
    numbers = {key: str(i) for i, key in enumerate(graph, 1)}

    def renamed(value):
        return (numbers[value[0]], value[1]) if isinstance(value, list) else value

    expected = {
        numbers[key]: (node["class_type"], {name: renamed(value) for name, value in node["inputs"].items()})
        for key, node in graph.items()
    }
    for kind, inputs in expected.values():
        defaults = defaults_of(client.get(f"/object_info/{quote(kind)}")[kind])
        inputs |= {one: value for one, value in defaults.items() if one not in inputs}
    drawn = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    assert as_api(drawn, client) == expected


def bypassed(graph):
    """A graph as the page queues it: nodes that are bypassed hand on what they are given of a kind."""
    passed = {key: node["inputs"]["model"] for key, node in graph.items() if node["_meta"]["mode"]}

    def source(value):
        return source(passed[value[0]]) if isinstance(value, list) and value[0] in passed else value

    return {
        key: {**node, "inputs": {name: source(value) for name, value in node["inputs"].items()}}
        for key, node in graph.items()
        if key not in passed
    }


MOST = {"count": 4, "batch_size": 8, "refine": 1, "iterations": 2}


def lessened(graph):
    """A graph with as little work as shows that it runs; pages run it whole in tests/browser."""

    def less(name, value):
        if type(value) is not int:
            return value
        return value // 2 if name == "steps" else min(value, MOST.get(name, value))

    return {
        key: {**node, "inputs": {name: less(name, value) for name, value in node["inputs"].items()}}
        for key, node in graph.items()
    }


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_runs_and_shows_something(name, client):
    graph = bypassed(offline(placed(name)))
    outputs = client.run(lessened(graph))
    shown = [key for key, node in graph.items() if node["_meta"]["pos"][0] >= COLUMNS["BC"][0]]
    pictures = [found for key in shown for found in outputs.get(key, {}).get("images", [])]
    assert pictures
    assert all(client.image(found).startswith(b"\x89PNG") for found in pictures)


def test_all_corrections_are_measured_and_calibrated_in_one_graph(client):
    graph = json.loads((ROOT / "workflows" / "api" / "calibrate.json").read_text(encoding="utf-8"))
    trained, diffier = (placed(next(name for name in TEMPLATES if name[0] == number)) for number in "76")
    graph |= {key: trained[key] for key in ("model", "antibias", "correct", "mdss", "second")}
    graph["diffier"] = diffier["correct"]
    graph["diffier"]["inputs"]["model"] = ["second", 0]
    graph["measure"]["inputs"] |= {"count": 4, "batch_size": 4, "refine": 1}
    graph["calibrate"]["inputs"]["count"] = 4
    for key in ("measure", "calibrate", "scaling"):
        graph[key]["inputs"]["model"] = ["diffier", 0]
    outputs = client.run(graph)
    without, corrected = (
        client.image(outputs[key]["images"][0]) for key in ("save_baseline", "save_calibrated")
    )
    assert without != corrected


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_a_workflow_runs_and_its_columns_differ(file, client):
    api = json.loads(file.read_text(encoding="utf-8"))
    outputs = client.run(lessened(api))
    names = {node: column for column, node in columns(api).items()}
    pictures = {
        names[key]: client.image(found["images"][0]) for key, found in outputs.items() if key in names
    }
    assert "baseline" in pictures and len(pictures) > 1
    assert len(set(pictures.values())) == len(pictures)


def test_a_sampler_that_cannot_be_calibrated_is_refused_before_the_model_is_measured(client):
    graph = json.loads((ROOT / "workflows" / "api" / "calibrate.json").read_text(encoding="utf-8"))
    graph["sampler"]["inputs"]["sampler_name"], executed = "euler_cfg_pp", []
    with pytest.raises(ComfyError, match=r"Calibrate.*not of the CFG\+\+ kind"):
        client.run(graph, lambda kind, data: executed.append(data.get("node")))
    assert "calibrate" in executed and "measure" not in executed
