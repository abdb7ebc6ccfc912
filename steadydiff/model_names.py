"""What people call the models that hosts know by the names of their classes; for sentences only."""

from __future__ import annotations

from typing import Any

PRODUCTS = {
    "BaseModel": "SD 1.5 or SD 2",
    "SD21UnclipL": "SD 2.1 unCLIP",
    "SD21UnclipH": "SD 2.1 unCLIP",
    "SDXLRefiner": "SDXL Refiner",
    "SD15_instructpix2pix": "SD 1.5 InstructPix2Pix",
    "SDXL_instructpix2pix": "SDXL InstructPix2Pix",
    "SSD1B": "SSD-1B",
    "KOALA_700M": "KOALA 700M",
    "KOALA_1B": "KOALA 1B",
    "SD_X4Upscaler": "SD x4 Upscaler",
    "StableCascade_B": "Stable Cascade B",
    "StableCascade_C": "Stable Cascade C",
    "Stable_Cascade_B": "Stable Cascade B",
    "Stable_Cascade_C": "Stable Cascade C",
    "SVD_img2vid": "Stable Video Diffusion",
    "SV3D_u": "SV3D",
    "SV3D_p": "SV3D",
    "Stable_Zero123": "Stable Zero123",
    "StableAudio": "Stable Audio",
    "StableAudio1": "Stable Audio",
    "StableAudio3": "Stable Audio 3",
    "PixArt": "PixArt Alpha or Sigma",
    "PixArtAlpha": "PixArt Alpha",
    "PixArtSigma": "PixArt Sigma",
    "HunyuanDiT1": "HunyuanDiT",
    "FluxInpaint": "Flux Fill",
    "FluxSchnell": "Flux Schnell",
    "Flux2": "Flux.2",
    "LTXV": "LTX-Video",
    "LTXAV": "LTX-2",
    "GenmoMochi": "Mochi",
    "HunyuanImage21": "HunyuanImage 2.1",
    "HunyuanImage21Refiner": "HunyuanImage 2.1 Refiner",
    "HunyuanVideo15": "HunyuanVideo 1.5",
    "CosmosVideo": "Cosmos",
    "CosmosT2V": "Cosmos",
    "CosmosI2V": "Cosmos",
    "CosmosPredict2": "Cosmos Predict2",
    "CosmosT2IPredict2": "Cosmos Predict2",
    "CosmosI2VPredict2": "Cosmos Predict2",
    "Lumina2": "Lumina Image 2.0 or Z-Image",
    "ZImage": "Z-Image",
    "ZImagePixelSpace": "Z-Image in pixel space",
    "PixelDiTT2I": "PixelDiT",
    "WAN21": "Wan 2.1 or 2.2",
    "WAN21_T2V": "Wan 2.1 or 2.2",
    "WAN21_I2V": "Wan 2.1 or 2.2 image to video",
    "WAN22": "Wan 2.2 5B",
    "WAN22_T2V": "Wan 2.2 5B",
    "ChromaRadiance": "Chroma Radiance",
    "ACEStep": "ACE-Step",
    "ACEStep15": "ACE-Step 1.5",
    "Omnigen2": "OmniGen2",
    "QwenImage": "Qwen-Image",
    "Kandinsky5": "Kandinsky 5",
    "Kandinsky5Image": "Kandinsky 5 Image",
    "LongCatImage": "LongCat-Image",
}
"""A host's class, of a model or of its configuration -> product. One class may serve several products."""


def name_of(model: Any) -> str:
    """Return what people call a model of ComfyUI's, or else its class in words.

    Its configuration tells more products apart than its class does.
    """
    config, own = (type(part).__name__ for part in (getattr(model, "model_config", None), model))
    if config == "Lumina2":  # which is Z-Image too in hosts that have no class for it
        width = getattr(model.model_config, "unet_config", {}).get("dim", 0)
        return {2304: "Lumina Image 2.0", 3840: "Z-Image"}.get(width, PRODUCTS[config])
    known = PRODUCTS.get(config, config if config not in ("NoneType", "BASE") else own)
    return known.replace("_", " ")
