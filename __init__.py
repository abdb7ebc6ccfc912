"""ComfyUI's entry point. Loading this file imports nothing, so WebUI and pytest may import it too."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the node pack; called by ComfyUI once it is ready for V3 nodes."""
    from .nodes import SteadyDiffExtension

    return SteadyDiffExtension()
