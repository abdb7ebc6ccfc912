"""The panels in a WebUI's own page, in headless Chromium: how high they are, what they show and say.

`python3 run.py test --webui --browser` names hosts and browser. Screenshots are kept in output/browser/.
"""

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    "STEADYDIFF_CHROMIUM" not in os.environ, reason="STEADYDIFF_CHROMIUM names no browser"
)
SHOTS = Path(__file__).resolve().parents[3] / "output" / "browser"
OURS = "#script_txt2img_steadydiff_"
ARPO = "#steadydiff_arpo_"
ENTRIES = "ul[role=listbox] li, ul.options li"
PATIENCE = 300_000  # milliseconds; a change takes a tenth of a second on an idle core
HEIGHT = "name => document.querySelector(name).getBoundingClientRect().height"
LABEL = "([name, text]) => document.querySelector(name + ' .label-wrap').innerText.trim().startsWith(text)"
SHOWN = "names => names.filter(name => document.querySelector(name)?.checkVisibility())"
SOURCES = {
    "scale and slope": ["scale", "slope"],
    "table": ["table"],
    "snr": ["tsr_k", "tsr_sigma"],
    "dcw": ["dcw_lambda"],
    "file": ["schedule_file"],
}
INFOTEXT = """a cat
Steps: 4, Sampler: Euler, CFG scale: 3, Seed: 5, Size: 64x64, SteadyDiff Epsilon Scaling scale: 1.005, \
SteadyDiff Epsilon Scaling schedule: table, \
SteadyDiff DiffIER mode: renoise, SteadyDiff DiffIER strength: 0.3"""


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = os.environ["STEADYDIFF_CHROMIUM"] or None
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(served, browser):
    """txt2img as it opens, with our accordion opened."""
    page = browser.new_page(viewport={"width": 1600, "height": 950})
    page.set_default_timeout(PATIENCE)
    page.goto(served[1], wait_until="domcontentloaded")
    page.wait_for_function("() => window.gradioApp?.().querySelector('.input-accordion-checkbox')")
    says(page, "SteadyDiff: off")
    page.click(f"{OURS}steadydiff .label-wrap >> nth=0")
    yield page
    page.close()


def says(page, text):
    """Wait until the header begins so."""
    page.wait_for_function(LABEL, arg=[f"{OURS}steadydiff", text])


def switch_on(page, name):
    page.click(f"{OURS}{name} .label-wrap >> nth=0")


def choose(page, name, text):
    """Pick an entry of a list."""
    page.click(f"{OURS}{name} input")
    page.locator(ENTRIES).filter(has_text=text).first.click()


def shot(page, served, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.locator(f"{OURS}steadydiff").screenshot(
        path=SHOTS / f"webui_{served[0].replace(' ', '_')}_{name}.png"
    )


def test_opened_panels_are_low_and_the_header_names_what_is_on(page, served):
    switch_on(page, "epsilon_scaling")
    says(page, "SteadyDiff: Epsilon Scaling 1.005")
    shot(page, served, "epsilon_scaling")
    assert page.evaluate(HEIGHT, f"{OURS}epsilon_scaling") <= 240
    for name in ("diffier", "antibias_prompt", "mdss"):
        switch_on(page, name)
    says(page, "SteadyDiff: Epsilon Scaling 1.005, DiffIER 0.5, Anti-Bias Prompt 1, MDSS 1")
    shot(page, served, "all")
    assert page.evaluate(HEIGHT, f"{OURS}steadydiff") <= 620
    page.locator(f"{OURS}epsilon_scaling_scale input").fill("1.0123")
    says(page, "SteadyDiff: Epsilon Scaling 1.0123, DiffIER 0.5")


def test_only_what_serves_the_source_is_shown(page):
    switch_on(page, "epsilon_scaling")
    names = {name: f"{OURS}epsilon_scaling_{name}" for names in SOURCES.values() for name in names}
    for source, expected in [*SOURCES.items()][1:] + [*SOURCES.items()][:1]:
        choose(page, "epsilon_scaling_schedule", source)
        says(page, f"SteadyDiff: Epsilon Scaling {source if expected != ['scale', 'slope'] else 1.005}")
        page.wait_for_function(f"name => ({SHOWN})([name]).length", arg=names[expected[0]])
        assert page.evaluate(SHOWN, [*names.values()]) == [names[name] for name in expected]
        if source == "file":
            assert "Calibrate makes one" in page.inner_text(f"{names['schedule_file']}_none >> nth=0")


def test_a_loader_without_files_says_whence_and_the_page_opens(page, served, browser):
    for name, heading in (("antibias_prompt", "# Anti-bias prompt"), ("mdss", "# MDSS")):
        switch_on(page, name)
        note = page.locator(f"{OURS}{name}_file_none >> nth=0")
        assert "must be trained for your checkpoint" in note.inner_text()
        help_page = browser.new_page()
        help_page.goto(f"{served[1]}/{note.locator('a').first.get_attribute('href')}")
        assert help_page.inner_text("body").startswith(heading)
        help_page.close()


def test_a_starting_value_says_its_source_and_all_is_reset(page, served):
    choose(page, "presets_name", "anime")
    page.click(f"{OURS}presets_use")
    says(page, "SteadyDiff: Epsilon Scaling 1.02")
    page.locator(f"{OURS}presets_said", has_text="pull request 434").first.wait_for()
    shot(page, served, "starting")
    page.click(f"{OURS}presets_reset")
    says(page, "SteadyDiff: off")


def test_a_pasted_infotext_shows_and_names_what_it_switches_on(page):
    page.fill("#txt2img_prompt textarea", INFOTEXT)
    page.click("#paste")
    says(page, "SteadyDiff: Epsilon Scaling table, DiffIER 0.3")
    page.wait_for_function(f"name => ({SHOWN})([name]).length", arg=f"{OURS}epsilon_scaling_table")


def test_arpos_tab_is_low_and_shows_the_server_only_if_it_is_asked(page, served):
    page.locator("#tabs > .tab-nav button", has_text="SteadyDiff ARPO").first.click()
    page.wait_for_function(f"name => ({SHOWN})([name]).length", arg=f"{ARPO}start")
    assert page.evaluate(SHOWN, [f"{ARPO}server"]) == []
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.locator("#tab_steadydiff_arpo").screenshot(
        path=SHOTS / f"webui_{served[0].replace(' ', '_')}_arpo.png"
    )
    for part in ("drawing", "search", "bank", "scorer"):
        page.click(f"{ARPO}{part} .label-wrap >> nth=0")
        page.locator(f"{ARPO}{part} .label-wrap.open").first.wait_for()
    page.screenshot(path=SHOTS / f"webui_{served[0].replace(' ', '_')}_arpo_open.png", full_page=True)
    assert page.evaluate(HEIGHT, f"{ARPO}settings") <= 900
    page.click(f"{ARPO}proposer_proposer input")
    page.locator(ENTRIES).filter(has_text="chat server").first.click()
    page.wait_for_function(f"name => ({SHOWN})([name]).length", arg=f"{ARPO}server")


def test_arpos_drawing_settings_are_txt2imgs_until_they_are_its_own(page):
    page.locator("#tabs > .tab-nav button", has_text="SteadyDiff ARPO").first.click()
    page.wait_for_function(f"name => ({SHOWN})([name]).length", arg=f"{ARPO}start")
    clip = page.locator(f"{ARPO}clip").first
    page.wait_for_function(
        "name => document.querySelector(name).innerText.includes('CLIP')", arg=f"{ARPO}clip"
    )
    assert "CLIP" in clip.inner_text()
    page.click(f"{ARPO}drawing .label-wrap >> nth=0")
    page.wait_for_function(f"name => ({SHOWN})([name]).length", arg=f"{ARPO}take")
    assert page.evaluate(SHOWN, [f"{ARPO}drawing_steps"]) == []
    page.click(f"{ARPO}take input")
    page.wait_for_function(f"name => ({SHOWN})([name]).length", arg=f"{ARPO}drawing_steps")
