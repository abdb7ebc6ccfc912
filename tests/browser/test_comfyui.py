"""ComfyUI's own pages in headless Chromium: templates, help pages and errors as their users meet them.

`python3 run.py test --browser` names the host and the browser. Screenshots are kept in output/browser/.
"""

import json
import os
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
    page.evaluate("window.titles.length = 0")
    page.get_by_test_id("queue-button").click()
    wait_for_the_end(page, server)
    page.wait_for_function(
        f"() => (shown => shown.length && shown.every(([_, ...widths]) => widths.length"
        f" && widths.every(w => w)))(({SHOWN})())"
    )
    shot(page, name)


@pytest.mark.parametrize("name", HELP)
def test_a_help_page_opens(page, name):
    title = page.evaluate(
        """name => {
            const node = LiteGraph.createNode(name)
            window.app.graph.clear()
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
    open_template(page, next(name for name in TEMPLATES if name.startswith("7")))
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
