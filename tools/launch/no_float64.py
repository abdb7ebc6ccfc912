"""A device that knows no float64, as Apple's (MPS), for tests: within `device()` tensors can be moved there.

Its tensors call themselves "meta" and do their work on the CPU. Like a real device's they do not mix with
the CPU's.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

HERE = torch.device("meta")
CONTAINERS = (list, tuple, dict)


class There(torch.Tensor):
    """A tensor of the device; `kept` is what it holds."""

    @staticmethod
    def __new__(cls, kept):
        return torch.Tensor._make_wrapper_subclass(
            cls, kept.shape, strides=kept.stride(), dtype=kept.dtype, device=HERE
        )

    is_meta = False  # hosts fill what has no content

    def __init__(self, kept):
        self.kept = kept

    def __repr__(self, **_):
        return f"There({self.kept!r})"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return work(func, args, kwargs or {})


class Copied(TorchFunctionMode):
    """`torch.tensor` and lists of places make tensors on the CPU first: those of "meta" have no content."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") == HERE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(HERE)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]), *args[2:])
        return func(*args, **kwargs)


class Device(TorchDispatchMode):
    """Within it tensors can be made on the device."""

    @classmethod
    def _should_skip_dynamo(cls):
        """Nothing is compiled here, so it need not be kept out, at a cost in every call."""
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return work(func, args, kwargs or {})


def leaves_of(tree):
    """As torch's pytree, which knows many more containers and takes ten times as long."""
    found = []
    for value in tree.values() if isinstance(tree, dict) else tree:
        found += leaves_of(value) if isinstance(value, CONTAINERS) else (value,)
    return found


def changed(tree, change):
    """The same containers of changed leaves."""
    if isinstance(tree, dict):
        return {key: changed(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([changed(one, change) for one in tree])
    return change(tree)


def work(func, args, kwargs):
    leaves = leaves_of(args) + leaves_of(kwargs)
    given = [value for value in leaves if isinstance(value, torch.Tensor)]
    devices = [value for value in leaves if isinstance(value, torch.device)]
    there = any(isinstance(value, There) for value in given)
    goes = devices[0] == HERE if devices else there
    if not (goes or there):
        return func(*args, **kwargs)
    apart = ("to.", "index.", "index_put")  # places may lie on the CPU, as on real devices
    mixing = func.__name__.startswith(apart) or "copy" in func.__name__ or "_like" in func.__name__
    if not mixing and any(not isinstance(value, There) and value.ndim for value in given):
        raise RuntimeError(f"{func}: all tensors are on one device, these are on two")

    def inner(value):
        if isinstance(value, There):
            return value.kept
        return torch.device("cpu") if isinstance(value, torch.device) and value == HERE else value

    def outer(value):
        if isinstance(value, torch.Tensor) and value.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{func}: this device knows no float64")
        with torch.inference_mode(False):  # else a view of what was made outside it is refused within it
            return There(value) if isinstance(value, torch.Tensor) else value

    out = func(*changed(args, inner), **changed(kwargs, inner))
    if not goes:
        return out
    if same := [value for value in given if isinstance(value, There) and value.kept is out]:
        return same[0]  # a move to where it is already
    wrapped = changed(out, outer)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


@contextmanager
def device() -> Iterator[torch.device]:
    """While this is open, the device is there."""
    with Device(), Copied():
        yield HERE
