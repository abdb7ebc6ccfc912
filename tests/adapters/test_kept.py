"""What functions keep from call to call is found wherever it may lie, held back, and given back as it was."""

import functools
import random
import threading
from collections import defaultdict, deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from steadydiff.hosts.kept import Kept, as_kept
from steadydiff.methods.diffier import DiffIER


def in_a_cell():
    count = 0

    def call():
        nonlocal count
        count += 1
        return count

    return call


def not_yet_assigned():
    def call():
        nonlocal count
        try:
            count += 1
        except NameError:
            count = 1
        return count

    if random.random() > 1:  # never
        count = 0
    return call


def in_a_default():
    def call(seen=[], *, more={}):  # noqa: B006
        seen.append(1)
        more[len(more)] = 1
        return len(seen) + len(more) / 1000

    return call


def in_an_attribute_of_its_own():
    def call():
        vars(call)["count"] = vars(call).get("count", 0) + 1
        return vars(call)["count"]

    return call


class Counter:
    def __init__(self):
        self.count, self.own = 0, SimpleNamespace(count=0, one_more=defaultdict(int))

    def __call__(self):
        self.count += 1
        self.own.count += 1
        self.own.one_more["calls"] += 1
        return self.count + self.own.count + self.own.one_more["calls"]

    def method(self):
        return self()


def in_a_tensor_written_to():
    average = torch.zeros(3)
    names = {"also": average}

    def call():
        names["also"].add_(1)
        return average.sum().item()

    return call


def in_a_generator():
    generator = torch.Generator().manual_seed(1)
    return lambda: torch.rand(1, generator=generator).item()


def in_containers():
    kept = deque([0], maxlen=3), {0}, [[0]]

    def call():
        kept[0].append(kept[0][-1] + 1)
        kept[1].add(len(kept[1]))
        kept[2][0][0] += 1
        return kept[0][-1], len(kept[1]), kept[2][0][0]

    return call


KEEPERS = {
    "cell": in_a_cell,
    "empty cell": not_yet_assigned,
    "default": in_a_default,
    "attribute": in_an_attribute_of_its_own,
    "object": Counter,
    "method": lambda: Counter().method,
    "partial": lambda: functools.partial(in_a_cell()),
    "wrapped": lambda: functools.wraps(print)(in_a_cell()),
    "tensor": in_a_tensor_written_to,
    "generator": in_a_generator,
    "containers": in_containers,
}


@pytest.mark.parametrize("keeper", KEEPERS)
def test_what_lies_in_between_neither_is_counted_nor_counts(keeper):
    """Calls in between answer as the latest of the sampler's own did; all goes on as if they never were."""
    call, undisturbed = KEEPERS[keeper](), KEEPERS[keeper]()
    options = {"functions": [call], "wrappers": {"kind": {"key": [call]}}}
    for _ in range(3):
        before = Kept(options, copied=8)
        own = call()
        assert own == undisturbed()
        for _ in range(3):
            with as_kept(before):
                assert call() == own


def test_everything_is_itself_again_even_after_an_error():
    average, seen = torch.ones(2), []
    options = {"first": average, "seen": seen}
    before = Kept(options, copied=8)
    with pytest.raises(RuntimeError), as_kept(before):
        assert options["first"] is not average and torch.equal(options["first"], average)
        options["first"].zero_()
        seen.append(1)
        options["new"] = 1
        raise RuntimeError
    assert options["first"] is average and options["seen"] is seen and seen == []
    assert [*options] == ["first", "seen"] and average.sum() == 2


def test_large_tensors_networks_and_what_is_ours_stay():
    class Ours:
        count = 0

    class Button:
        clicks = 0

    Ours.__module__, Button.__module__ = DiffIER.__module__, "gradio.components"
    button = Button()
    large, network, ours, host_s = torch.zeros(9), nn.Linear(1, 1), Ours(), threading.Event()
    options = {"large": large, "network": network, "ours": ours, "event": host_s, "button": button}
    before = Kept(options, copied=8)
    with as_kept(before):
        assert options["large"] is large
        large.add_(1)
        network.train(False)
        ours.count = button.clicks = 1
        host_s.set()
    assert large.sum() == 9 and not network.training and host_s.is_set()
    assert ours.count == button.clicks == 1


def test_rings_and_long_chains_end():
    ring, chain = SimpleNamespace(), SimpleNamespace(value=0)
    ring.ring = ring
    for _ in range(5000):
        chain = SimpleNamespace(value=0, next=chain)
    with as_kept(Kept({"ring": ring, "chain": chain})):
        ring.value = chain.value = 1
    assert not hasattr(ring, "value") and chain.value == 0
