"""Settings, state and the loaded model."""

import tempfile
from types import SimpleNamespace


class OptionInfo:
    def __init__(
        self,
        default=None,
        label="",
        component=None,
        component_args=None,
        onchange=None,
        section=None,
        refresh=None,
        comment_before="",
        comment_after="",
        infotext=None,
    ):
        self.default, self.label, self.section, self.infotext = default, label, section, infotext

    def info(self, text):
        self.label += f" ({text})"
        return self


class Options:
    """Attributes that fall back on the declared defaults."""

    def __init__(self):
        self.data, self.data_labels = {}, {}

    def add_option(self, key, info):
        self.data_labels[key] = info
        self.data.setdefault(key, info.default)

    def __getattr__(self, name):
        if name in self.__dict__.get("data", {}):
            return self.data[name]
        raise AttributeError(name)


folder = tempfile.TemporaryDirectory()
opts = Options()


class State(SimpleNamespace):
    """What the host is at; `interrupted` is looked at before each model call."""

    def begin(self, job="(unknown)"):
        self.job, self.interrupted = job, False

    def end(self):
        self.job = ""

    def interrupt(self):
        self.interrupted = True


state = State(interrupted=False, skipped=False, stopping_generation=False, sampling_step=0, job="")
cmd_opts = SimpleNamespace(no_gradio_queue=False, api=False, nowebui=False, api_auth=None)
latent_upscale_modes = {"Latent": {"mode": "nearest"}}
sd_model = None
demo = None
