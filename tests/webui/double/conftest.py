"""The double: a WebUI's `modules` of a few hundred lines, as A1111 or as Forge, and a strict `gradio`.

`facts.py` asks it and the real hosts the same questions; `expected.json` is what both have to answer.
"""

import contextlib
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SCRIPT = ROOT / "scripts" / "steadydiff_script.py"
OURS = ("modules", "backend", "gradio", "fastapi", "tiny", "facts", "steadydiff_webui")


@contextlib.contextmanager
def loaded(flavour):
    """The double's modules in this process, for as long as the block lasts."""
    kept = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in OURS}
    own = [HERE, *([HERE / "forge"] if flavour == "forge" else []), ROOT / "tools" / "webui_host"]
    before, sys.path = sys.path, [*map(str, own), *sys.path]
    try:
        names = ("errors", "processing", "script_callbacks", "scripts", "sd_models", "sd_samplers", "shared")
        modules = {name: importlib.import_module(f"modules.{name}") for name in names}
        shared, models = modules["shared"], modules["sd_models"]
        shared.opts.data["skip_early_cond"] = 0.0
        shared.sd_model = models.ForgeModel() if flavour == "forge" else models.SdModel()
        yield SimpleNamespace(**modules, facts=importlib.import_module("facts").FACTS, flavour=flavour)
        shared.folder.cleanup()
    finally:
        sys.path = before
        for name in [*sys.modules]:
            if name.partition(".")[0] in OURS:
                del sys.modules[name]
        sys.modules.update(kept)


@pytest.fixture(scope="module", params=["a1111", "forge"])
def webui(request):
    with loaded(request.param) as double:
        yield double


@pytest.fixture(scope="module")
def expected(webui):
    """What hosts of this kind answer."""
    return json.loads((HERE / "expected.json").read_text(encoding="utf-8"))[webui.flavour]


@pytest.fixture(scope="module")
def script(webui):
    """The runner of txt2img after the host's start, with our script in it."""
    webui.scripts.load_scripts(SCRIPT)
    runner = webui.scripts.ScriptRunner()
    runner.initialize_scripts(is_img2img=False)
    runner.setup_ui()
    assert webui.errors.exceptions == []
    return runner


@pytest.fixture
def draw(webui, script):
    """Return a function that makes pictures with panels' values by name, or without us."""

    def draw(named=None, **given):
        kind = "Img2Img" if "init_images" in given else "Txt2Img"
        made_of = getattr(webui.processing, f"StableDiffusionProcessing{kind}")
        base = {"prompt": "a cat", "negative_prompt": "a dog", "seed": 5, "steps": 3, "cfg_scale": 3.0}
        p = made_of(**{**base, **given})
        p.scripts, p.script_args = script, [one.value if one else 0 for one in script.inputs]
        if named is not None:
            p.script_args[1] = named
        torch.manual_seed(0)  # Forge draws from it behind masks
        processed = webui.processing.process_images(p)
        assert webui.errors.exceptions == []
        return processed

    return draw
