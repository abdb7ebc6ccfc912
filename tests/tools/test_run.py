"""The launcher without a host or a network: what it keeps, what it refuses, and in which words."""

# Over 400 lines: one launcher, and every refusal of it.

import contextlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import run
from tools.launch import demo, environment
from tools.launch import find_comfyui as host
from tools.launch.console import Stop, tail

REPOSITORY = Path(run.__file__).parent


@pytest.fixture
def no_network():
    """These tests talk to servers of their own on this machine, which the general guard would refuse."""


# --- the interpreter --------------------------------------------------------------------------------------


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A folder that looks like a virtual environment."""
    python = environment.venv_python(tmp_path / "venv")
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / "venv" / "pyvenv.cfg").write_text("home = somewhere\nversion = 3.11.7\n")
    return tmp_path / "venv"


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.txt"
    file.write_text("torch==1\n")
    return file


def test_a_stamp_holds_until_requirements_python_or_the_stamp_itself_change(venv: Path, requirements: Path):
    assert not environment.stamp_matches(venv, requirements)
    environment.write_stamp(venv, requirements)
    assert environment.stamp_matches(venv, requirements)

    requirements.write_text("torch==2\n")
    assert not environment.stamp_matches(venv, requirements)
    environment.write_stamp(venv, requirements)

    (venv / "pyvenv.cfg").write_text("version = 3.12.1\n")
    assert not environment.stamp_matches(venv, requirements)
    environment.write_stamp(venv, requirements)

    stamp = venv / "steadydiff-complete.json"
    stamp.write_text(stamp.read_text()[:20])
    assert not environment.stamp_matches(venv, requirements)
    environment.write_stamp(venv, requirements)

    environment.venv_python(venv).unlink()
    assert not environment.stamp_matches(venv, requirements)


def test_an_interrupted_install_is_repeated_and_a_complete_one_is_not(venv, requirements, monkeypatch):
    calls = []

    def pip(python: Path, arguments: list[str], purpose: str) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise Stop("no network")

    monkeypatch.setattr(environment, "pip", pip)
    monkeypatch.setattr(environment, "_create", lambda venv: None)
    monkeypatch.setattr(environment, "setup_lock", contextlib.nullcontext)
    with pytest.raises(Stop):
        environment.ensure_venv(venv, requirements)
    assert not environment.stamp_matches(venv, requirements)
    for _ in range(2):
        assert environment.ensure_venv(venv, requirements) == environment.venv_python(venv)
    assert len(calls) == 2


def test_packages_whose_install_was_cut_off_are_forgotten(venv: Path):
    packages = venv / "lib" / "python3.11" / "site-packages"
    for name, files in {
        "whole-1.dist-info": ["METADATA", "INSTALLER"],
        "half-1.dist-info": ["METADATA"],
    }.items():
        (packages / name).mkdir(parents=True)
        for file in files:
            (packages / name / file).touch()
    environment.forget_unfinished(venv)
    assert [record.name for record in packages.iterdir()] == ["whole-1.dist-info"]


@pytest.mark.slow
def test_an_old_python_gets_one_sentence_before_anything_is_imported(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    monkeypatch.setitem(sys.modules, "argparse", None)  # importing it would now fail
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(REPOSITORY / "run.py"), run_name="__main__")
    assert stopped.value.code == "SteadyDiff needs Python 3.10 or newer; this is Python 3.9."


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"python": [3, 9, 18], "missing": []}, "'python' is Python 3.9.18; SteadyDiff needs 3.10 or newer."),
        ({"python": [3, 12, 1], "missing": ["torch", "av"]}, "'python' lacks torch, av; install them there"),
    ],
)
def test_a_named_interpreter_that_does_not_fit_is_refused(monkeypatch, facts: dict, sentence: str):
    done = subprocess.CompletedProcess([], 0, json.dumps(facts))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(Stop, match=sentence):
        environment.check_interpreter("python", ("torch", "av"))


def test_torch_is_asked_for_an_accelerator_once(tmp_path, monkeypatch):
    cache = tmp_path / "gpu.json"
    cache.write_text('{"cut o')
    answers = [subprocess.CompletedProcess([], 0, "True\n")]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answers.pop())
    assert [environment.has_gpu(Path("python"), cache) for _ in range(2)] == [True, True]


def test_the_last_words_of_a_log_come_without_colours(tmp_path):
    (tmp_path / "log").write_text("first\n\x1b[1m\x1b[31m[ERROR]\x1b[0m last\n")
    assert tail(tmp_path / "log", 1) == "[ERROR] last"


def test_the_running_interpreter_fits():
    assert environment.check_interpreter(sys.executable, ("json",)) == Path(sys.executable)


def test_what_is_no_interpreter_ends_in_one_sentence_and_exit_code_1(capsys, tmp_path):
    assert run.main(["test", "--fast", "--python", str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is not an interpreter that runs" in error


@pytest.mark.parametrize(
    ("output", "sentence", "detail"),
    [
        ("Retrying: NewConnectionError(...)\nERROR: No matching distribution", "no connection", ""),
        ("OSError: [Errno 28] No space left on device", "the disk is full", ""),
        ("ERROR: something else", "pip failed as shown above", "ERROR: something else"),
    ],
)
def test_pip_failures_are_explained(tmp_path, output: str, sentence: str, detail: str):
    python = _script(tmp_path, f"print({output!r}); raise SystemExit(1)")
    with pytest.raises(Stop, match=f"Could not get it: {sentence}") as stopped:
        environment.pip(python, ["install"], "get it", tmp_path / "pip.log")
    assert stopped.value.detail == detail


def _script(folder: Path, source: str) -> Path:
    """An executable that runs Python source whatever its arguments are."""
    if os.name == "nt":
        (folder / "script.py").write_text(source)
        file = folder / "script.bat"
        file.write_text(f'@"{sys.executable}" "{folder / "script.py"}"\n')
    else:
        file = folder / "script"
        file.write_text(f"#!{sys.executable}\n{source}\n")
        file.chmod(0o755)
    return file


# --- the demo ---------------------------------------------------------------------------------------------


def graph(baseline_seed: int = 1, corrected_seed: int = 1) -> dict:
    """Two sampled columns, the corrected one first in the file."""
    return {
        "1": {"class_type": "Loader", "inputs": {}},
        "5": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "seed": corrected_seed, "steps": 4}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "w/corrected"}},
        "2": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "seed": baseline_seed, "steps": 4}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "w/baseline"}},
    }


def test_the_baseline_is_the_left_column():
    assert list(demo.columns(graph()).items()) == [("baseline", "3"), ("corrected", "6")]


def test_a_workflow_may_name_the_rows():
    named = graph()
    assert demo.rows(named) == []
    named["6"]["_meta"] = {"rows": ["cfg 2", "cfg 4"]}
    assert demo.rows(named) == ["cfg 2", "cfg 4"]


def test_seeds_and_settings_are_read_from_the_graph():
    trained = graph(7, 8) | {"train": {"class_type": "Train", "inputs": {"seed": 9}}}
    trained["1"]["inputs"]["base"] = ["train", 0]  # its seed draws no picture
    assert demo.seeds_above(trained, "3") == [7]
    assert demo.settings(graph(7, 8))[0] == {"node": "5", "class_type": "KSampler", "seed": 8, "steps": 4}


def test_workflows_that_cannot_be_compared_or_found_are_refused(tmp_path):
    folder = tmp_path / "workflows" / "api"
    folder.mkdir(parents=True)
    with pytest.raises(Stop, match="There is no workflow in workflows/api.$"):
        demo.load_graphs(folder, None)
    (folder / "good.json").write_text(json.dumps(graph()))
    assert list(demo.load_graphs(folder, None)) == ["good"]
    with pytest.raises(Stop, match="There is no workflow 'other' in workflows/api; there are: good"):
        demo.load_graphs(folder, "other")
    (folder / "seeds.json").write_text(json.dumps(graph(1, 2)))
    with pytest.raises(Stop, match="'seeds' compares columns of different seeds"):
        demo.load_graphs(folder, "seeds")
    (folder / "empty.json").write_text("{}")
    with pytest.raises(Stop, match="'empty' has no SaveImage node"):
        demo.load_graphs(folder, "empty")


@pytest.mark.parametrize(
    ("labels", "first"),
    [(["antibias", "arpo", "measure"], ["arpo", "measure"]), (["antibias"], ["antibias"])],
    ids=["all", "one"],
)
@pytest.mark.parametrize("opens", [True, False])
def test_the_demo_points_out_the_sheets_worth_seeing_and_opens_them(
    capsys, monkeypatch, tmp_path, labels, first, opens
):
    opened = []
    monkeypatch.setattr(demo.webbrowser, "open", lambda url: opened.append(url) or opens)
    sheets = {label: tmp_path / f"{label}_sheet.png" for label in labels}
    demo.point_out(sheets, shown=False)
    said = capsys.readouterr().out
    assert [line.strip() for line in said.splitlines() if ".png" in line] == [str(sheets[f]) for f in first]
    assert opened == []
    demo.point_out(sheets, shown=True)
    assert opened == [sheets[label].as_uri() for label in first]
    assert ("by hand" in capsys.readouterr().out) is not opens


def test_the_sheets_worth_seeing_first_are_of_workflows_that_exist():
    assert demo.FIRST.keys() <= {file.stem for file in demo.WORKFLOWS.glob("*.json")}


@pytest.mark.parametrize("words", [[], ["--open"]])
def test_the_demo_is_told_whether_to_open_them(monkeypatch, words):
    calls = []
    monkeypatch.setattr(run, "ensure_host", lambda *_: None)
    monkeypatch.setattr(run, "run_demo", lambda *call: calls.append(call))
    assert run.main(["demo", *words]) == 0
    assert calls == [(None, run.STARTED, None, bool(words))]


# --- the commands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "codes", "expected"),
    [
        (["test"], [0, 0], 0),
        (["test"], [1, 0], 1),
        (["test"], [0, 1], 1),
        (["test"], [0, 5], 5),
        (["test"], [5, 0], 5),
        (["test", "-k", "name"], [0, 5], 0),
        (["test", "-k", "name"], [5, 0], 0),
        (["test", "-k", "name"], [5, 5], 5),
        (["test", "-k", "name"], [1, 5], 5),
        (["test", "--fast"], [0], 0),
        (["test", "--fast"], [5], 5),
    ],
)
def test_a_failing_or_empty_suite_fails_the_command(monkeypatch, arguments, codes, expected):
    remaining = list(codes)
    found = host.Host(Path("comfy"), "0.30.0", Path("python"))
    monkeypatch.setattr(run, "ensure_host", lambda *_, **__: found)
    monkeypatch.setattr(run, "ensure_venv", lambda: Path("python"))
    monkeypatch.setattr(run, "python_in_root", lambda *_: remaining.pop(0))
    assert run.main(arguments) == expected
    assert remaining == []


@pytest.mark.parametrize("is_named", [False, True])
def test_what_is_compiled_is_kept_apart_where_no_bytecode_is_wanted_beside_sources(
    monkeypatch, capfd, tmp_path, is_named
):
    named = str(tmp_path) if is_named else ""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", named)
    if not named:
        monkeypatch.delenv("PYTHONPYCACHEPREFIX")
    asked = "import sys; print(sys.pycache_prefix, sys.dont_write_bytecode)"
    assert run.python_in_root(Path(sys.executable), ["-c", asked]) == 0
    assert capfd.readouterr().out.split() == [named or str(environment.HOSTS / "bytecode"), "False"]


def test_the_host_suite_runs_in_a_checkout_that_is_named(tmp_path, monkeypatch):
    (tmp_path / "main.py").touch()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.33.0"\n', encoding="utf-8")
    calls = []
    monkeypatch.setenv("COMFYUI_PATH", "another")
    monkeypatch.setattr(host, "ensure_venv", lambda: Path("python"))
    monkeypatch.setattr(run, "python_in_root", lambda *call: calls.append(call) or 0)
    assert run.main(["test", "--comfyui", str(tmp_path)]) == 0
    assert calls[1][2] == host.Host(tmp_path, "0.33.0", Path("python"))
    with pytest.raises(SystemExit, match="2"):  # no host at all, and this one
        run.main(["test", "--fast", "--comfyui", str(tmp_path)])


def test_the_fast_suite_is_the_usual_one_without_slow_tests():
    usual = run.FAST[1].removeprefix("not slow and ")
    assert f"\n-m '{usual}'\n" in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def test_few_leaves_out_all_but_the_first_sets_of_parameters(request):
    [shared] = [one for one in request.config.pluginmanager.get_plugins() if hasattr(one, "AWKWARD_SHAPES")]
    for few, left in ((None, 2), (3, 2), (1, 1)):
        items = [request.node] * 2
        shared.pytest_collection_modifyitems(SimpleNamespace(option=SimpleNamespace(few=few)), items)
        assert len(items) == left


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["train", "nothing"],
            "There is no training 'nothing'; there are: tinyworld, photos, antibias, mdss.",
        ),
        (["bench", "nothing"], "There is no bench 'nothing'; there are: "),
        (["demo", "--fast"], "Unknown argument '--fast'"),
    ],
)
def test_unknown_names_and_arguments_are_refused(capsys, arguments, sentence):
    assert run.main(arguments) == 1
    assert sentence in capsys.readouterr().err


def test_an_archive_without_tests_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert run.main(["test"]) == 1
    assert "The repository has them" in capsys.readouterr().err


def test_further_arguments_reach_the_trainer(monkeypatch):
    calls = []
    monkeypatch.setattr(run, "ensure_venv", lambda: Path("python"))
    monkeypatch.setattr(run, "python_in_root", lambda *call: calls.append(call) or 0)
    assert run.main(["train", "tinyworld", "--steps", "5"]) == 0
    assert calls == [(Path("python"), ["-m", "steadydiff.tinyworld.train", "--steps", "5"], None)]


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["train", "antibias"], ["tools.train.antibias"]),
        (["train", "mdss", "--images", "folder"], ["tools.train.mdss"]),
        (["train", "photos"], ["steadydiff.tinyworld.photos.train"]),
        (["mdss", "convert"], ["tools.train.convert", "convert"]),
        (["bench", "tables"], ["tools.bench.tables.all"]),
        (["mdss"], ["tools.train.convert"]),
        (["arpo"], ["tools.launch.arpo"]),
        (["arpo", "scene:7"], ["tools.launch.arpo", "scene:7"]),
    ],
    ids=lambda value: " ".join(value),
)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_that_of_the_program_that_takes_the_options(monkeypatch, arguments, module, flag):
    """And needs no host."""
    calls = []
    monkeypatch.setattr(run, "ensure_venv", lambda: Path("python"))
    monkeypatch.setattr(run, "python_in_root", lambda *call: calls.append(call) or 0)
    with pytest.raises(SystemExit, match="0"):
        run.main([*arguments, flag])
    assert [(python, words) for python, words, *_ in calls] == [(Path("python"), ["-m", *module, "--help"])]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["bench", "photos"], ("run.py bench photos", "--data", "--sheet", "--quick")),
        (["bench", "mdss"], ("run.py bench mdss", "--curves", "--again", "relatives")),
        (["train"], ("antibias", "NAME --help")),
        (["bench"], ("tables", "NAME")),
        (["test"], ("--browser",)),
        ([], ("COMMAND",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_help_that_the_launcher_has_itself(capsys, arguments, shown):
    with pytest.raises(SystemExit, match="0"):
        run.main([*arguments, "--help"])
    text = capsys.readouterr().out
    assert [word for word in shown if word not in text] == []


def test_a_command_without_its_name_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        run.main(["train"])
    assert "NAME" in capsys.readouterr().err


@pytest.mark.parametrize(("base", "asked"), [("tinyworld:flow", 0), ("sd15.safetensors", 1)])
def test_pictures_for_the_tiny_world_are_refused_without_fetching_a_host(monkeypatch, base, asked):
    hosts = []
    found = host.Host(Path("comfy"), "0.30.0", Path("python"))
    monkeypatch.setattr(run, "ensure_host", lambda *_: hosts.append(found) or found)
    monkeypatch.setattr(run, "ensure_venv", lambda: Path("python"))
    monkeypatch.setattr(run, "python_in_root", lambda *_: 1)
    assert run.main(["train", "mdss", "--base", base, "--images", "folder"]) == 1
    assert len(hosts) == asked


@pytest.mark.parametrize("browser", [False, True])
def test_webuis_borrow_from_the_hosts_python_even_where_a_browser_drives_them(browser, monkeypatch):
    """An environment that borrows has nothing to lend: packages of a second hand are not found."""
    base, driving, lent, ran = Path("base"), Path("driving"), [], []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    gradio = f"STEADYDIFF_GRADIO{run.webui.KINDS[0].gradio}"
    monkeypatch.setenv(gradio, "")
    monkeypatch.setattr(run, "ensure_host", lambda *_, **__: host.Host(Path("comfy"), "0", base))
    monkeypatch.setattr(run, "with_browser", lambda python: driving)
    monkeypatch.setattr(run, "browser_suite", lambda *_: 0)
    monkeypatch.setattr(run.webui, "named", lambda: [run.webui.KINDS[0]])
    monkeypatch.setattr(run.webui, "ensure_python", lambda python, gradio: lent.append(python))
    monkeypatch.setattr(run, "pytest", lambda python, words, host=None: ran.append((python, words)) or 0)
    words = ["test", "--webui", *(["--browser"] if browser else [])]
    options = run.parser().parse_args(words)
    assert run.test(options, []) == 0
    assert lent == [base]
    assert ran[-1][0] == (driving if browser else base) and "webui" in ran[-1][1]
