"""Always-visible scripts: loaded from files as the host does, called by a runner that swallows exceptions."""

import importlib.util
import inspect
import os
import sys
from collections import namedtuple

from modules import errors, paths, script_callbacks

AlwaysVisible = object()
ScriptClassData = namedtuple("ScriptClassData", "script_class path basedir module")
scripts_data = []
current_basedir = paths.script_path


class Script:
    name = section = filename = args_from = args_to = group = None
    is_txt2img = is_img2img = alwayson = False
    create_group = True
    tabname = infotext_fields = paste_field_names = controls = None

    def title(self):
        raise NotImplementedError

    def ui(self, is_img2img):
        pass

    def show(self, is_img2img):
        return True

    def process(self, p, *args):
        pass

    def process_batch(self, p, *args, **kwargs):
        pass

    def process_before_every_sampling(self, p, *args, **kwargs):
        pass

    def postprocess(self, p, processed, *args):
        pass

    def after_component(self, component, **kwargs):
        pass

    def elem_id(self, item_id):
        return f"script_{'img2img' if self.is_img2img else 'txt2img'}_{item_id}"


def basedir():
    return current_basedir


class ScriptRunner:
    def __init__(self):
        self.scripts, self.alwayson_scripts, self.inputs = [], [], [None]

    def initialize_scripts(self, is_img2img):
        for data in scripts_data:
            script = data.script_class()
            script.filename, script.is_txt2img, script.is_img2img = data.path, not is_img2img, is_img2img
            script.alwayson = script.show(is_img2img) is AlwaysVisible
            self.scripts.append(script)
            self.alwayson_scripts.append(script)

    def setup_ui(self):
        for script in self.scripts:
            script.args_from = len(self.inputs)
            self.inputs += script.ui(script.is_img2img) or []
            script.args_to, script.controls = len(self.inputs), self.inputs[script.args_from :]

    def call(self, method, p, *first, **kwargs):
        for script in self.alwayson_scripts:
            try:
                args = p.script_args[script.args_from : script.args_to]
                getattr(script, method)(p, *first, *args, **kwargs)
            except Exception:
                errors.report(f"Error running {method}: {script.filename}", exc_info=True)


def load_scripts(*files):
    """Run script files as the host does: the root on the path meanwhile, the module not in sys.modules."""
    global current_basedir
    scripts_data.clear()
    script_callbacks.clear_callbacks()
    before = sys.path
    for file in files:
        current_basedir = str(file.parent.parent)
        try:
            sys.path = [current_basedir, *before]
            spec = importlib.util.spec_from_file_location(os.path.basename(file), file)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            for found in vars(module).values():
                if inspect.isclass(found) and issubclass(found, Script):
                    scripts_data.append(ScriptClassData(found, str(file), current_basedir, module))
        except Exception:
            errors.report(f"Error loading script: {file.name}", exc_info=True)
        finally:
            sys.path, current_basedir = before, paths.script_path
