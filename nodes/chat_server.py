"""SteadyDiffChatServer: a model on any OpenAI-compatible server proposes phrases for ARPO."""

from dataclasses import replace

import comfy.model_management
from comfy_api.latest import io

from ..steadydiff.arpo.language.exchange import Address
from ..steadydiff.arpo.language.keys import check_name, find_key
from ..steadydiff.arpo.language.proposer import VisionProposer
from ..steadydiff.arpo.language.server import ChatServer
from ..steadydiff.arpo.language.templates import Templates
from ..steadydiff.errors import SettingsError
from ..steadydiff.inputs import arpo as arpo_inputs
from .shared import schema
from .shared.host import HOST


def make_room() -> None:
    """Take all of the host's models off the device."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


class SteadyDiffChatServer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffChatServer",
            display_name="Chat Server (SteadyDiff)",
            category=schema.PROMPTS,
            description="Lets a vision-language model on a server tell ARPO what a picture shows and what a "
            "drawing lacks beside it: Ollama, LM Studio, llama.cpp, vLLM or a hosted one, anything that "
            "speaks OpenAI's chat protocol. Pictures go to this address and nowhere else.",
            search_aliases=["ollama", "lm studio", "llama.cpp", "vllm", "openai", "vlm", "arpo"],
            advanced=[one.name for one in arpo_inputs.CHAT_SERVER if one.name not in ("url", "model")],
            inputs=schema.widgets(arpo_inputs.CHAT_SERVER),
            outputs=[
                schema.Proposer.Output(
                    display_name="proposer",
                    tooltip="For ARPO: says what a drawing lacks beside the reference.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, url="", key_name=""):
        """Refuse before anything runs, or is kept, what may hold a secret."""
        try:
            check_name(key_name or "")
            Address.of(url or "http://linked")
        except SettingsError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        url,
        model,
        framework,
        seed,
        temperature,
        max_tokens,
        image_size,
        templates,
        key_name,
        free_memory,
        timeout,
        text_model,
        options,
    ) -> io.NodeOutput:
        server = ChatServer(
            url,
            model.strip(),
            key_name,
            temperature=temperature,
            seed=seed,
            max_tokens=max_tokens,
            side=image_size,
            timeout=timeout,
            options=options,
            on_wait=HOST.check_interrupted,
            make_room=make_room if free_memory else None,
        )
        find_key(key_name, server.address.origin)  # a missing one is told now, not after the first picture
        writer = replace(server, model=text_model.strip()) if text_model.strip() else None
        sessions = (server.session, *([writer.session] if writer else []))
        proposer = VisionProposer(server, framework, Templates.of(templates), writer, sessions)
        return io.NodeOutput(proposer)
