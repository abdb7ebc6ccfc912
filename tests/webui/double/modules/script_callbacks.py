"""Callbacks of extensions: registered by functions, called in order, their exceptions swallowed."""

from collections import namedtuple

from modules import errors


class CFGDenoiserParams:
    def __init__(
        self, x, image_cond, sigma, sampling_step, total_sampling_steps, text_cond, text_uncond, denoiser=None
    ):
        self.x, self.image_cond, self.sigma, self.denoiser = x, image_cond, sigma, denoiser
        self.sampling_step, self.total_sampling_steps = sampling_step, total_sampling_steps
        self.text_cond, self.text_uncond = text_cond, text_uncond


class CFGDenoisedParams:
    def __init__(self, x, sampling_step, total_sampling_steps, inner_model):
        self.x, self.inner_model = x, inner_model
        self.sampling_step, self.total_sampling_steps = sampling_step, total_sampling_steps


class AfterCFGCallbackParams:
    def __init__(self, x, sampling_step, total_sampling_steps):
        self.x = x
        self.sampling_step, self.total_sampling_steps = sampling_step, total_sampling_steps


Callback = namedtuple("Callback", "function name")
callback_map = {}


def _registrar(kind):
    def register(callback, *, name=None):
        callback_map.setdefault(kind, []).append(Callback(callback, name))

    return register


for _kind in (
    "before_ui",
    "ui_settings",
    "ui_tabs",
    "app_started",
    "model_loaded",
    "script_unloaded",
    "infotext_pasted",
    "cfg_denoiser",
    "cfg_denoised",
    "cfg_after_cfg",
):
    globals()[f"on_{_kind}"] = _registrar(_kind)


def call(kind, *args):
    """Call every callback of a kind and return what they answer."""
    answers = []
    for callback in callback_map.get(kind, ()):
        try:
            answers.append(callback.function(*args))
        except Exception:
            errors.report(f"Error executing callback {kind}", exc_info=True)
    return answers


def clear_callbacks():
    callback_map.clear()


def remove_callbacks_for_function(function):
    for callbacks in callback_map.values():
        callbacks[:] = [one for one in callbacks if one.function != function]
