"""Starts a real WebUI in this process, headless on the CPU, with the extensions of a data folder."""

import importlib
import importlib.util
import os
import sys

import stubs


def start(root: str, data: str, *more: str) -> None:
    """Import and initialise the host of folder `root`; afterwards its `modules.*` are ready for pictures.

    Flags are read from sys.argv when the host is imported, so nothing of it may be imported earlier.
    """
    stubs.install()
    flags = ["--data-dir", data, "--skip-torch-cuda-test", "--ui-debug-mode", "--skip-version-check"]
    flags += ["--disable-console-progressbars", "--no-hashing"]
    os.environ["IGNORE_CMD_ARGS_ERRORS"] = "1"  # the hosts know different ones
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.pop("COMMANDLINE_ARGS", None)
    flags += ["--no-half", "--use-cpu", "all", "--do-not-download-clip", "--always-cpu", "--cpu"]
    sys.argv = ["launch.py", *flags, *more]
    os.chdir(root)
    sys.path.insert(0, root)
    if importlib.util.find_spec("modules_forge"):
        module = importlib.import_module("modules_forge.initialization")
        module.initialize_forge()
    initialize = importlib.import_module("modules.initialize")
    initialize.imports()
    initialize.initialize()
    importlib.import_module("modules.sd_models").list_models()
    quiet()
    tiny_model().install()


def run_webui() -> None:
    """Hand over to the host's own program."""
    program().webui()
    if loop := first_threads_loop():
        loop()


def program():
    """The host's own webui.py, which finds everything initialised."""
    initialize = importlib.import_module("modules.initialize")
    initialize.imports = initialize.initialize = lambda: None
    return importlib.import_module("webui")


def first_threads_loop():
    """What the Forge family does on its first thread for ever, None elsewhere."""
    if importlib.util.find_spec("modules_forge"):
        return importlib.import_module("modules_forge.main_thread").loop
    return None


def tiny_model():
    """The module that knows this kind of host."""
    if importlib.util.find_spec("backend"):
        return importlib.import_module("tiny_forge")
    if importlib.util.find_spec("ldm_patched"):
        return importlib.import_module("tiny_reforge")
    return importlib.import_module("tiny_a1111")


def quiet() -> None:
    """Write no pictures, show no previews, draw noise on the CPU, begin with the first of the two models."""
    shared = importlib.import_module("modules.shared")
    for key, value in {
        **{"samples_save": False, "grid_save": False, "save_write_log_csv": False},
        **{"live_previews_enable": False, "randn_source": "CPU"},
        "sd_model_checkpoint": "tiny.safetensors",
    }.items():
        shared.opts.data[key] = value
