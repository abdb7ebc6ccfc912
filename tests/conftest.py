"""Shared fixtures: fixed seeds, one thread, no network, awkward shapes, and a ledger of model calls.

torch is imported where it is used: pytest-xdist's first process reads this file, too, and needs none.
"""

import gc
import os
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest

from tools.launch.find_comfyui import Host
from tools.launch.server import running
from tools.launch.templates import FOLDER

AWKWARD_SHAPES = ((3, 8, 11), (2, 4, 5, 7), (1, 16, 3, 8, 6))


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, help="so many spoilt files of every kind, instead of a few")
    parser.addoption("--few", type=int, help="at most so many sets of parameters of each test")


def pytest_ignore_collect(collection_path, config):
    """Do not read the host suite, all of which is marked `host`, where that is deselected."""
    if collection_path == Path(__file__).parent / "comfyui" and "not host" in config.option.markexpr:
        return True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave out all but the first sets of parameters of each test, if asked to."""
    if few := config.option.few:
        taken = Counter()
        for item in items.copy():
            test = item.nodeid.partition("[")[0]
            taken[test] += 1
            if taken[test] > few:
                items.remove(item)


def pytest_collection_finish():
    """Hide what stays to the end from the garbage collector: ComfyUI collects at every change of models."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def comfyui():
    """The real ComfyUI that the environment names, with this interpreter."""
    return Host(Path(os.environ["STEADYDIFF_COMFYUI"]), "", Path(sys.executable))


@pytest.fixture(scope="module")
def server(comfyui):
    """That ComfyUI, running, with pictures in the folder that a template asks for."""
    from tools.launch.drawings import draw_into

    with running(comfyui) as server:
        draw_into(server.base / "input" / FOLDER)
        yield server


@pytest.fixture(autouse=True)
def steady():
    """The same random numbers on every machine and in every order of tests."""
    import torch

    torch.default_generator.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test reaches beyond this machine; servers that a test starts itself are on it."""
    connect = socket.socket.connect

    def connect_here(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test reached for the network: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(params=AWKWARD_SHAPES, ids=str)
def shape(request):
    """3-D, 4-D and 5-D latents in which no two neighbouring sizes agree."""
    return request.param


@pytest.fixture
def shapes():
    """All of them, for tests that choose."""
    return AWKWARD_SHAPES


@pytest.fixture
def latents():
    """A function that draws latents of a shape, in double precision unless asked otherwise."""
    import torch

    return lambda shape, dtype=torch.float64: torch.randn(shape).to(dtype)


@pytest.fixture
def ledger():
    """A function that wraps a denoiser so that `ledger.calls` lists the sigmas it was called at."""

    class Ledger:
        def __init__(self):
            self.calls = []

        def __call__(self, denoise):
            def noted(x, sigma):
                self.calls.append(sigma.tolist())
                return denoise(x, sigma)

            return noted

    return Ledger()
