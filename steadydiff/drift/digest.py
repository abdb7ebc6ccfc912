"""Telling things apart by what they hold, the same in every session: models, patches, prompts, pictures."""

from __future__ import annotations

import dis
import hashlib
import json
from collections.abc import Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

LOOKED_AT = 64  # numbers of a tensor that are looked at
DEEPEST = 8

PLAINLY = (str, bool, int, float)


def digest(*things: Any) -> str:
    """Return a sha256 of things that is the same in every session; of tensors LOOKED_AT numbers count."""
    text = json.dumps([described(thing) for thing in things], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def described(thing: Any, tensors: bool = True) -> Any:
    """Return what tells a thing from others in JSON's terms, nothing of where it lies in memory.

    tensors: also look into what functions and objects hold beside numbers and words. What other packs hang
             on a model changes its own while it runs; numbers and words say how it was set, unless one of
             its functions writes them.
    """
    return _described(
        thing, frozenset() if tensors else frozenset(_written(thing, DEEPEST)), tensors, DEEPEST
    )


def _described(thing: Any, written: frozenset[int], tensors: bool, depth: int) -> Any:
    if thing is None or isinstance(thing, PLAINLY):
        return repr(thing)
    if isinstance(thing, Tensor):
        return _tensor(thing)
    if depth == 0:
        return type(thing).__qualname__
    more = (written, tensors, depth - 1)
    if isinstance(thing, Mapping):
        return {str(name): _described(one, *more) for name, one in thing.items()}
    if isinstance(thing, (set, frozenset)):
        return sorted(str(_described(one, *more)) for one in thing)
    if isinstance(thing, (list, tuple)):
        return [_described(one, *more) for one in thing]
    held = _held(thing, written)
    wanted = {
        key: one
        for key, one in held.items()
        if tensors or key == "self" or isinstance(one, PLAINLY) or _acts(one)
    }
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    name = f"{getattr(named, '__module__', '')}.{named.__qualname__}"
    return {"is": name, **{str(key): _described(one, *more) for key, one in wanted.items()}}


def _held(thing: Any, written: frozenset[int] = frozenset()) -> dict[Any, Any]:
    """What a function closes over, but for cells `written`; a bound one's object; another thing's fields."""
    if isinstance(thing, MethodType):
        return {"self": thing.__self__}
    if isinstance(thing, FunctionType):
        held = {name: _content(cell) for name, cell in _cells(thing) if id(cell) not in written}
        return held | dict(enumerate(thing.__defaults__ or ()))
    if isinstance(thing, partial):
        return {"func": thing.func, **dict(enumerate(thing.args)), **thing.keywords}
    return {} if isinstance(thing, type) else dict(getattr(thing, "__dict__", {}))


def _written(thing: Any, depth: int) -> set[int]:
    """Return the ids of the cells that functions in a thing write to (`nonlocal`)."""
    if depth == 0 or thing is None or isinstance(thing, (*PLAINLY, Tensor, nn.Module)):
        return set()
    if isinstance(thing, Mapping):
        inner = list(thing.values())
    elif isinstance(thing, (list, tuple)):
        inner = list(thing)
    else:
        inner = [one for key, one in _held(thing).items() if key == "self" or _acts(one)]
    found = {one for held in inner for one in _written(held, depth - 1)}
    if isinstance(thing, FunctionType):
        code = dis.get_instructions(thing.__code__)
        names = {step.argval for step in code if step.opname == "STORE_DEREF"}
        found |= {id(cell) for name, cell in _cells(thing) if name in names}
    return found


def _cells(function: FunctionType) -> list[tuple[str, Any]]:
    return list(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))


def _acts(thing: Any) -> bool:
    return callable(thing) and not isinstance(thing, (type, nn.Module))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _tensor(tensor: Tensor) -> Any:
    """Shape, kind, and some of the numbers, evenly chosen."""
    facts = [list(tensor.shape), str(tensor.dtype)]
    try:
        flat = tensor.detach().reshape(-1)
        at = torch.linspace(0, max(len(flat) - 1, 0), min(len(flat), LOOKED_AT), dtype=torch.float64)
        some = flat[at.round().long().to(flat.device)].cpu().float().tolist()
        return [*facts, [f"{number:.4g}" for number in some]]  # a text encoder may round otherwise next time
    except (RuntimeError, NotImplementedError, TypeError):  # quantised kinds that cannot be indexed
        return facts
