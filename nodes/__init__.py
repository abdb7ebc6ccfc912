"""ComfyUI's face of SteadyDiff: one file per node. The root's `comfy_entrypoint` loads it."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from comfy_api.latest import ComfyExtension, io

from . import antibias_prompt, mdss


def nodes() -> Iterator[type[io.ComfyNode]]:
    """Yield the nodes of every file here, so that a new node is a new file and nothing else."""
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = import_module(f".{file.stem}", __name__)
        for thing in vars(module).values():
            own = getattr(thing, "__module__", None) == module.__name__
            if own and isinstance(thing, type) and issubclass(thing, io.ComfyNode):
                yield thing


class SteadyDiffExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        for files in (antibias_prompt.FILES, mdss.FILES):
            files.register()  # the nodes list them
        return list(nodes())
