"""Empty stand-ins for the large packages a WebUI imports but a tiny model never calls."""

import importlib.machinery
import sys
import types

NAMES = (
    *("torchvision", "torchaudio", "transformers", "diffusers", "tokenizers", "open_clip", "clip", "kornia"),
    *("ldm", "sgm", "taming", "pytorch_lightning", "spandrel", "facexlib", "gfpgan", "basicsr", "timm"),
    *("skimage", "cv2", "tomesd", "huggingface_guess", "accelerate", "sentencepiece", "pillow_avif", "rembg"),
    *("insightface", "onnxruntime", "mediapipe", "onnx", "resize_right", "dctorch", "cleanfid", "wandb"),
    *("pillow_heif", "pillow_jxl", "cachetools", "peft", "comfy_kitchen", "av", "spandrel_extra_arches"),
)
"""Always replaced, installed or not, so that every machine tests the same. Never what a host merely probes
for (xformers, bitsandbytes): finding that would change what it does."""


class _Anything(type):
    """The type of what a stand-in holds: a class that can be called, indexed, iterated and looked into."""

    def __getattr__(cls, name):
        return _made(cls, name)

    def __call__(cls, *args, **kwargs):
        return super().__call__()

    def __getitem__(cls, key):
        return cls

    def __setitem__(cls, key, value):
        pass

    def __iter__(cls):
        return iter(())

    def __or__(cls, other):
        return cls

    __ror__ = __or__


class _Thing(metaclass=_Anything):
    """What calling one returns: as patient as the class."""

    def __getattr__(self, name):
        return _made(self, name)

    def __call__(self, *args, **kwargs):
        return self

    def __getitem__(self, key):
        return self

    def __iter__(self):
        return iter(())


def _made(holder, name: str) -> type:
    """A new class for an attribute nobody defined, kept so that it stays the same one."""
    if name.startswith("__"):
        raise AttributeError(name)
    made = _Anything(name, (_Thing,), {})
    setattr(holder, name, made)
    return made


class _Module(types.ModuleType):
    __path__ = []
    __version__ = "0.0"

    def __getattr__(self, name):
        return _made(self, name)


class _Finder:
    """First in sys.meta_path; answers for NAMES and all below them."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def install() -> None:
    """Call before anything of the host is imported."""
    sys.meta_path.insert(0, _Finder())
