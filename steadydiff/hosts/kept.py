"""What other packs' functions keep from one model call to the next (a momentum, a cache, a count).

A method's own calls lie between those of the sampler and are no steps. Such functions then see what they kept
before the sampler's call, so that both answers are of one kind, and afterwards what they kept is put back.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Generator, Tensor, nn

OURS = __name__.rpartition(".hosts.")[0]
"""The pack itself: what it keeps of a run is told of each call."""

FOREIGN = (*sys.stdlib_module_names - {"collections", "types"}, "torch", "gradio")
"""Modules whose objects (threads, locks, files, streams, buttons) are nobody's memory of a call."""

NEAR = 3
"""So many objects deep a function's memory is looked for; further lies the host itself."""


class Kept:
    """What is kept just now in and behind some functions, as found in closures, objects and containers.

    roots:  where to look: functions, objects, or containers of them
    copied: tensors of at most so many elements are copied, as they may be written to; larger ones are taken
            to be replaced when they change

    Networks and the host's patchers are not looked into, nor global variables.
    """

    def __init__(self, *roots: Any, copied: int = 0) -> None:
        self.roots = roots
        self._places: list[tuple[Any, _Contents]] = []
        self._copies: dict[int, Tensor] = {}
        self._seen: dict[int, Any] = {}
        near: list[Any] = [*roots]
        for _ in range(NEAR + 1):
            near = self._look(near, copied)

    def _look(self, found: list[Any], copied: int) -> list[Any]:
        """Note what is found without passing through an object; return the contents of the objects there."""
        objects = []
        while found:
            value = found.pop()
            if id(value) in self._seen or _is_closed(value):
                continue
            self._seen[id(value)] = value  # kept, so that its id stays its own
            if isinstance(value, Tensor):
                if value.numel() <= copied:
                    self._copies[id(value)] = value.clone()
            elif (contents := _contents(value)) is not None:
                self._places.append((value, contents))
                found += contents[1]
            elif (parts := _parts(value)) is not None:
                found += parts
            elif (own := _of_object(value)) is not None:
                objects.append(own)
        return objects

    def restore(self) -> None:
        """Put everything back; tensors that were copied are replaced by copies."""
        fresh = {key: copy.clone() for key, copy in self._copies.items()}
        for place, (keys, values) in self._places:
            wanted = keys, [fresh.get(id(value), value) for value in values]
            if not _are_same(_contents(place), wanted):
                _fill(place, wanted)


@contextmanager
def as_kept(before: Kept) -> Iterator[None]:
    """While this is open, what is kept is as it was before; then it is as it is now."""
    now = Kept(*before.roots)
    before.restore()
    try:
        yield
    finally:
        now.restore()


_Contents = tuple[list[Any], list[Any]]
"""The keys, if there are any, and the values."""


def _contents(place: Any) -> _Contents | None:
    """What can be exchanged in something; None where nothing can."""
    if isinstance(place, dict):
        return [*place], [*place.values()]
    if isinstance(place, list | deque | set):
        return [], [*place]
    if isinstance(place, Generator):
        return [], [place.get_state()]
    if isinstance(place, CellType):
        try:
            return [], [place.cell_contents]
        except ValueError:  # not yet assigned
            return [], []
    return None


def _fill(place: Any, contents: _Contents) -> None:
    keys, values = contents
    if isinstance(place, Generator):
        place.set_state(values[0])
    elif isinstance(place, CellType):
        if values:
            place.cell_contents = values[0]
        else:
            del place.cell_contents
    elif isinstance(place, dict):
        if [*place] != keys:
            place.clear()
        place.update(zip(keys, values, strict=True))
    else:
        place.clear()
        place.extend(values) if isinstance(place, list | deque) else place.update(values)


def _are_same(found: _Contents | None, wanted: _Contents) -> bool:
    assert found is not None
    return all(
        len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))
        for old, new in zip(found, wanted, strict=True)
    )


def _parts(value: Any) -> Iterable[Any] | None:
    """What belongs to something that cannot change itself; None where it is an object of its own."""
    if isinstance(value, FunctionType):
        return (*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__, vars(value))
    if isinstance(value, MethodType):
        return value.__self__, value.__func__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    return value if isinstance(value, tuple) else None


def _is_closed(value: Any) -> bool:
    """Whether something is not looked into."""
    if isinstance(value, nn.Module | ModuleType | type) or hasattr(type(value), "get_model_object"):
        return True
    return str(getattr(value, "__module__", "")).startswith(f"{OURS}.")


def _of_object(value: Any) -> dict[str, Any] | None:
    """The attributes of an object that may be somebody's memory."""
    own = getattr(value, "__dict__", None)
    known = isinstance(own, dict) and type(value).__module__.partition(".")[0] not in FOREIGN
    return own if known else None
