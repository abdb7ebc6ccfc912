"""ARPO in a ComfyUI that runs: the graph for a checkpoint, or a workflow of the user's, and its answer."""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadydiff.arpo.clip_scorer import MODELS
from steadydiff.files.text import read_text
from steadydiff.inputs import arpo as inputs
from steadydiff.inputs.arpo import TINY
from steadydiff.inputs.kinds import Input
from tools.launch.comfy_client import ComfyClient, ComfyError, ComfyRefusal, Graph
from tools.launch.console import Stop
from tools.launch.environment import ROOT

ARPO_NODE, REFERENCE, PROMPT = "SteadyDiffARPO", "steadydiff_reference", "steadydiff_prompt"

OF_A_PICTURE = ARPO_NODE, "LoadImage", "ImageBatch"


class EachFails(Stop):
    """What would go wrong with any other picture too."""


@dataclass(frozen=True)
class HostSearch:
    """Finds prompts in a ComfyUI.

    draws_with: the checkpoint, or the workflow's loader, in words
    tiny:       whether that is the tiny world
    """

    client: ComfyClient
    options: argparse.Namespace
    draws_with: str
    tiny: bool

    @classmethod
    def of(cls, options: argparse.Namespace) -> "HostSearch":
        """Raises Stop for an address, a checkpoint or a workflow that cannot be."""
        client = ComfyClient(*address_of(options.comfyui or str(options.port)))
        if options.checkpoint:
            return cls(client, options, options.checkpoint, False)
        graph = workflow_of(options)
        kinds = {node["class_type"] for node in graph.values()}
        tiny = "SteadyDiffTinyWorld" in kinds
        names = [
            value
            for node in graph.values()
            for key, value in node.get("inputs", {}).items()
            if key in ("ckpt_name", "unet_name", "model_name") and isinstance(value, str)
        ]
        return cls(client, options, "the tiny world" if tiny else ", ".join(names) or "its workflow", tiny)

    @property
    def at_home(self) -> bool:
        """Whether it runs on this computer, so that what it reaches is reached from here."""
        return self.client.host in ("127.0.0.1", "localhost", "::1")

    @property
    def address(self) -> str:
        return f"{self.client.host}:{self.client.port}"

    def find(self, pictures: dict[Path, tuple[int, int]]) -> str:
        """Queue the graph with one picture, or several as one theme; prints and returns what ARPO found.

        pictures: their sizes, (width, height); the first one's is drawn in
        """
        options = self.options
        size = next(iter(pictures.values()))
        graph = checkpoint_graph(options, size) if options.checkpoint else workflow_of(options)
        try:
            files = [(picture.name, picture.read_bytes()) for picture in pictures]
        except OSError as error:
            raise Stop(f"a picture cannot be read: {error}") from error
        try:
            uploaded = [self.client.upload(*file) for file in files]
            outputs = self.client.run(with_pictures(graph, uploaded, options))
        except (ComfyError, OSError, ValueError) as error:
            kind = Stop if of_a_picture(error) else EachFails
            refused = isinstance(error, ConnectionRefusedError)
            why = "nothing listens there; start it, or correct --comfyui" if refused else error
            raise kind(f"The ComfyUI at {self.address} did not find a prompt: {why}") from error
        prompt = outputs[PROMPT]["text"][0]
        print(f"prompt: {prompt}", flush=True)
        return prompt


def of_a_picture(error: Exception) -> bool:
    """Whether another picture may do better: this one failed where it is sent, loaded or searched for."""
    if isinstance(error, (OSError, ComfyRefusal)):
        return False
    return not (failed := re.search(r"node \S+ \((\w+)\)", str(error))) or failed[1] in OF_A_PICTURE


def address_of(text: str) -> tuple[int, str]:
    """The port and the host of "8188", "host:8188" or "http://host:8188/"."""
    found = re.fullmatch(r"(?:http://)?(?:([\w.-]+|\[[\da-f:]+\]):)?(\d{1,5})/?", text)
    if not found or not 0 < int(found[2]) < 65536:
        raise Stop(f"{text!r} is no address of a ComfyUI; give host:port, such as 127.0.0.1:8188.")
    return int(found[2]), (found[1] or "127.0.0.1").strip("[]")


def workflow_of(options: argparse.Namespace) -> Graph:
    """The workflow of the user's, or ours; a graph in API format with one ARPO node."""
    file = Path(options.workflow or ROOT / "workflows" / "api" / "arpo.json")
    try:
        graph = json.loads(read_text(file))
    except (OSError, ValueError) as error:
        raise Stop(f"{file.name} cannot be read as a workflow: {error}") from error
    nodes = graph.values() if isinstance(graph, dict) else []
    found = [node for node in nodes if isinstance(node, dict) and node.get("class_type") == ARPO_NODE]
    if len(found) != 1 or not all(isinstance(node, dict) and "class_type" in node for node in nodes):
        raise Stop(
            f"a workflow in API format with one {ARPO_NODE} node is needed; {file.name} has {len(found)}"
        )
    return graph


def checkpoint_graph(options: argparse.Namespace, size: tuple[int, int]) -> Graph:
    """Load Checkpoint and what ARPO needs around it, all our nodes at their defaults."""
    width, height = fitting(size, options.size)
    model, _, weights = (options.clip or "ViT-L-14/openai").partition("/")
    clip = defaults(inputs.CLIP_SCORER) | {"model": model, "weights": weights or "openai"}
    if model not in (*MODELS, TINY):
        clip |= {"model": "other", "architecture": model}
    if options.server:
        proposer = node(
            "SteadyDiffChatServer",
            defaults(inputs.CHAT_SERVER)
            | {
                "url": options.server,
                "model": options.model,
                "text_model": options.text_model,
                "key_name": options.key_name,
            },
        )
    else:
        named = defaults(inputs.PHRASE_BANK) | {"bank": "none", "more": options.bank or "general"}
        proposer = node("SteadyDiffPhraseBank", named | {"scorer": ["scorer", 0]})
    drawing = {"steps": options.steps, "cfg": options.cfg, "sampler_name": "euler", "scheduler": "normal"}
    wires = {
        **{"model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2], "negative": ["negative", 0]},
        **{"latent_image": ["size", 0], "proposer": ["proposer", 0], "scorer": ["scorer", 0]},
    }
    return {
        "model": node("CheckpointLoaderSimple", {"ckpt_name": options.checkpoint}),
        "negative": node("CLIPTextEncode", {"clip": ["model", 1], "text": options.negative}),
        "size": node("EmptyLatentImage", {"width": width, "height": height, "batch_size": 1}),
        "scorer": node("SteadyDiffCLIPScorer", clip | {"download": options.download}),
        "proposer": proposer,
        "arpo": node(ARPO_NODE, defaults((*inputs.SEARCH, inputs.COMBINE)) | drawing | wires),
    }


def with_pictures(graph: Graph, uploaded: list[str], options: argparse.Namespace) -> Graph:
    """The graph, its ARPO node fed with the pictures and these settings, and its prompt shown."""
    [arpo] = [key for key, one in graph.items() if one["class_type"] == ARPO_NODE]
    source = REFERENCE
    graph[REFERENCE] = node("LoadImage", {"image": uploaded[0]})
    for at, picture in enumerate(uploaded[1:], 1):  # which bring the others to the size of the first
        graph[f"{REFERENCE}_{at}"] = node("LoadImage", {"image": picture})
        pair = {"image1": [source, 0], "image2": [f"{REFERENCE}_{at}", 0]}
        graph[source := f"{REFERENCE}_to_{at}"] = node("ImageBatch", pair)
    settings = {"image": [source, 0], "iterations": options.iterations, "seed": options.seed}
    settings |= {"exclude": "\n".join(options.exclude)} if options.exclude else {}
    settings |= {"combine": inputs.MEAN} if len(uploaded) > 1 else {}
    settings |= {"seeds": options.seeds} if options.seeds != 1 else {}
    settings |= {"max_tokens": options.max_tokens} if options.max_tokens != 75 else {}
    settings |= {"drop": True} if options.drop else {}
    settings |= {} if options.prompt is None else {"prompt": options.prompt}
    settings |= {"captioner": options.tagger} if options.tagger else {}
    graph[arpo]["inputs"] |= settings
    graph[PROMPT] = node("PreviewAny", {"source": [arpo, 0]})
    return graph


def fitting(size: tuple[int, int], side: int) -> tuple[int, int]:
    """About side x side pixels in these proportions, in steps of 64."""
    scale = side / (size[0] * size[1]) ** 0.5
    return max(64, round(size[0] * scale / 64) * 64), max(64, round(size[1] * scale / 64) * 64)


def node(kind: str, given: dict[str, Any]) -> dict:
    return {"class_type": kind, "inputs": given}


def defaults(declared: tuple[Input, ...]) -> dict[str, Any]:
    return {one.name: one.default for one in declared}
