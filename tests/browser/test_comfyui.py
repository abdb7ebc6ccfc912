"""ComfyUI's own pages in headless Chromium: templates, help pages and errors as their users meet them.

`python3 run.py test --browser` names the host and the browser. Screenshots are kept in output/browser/.
"""

import json
import os
import re
import time
from pathlib import Path

import pytest

from tools.launch.draw_workflow import draw
from tools.launch.templates import TEMPLATES, offline, placed

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        "STEADYDIFF_CHROMIUM" not in os.environ, reason="STEADYDIFF_CHROMIUM names no browser"
    ),
]
ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "output" / "browser"
HELP = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))
PATIENCE = 600_000  # milliseconds; a template takes seconds to a minute on an idle core
READY = "() => window.app?.graph && document.querySelector('canvas')"
WATCH_TITLE = """() => {
    window.titles = []
    new MutationObserver(() => window.titles.push(document.title))
        .observe(document.querySelector('title'), {childList: true})
}"""
# Node types that are missing, links that lead nowhere, nodes that the page marks.
BROKEN = """() => window.app.graph.nodes.flatMap(node => [
    ...(LiteGraph.registered_node_types[node.type] ? [] : [`${node.type} is missing`]),
    ...(node.has_errors ? [`${node.type} is red`] : []),
    ...(node.inputs ?? []).filter(i => i.link != null && !window.app.graph.getNodeById(
        window.app.graph.links.get(i.link)?.origin_id)).map(i => `${node.type}: ${i.name}`)])"""
# Nodes that the page had to make larger than they are drawn, so that they may lie over others.
TOO_SMALL = """() => window.app.graph.nodes.filter(node => !node.flags.collapsed
    && node.computeSize()[1] > node.size[1] + 1).map(node => [node.title, node.computeSize(), node.size])"""
# Nodes that lie over others, as one does that grew when it ran.
OVER = """() => {
    const boxes = window.app.graph.nodes.map(node => [node.title, ...node.pos,
        node.pos[0] + node.size[0], node.flags.collapsed ? node.pos[1] : node.pos[1] + node.size[1]])
    return boxes.flatMap(([title, left, top, right, bottom], i) => boxes.slice(0, i).filter(
        other => left < other[3] && other[1] < right && top - 30 < other[4] && other[2] - 30 < bottom)
        .map(other => [title, other[0]]))
}"""
# Nodes that reach out of the frame they stand in, as one does that grew when it ran.
OUT = """() => window.app.graph.nodes.flatMap(node => window.app.graph.groups.filter(group =>
    node.pos[0] >= group.pos[0] && node.pos[0] < group.pos[0] + group.size[0]
    && node.pos[1] + (node.flags.collapsed ? 0 : node.size[1]) > group.pos[1] + group.size[1])
    .map(group => [node.title, node.size[1], group.title]))"""
# Pictures that the nodes show, in pixels; 0 for one that did not load, or is still a preview of the run
# (ARPO's last preview is its sheet).
SHOWN = """() => window.app.graph.nodes
    .filter(node => !node.flags.collapsed && window.app.nodeOutputs[node.id]?.images)
    .map(node => [node.title, ...(node.imgs ?? []).map(
        img => img.src.startsWith('blob:') && node.type != 'SteadyDiffARPO' ? 0 : img.naturalWidth)])"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = os.environ["STEADYDIFF_CHROMIUM"] or None
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(server, browser):
    """ComfyUI as it opens for somebody who has been there before."""
    server.client.request("POST", "/settings", {"Comfy.TutorialCompleted": True})
    page = browser.new_page(viewport={"width": 1600, "height": 950})
    page.set_default_timeout(PATIENCE)
    page.goto(server.address)
    page.wait_for_function(READY)
    page.evaluate(WATCH_TITLE)
    return page


def open_template(page, name):
    """Find a template as a user does: Templates, Extensions, SteadyDiff, its card."""
    page.get_by_role("button", name="Templates").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("SteadyDiff", exact=True).first.click()
    card = dialog.get_by_test_id(f"template-workflow-{name}")
    card.scroll_into_view_if_needed()  # only then the page fetches its picture
    assert card.locator("img").first.evaluate("img => img.decode().then(() => img.naturalWidth)") > 0
    shot(page, "templates")
    card.click()
    dialog.wait_for(state="hidden")
    page.wait_for_function("name => document.title.includes(name)", arg=name)


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def fit_for(page, server, name):
    """Put the model that ships in the place of the checkpoint, which no test has."""
    graph = placed(name)
    if graph["model"]["class_type"] == "CheckpointLoaderSimple":
        drawn = draw(offline(graph), server.client.get("/object_info"))
        page.keyboard.press("Escape")  # the offer to download the checkpoint
        page.evaluate("drawn => window.app.loadGraphData(drawn)", drawn)


def wait_for_the_end(page, server):
    """Return when a job has begun and none is left."""
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline:
        begun = any("%" in title for title in page.evaluate("window.titles"))
        if begun and not any(server.client.get("/queue").values()):
            return
        page.wait_for_timeout(300)
    raise AssertionError("the job has not ended")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_found_opened_read_run_and_seen(page, server, name):
    open_template(page, name)
    shot(page, f"opened {name}")
    assert page.evaluate("window.app.canvas.ds.scale") >= 0.75
    assert page.evaluate(TOO_SMALL) == []
    fit_for(page, server, name)
    assert page.evaluate(BROKEN) == []
    run_by_the_button(page, server)
    page.wait_for_function(
        f"() => (shown => shown.length && shown.every(([_, ...widths]) => widths.length"
        f" && widths.every(w => w)))(({SHOWN})())"
    )
    shot(page, name)
    assert page.evaluate(OVER) == []
    assert page.evaluate(OUT) == []


# Core's own text-to-image template with the model that ships in the place of the checkpoint.
STOCK = """async seed => {
    await window.app.loadGraphData(await (await fetch('/templates/default.json')).json())
    const graph = window.app.graph, [old] = graph.findNodesByType('CheckpointLoaderSimple')
    const model = LiteGraph.createNode('SteadyDiffTinyWorld')
    graph.add(model)
    model.pos = old.pos
    for (const [slot, output] of old.outputs.entries())
        for (const id of [...output.links]) {
            const link = graph.links.get(id)
            model.connect(slot, graph.getNodeById(link.target_id), link.target_slot)
        }
    graph.remove(old)
    const [size] = graph.findNodesByType('EmptyLatentImage')
    for (const widget of size.widgets) widget.value = widget.name == 'batch_size' ? 1 : 64
    const [sampler] = graph.findNodesByType('KSampler')
    sampler.widgets.find(widget => widget.name == 'control_after_generate').value = 'fixed'
    sampler.widgets.find(widget => widget.name == 'seed').value = seed
    const canvas = window.app.canvas
    canvas.deselectAll()
    canvas.ds.scale = 0.6
    canvas.ds.offset = [150, 100]
    canvas.setDirty(true, true)
}"""
# Where a slot is on the page: [type or title of a node, is it an input, its name].
SLOT = """([type, isInput, name]) => {
    const node = window.app.graph.nodes.find(node => node.type == type || node.title == type)
    const slots = isInput ? node.inputs : node.outputs
    const place = node.getConnectionPos(isInput, slots.findIndex(slot => slot.name == name))
    const canvas = window.app.canvas, {left, top} = canvas.canvas.getBoundingClientRect()
    const [x, y] = canvas.ds.convertOffsetToCanvas(place)
    return [x + left, y + top]
}"""
WIRES = "() => window.app.graph.links.size"
EMPTY = (170, 550)
"""A place of the page where that graph has nothing."""


def drag(page, source, target):
    """Draw a link from an output to an input by hand: [type or title, name] of each."""
    page.mouse.move(*page.evaluate(SLOT, [source[0], False, source[1]]))
    page.mouse.down()
    page.mouse.move(*page.evaluate(SLOT, [target[0], True, target[1]]), steps=8)
    page.mouse.up()


def place_first_found(page, search):
    """Add the first node that a search of the canvas finds."""
    nodes = page.evaluate("window.app.graph.nodes.length")
    page.mouse.dblclick(*EMPTY)
    page.keyboard.type(search, delay=30)
    page.wait_for_timeout(700)  # the list follows what is typed
    page.keyboard.press("Enter")
    page.wait_for_function("nodes => window.app.graph.nodes.length == nodes + 1", arg=nodes)
    page.wait_for_timeout(700)
    page.mouse.click(*EMPTY, delay=50)  # it hangs on the pointer until then


def run_by_the_button(page, server):
    page.evaluate("window.titles.length = 0")
    page.get_by_test_id("queue-button").click()
    wait_for_the_end(page, server)


def picture_of(page):
    """Where the picture is that the graph's only SaveImage shows."""
    find = "window.app.graph.findNodesByType('SaveImage')[0]"
    page.wait_for_function(f"() => {find}.imgs?.[0]?.naturalWidth && !{find}.imgs[0].src.startsWith('blob:')")
    return page.evaluate(f"{find}.imgs[0].src")


@pytest.mark.parametrize(
    ("search", "node"),
    [("steady epsilon", "SteadyDiffEpsilonScaling"), ("auto correct", "SteadyDiffAuto")],
)
def test_one_node_in_the_stock_template_corrects_it(page, server, search, node):
    """Two links, and no number typed."""
    page.evaluate(STOCK, len(search))  # a picture that was not drawn before
    run_by_the_button(page, server)
    before = picture_of(page)
    links = page.evaluate(WIRES)
    place_first_found(page, search)
    assert page.evaluate(f"window.app.graph.findNodesByType('{node}').length") == 1
    drag(page, ["SteadyDiffTinyWorld", "MODEL"], [node, "model"])
    drag(page, [node, "MODEL"], ["KSampler", "model"])
    assert page.evaluate(WIRES) == links + 1  # the sampler's old one is gone
    page.evaluate(  # at half the time, for the test alone
        "graph => window.app.graph.findNodesByType('SteadyDiffAuto').forEach(node => node.widgets.find("
        "widget => widget.name == 'quality').value = 'quick')"
    )
    assert page.evaluate(BROKEN) == []
    run_by_the_button(page, server)
    page.wait_for_function(
        "src => window.app.graph.findNodesByType('SaveImage')[0].imgs[0].src != src", arg=before
    )
    picture_of(page)
    shot(page, f"stock {node}")


@pytest.mark.parametrize(
    "text",
    [(ROOT / "README.md").read_text(encoding="utf-8"), next(iter(TEMPLATES.values()))[0]],
    ids=["README", "template 1"],
)
def test_what_one_is_told_to_type_finds_the_node_first(page, text):
    """ComfyUI has an Epsilon Scaling of its own."""
    [(search, title)] = re.findall(r"type \*(.+?)\*,\s+and put \*(.+?)\*", text)
    page.evaluate(STOCK, 1)
    before = page.evaluate("window.app.graph.nodes.length")
    place_first_found(page, search)
    titles = page.evaluate("window.app.graph.nodes.map(node => node.title)")
    assert titles[before:] == [f"{title} (SteadyDiff)"]


# Shows a node's output as text, in a node that ends the graph: [type, output].
TELL = """([type, name]) => {
    const graph = window.app.graph, [source] = graph.findNodesByType(type)
    const told = LiteGraph.createNode('PreviewAny')
    graph.add(told)
    told.pos = [0, 500]
    source.connect(source.outputs.findIndex(output => output.name == name), told, 0)
}"""
TOLD = "() => window.app.graph.findNodesByType('PreviewAny')[0].widgets.map(widget => widget.value).join(' ')"


def template(number):
    return next(name for name in TEMPLATES if name.startswith(number))


def test_compare_says_that_a_model_without_our_nodes_is_identical(page, server):
    open_template(page, template("1"))
    fit_for(page, server, template("1"))
    page.evaluate(TELL, ["SteadyDiffCompare", "info"])
    run_by_the_button(page, server)
    page.wait_for_function(f"() => ({TOLD})().includes('mean difference')")
    page.evaluate(
        """() => {
            const find = type => window.app.graph.findNodesByType(type)[0]
            find('SteadyDiffTinyWorld').connect(0, find('SteadyDiffCompare'), 0)
        }"""
    )
    run_by_the_button(page, server)
    page.wait_for_function(f"() => ({TOLD})().includes('identical: nothing acted')")
    shot(page, "identical")


SET = """([type, name, value]) => {
    const [node] = window.app.graph.findNodesByType(type)
    node.widgets.find(widget => widget.name == name).value = value
}"""


def told_of_the_fit(page):
    """What Compare says, without its first line of how the two pictures differ."""
    return page.evaluate(TOLD).partition("\n")[2]


def test_auto_correct_measures_once_and_refuses_what_it_cannot_measure(page, server):
    open_template(page, template("4"))
    fit_for(page, server, template("4"))
    page.evaluate(SET, ["SteadyDiffCompare", "steps", 6])
    kept = server.base / "models" / "steadydiff_schedules" / "auto"
    before = set(kept.glob("*"))
    run_by_the_button(page, server)
    [made] = set(kept.glob("*")) - before
    page.wait_for_function(f"name => ({TOLD})().includes(name)", arg=made.name)
    first, written = told_of_the_fit(page), made.stat().st_mtime_ns
    page.evaluate(SET, ["CLIPTextEncode", "text", "a large red star"])
    run_by_the_button(page, server)
    page.wait_for_function(f"() => ({TOLD})().includes('Measured with another prompt.')")
    assert told_of_the_fit(page).replace("Measured with another prompt.\n", "") == first
    assert made.stat().st_mtime_ns == written and set(kept.glob("*")) - before == {made}
    shot(page, "measured once")
    page.evaluate(SET, ["SteadyDiffCompare", "sampler_name", "euler_cfg_pp"])
    page.get_by_test_id("queue-button").click()
    page.get_by_role("button", name="View details").click()
    page.get_by_text("not of the CFG++ kind").first.wait_for()
    shot(page, "refused by Auto Correct")


def test_a_fresh_node_shows_the_defaults_it_declares(page, server):
    shown = page.evaluate(
        """names => Object.fromEntries(names.map(name => [name, Object.fromEntries(
            (LiteGraph.createNode(name).widgets ?? []).map(widget => [widget.name, widget.value]))]))""",
        HELP,
    )
    for name in HELP:
        declared = server.client.get(f"/object_info/{name}")[name]["input"]
        for one, (_, *options) in {**declared["required"], **declared.get("optional", {})}.items():
            if options and "default" in options[0]:
                assert shown[name][one] == options[0]["default"], (name, one)


@pytest.mark.parametrize("name", HELP)
def test_a_help_page_opens(page, name):
    title = page.evaluate(
        """name => {
            const node = LiteGraph.createNode(name)
            window.app.graph.clear()
            // The page gives a new node the values that the last one of the same id had, by their names.
            window.app.graph.last_node_id = window.latest = (window.latest ?? 1000) + 1
            window.app.graph.add(node)
            window.app.canvas.ds.scale = 1
            window.app.canvas.centerOnNode(node)
            window.app.canvas.selectNodes([node])
            return node.title
        }""",
        name,
    )
    page.get_by_test_id("info-button").click()
    first = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8").splitlines()[0]
    page.get_by_role("heading", name=first.removeprefix("# "), level=1).wait_for()
    assert first == f"# {title}"
    shot(page, f"help_{name}")


def test_a_wrong_file_shows_its_sentence(page):
    open_template(page, template("7"))
    page.evaluate(
        """() => window.app.graph.nodes.find(node => node.type == 'SteadyDiffLoadAntiBias')
            .widgets.find(widget => widget.name == 'file').value = 'tinyworld/antibias_flow.safetensors'"""
    )
    page.get_by_test_id("queue-button").click()
    page.get_by_role("button", name="View details").click()
    page.get_by_text("was trained for states of the kind flow").first.wait_for()
    shot(page, "refused")


# Drops a file on the page, as a hand does.
DROP = """([bytes, name]) => {
    const held = new DataTransfer()
    held.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}))
    document.querySelector('canvas').dispatchEvent(
        new DragEvent('drop', {dataTransfer: held, bubbles: true, cancelable: true}))
}"""


def test_a_demo_picture_dropped_on_the_page_brings_its_workflow(page, server):
    name = "epsilon_scaling"
    api = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    drawn = draw(api, server.client.get("/object_info"))
    outputs = server.client.run(api, drawn=drawn)
    picture = server.client.image(outputs["save_scaled"]["images"][0])
    page.evaluate("window.app.graph.clear()")
    page.evaluate(DROP, [list(picture), f"{name}.png"])
    page.wait_for_function("n => window.app.graph.nodes.length == n", arg=len(drawn["nodes"]))
    assert page.evaluate(BROKEN) == []
    titles = page.evaluate("window.app.graph.nodes.map(node => node.title)")
    assert {node["title"] for node in drawn["nodes"] if "title" in node} <= set(titles)
    shot(page, "dropped")


def test_chinese_names_are_shown(page, server):
    server.client.request("POST", "/settings", {"Comfy.Locale": "zh"})
    page.goto(server.address)
    page.wait_for_function(READY)
    title = "() => LiteGraph.createNode('SteadyDiffTrainAntiBias').title"
    page.wait_for_function(f"() => ({title})() == '训练抗偏差模型 (SteadyDiff)'")
