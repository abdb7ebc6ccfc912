"""Reduced models of the host's own families: a new one is a row."""

# Over 400 lines: a table of data, a row a family.

from dataclasses import dataclass, field

import torch

from tools.launch import tiny_models
from tools.launch.inprocess import load

TEXT = 16  # width of the prompts


@dataclass(frozen=True)
class Family:
    """A class of comfy.supported_models, small.

    network: what its network is made with, beside what tells the class from others
    shape:   of one latent, [C, *S]
    text:    of a prompt [tokens, width] and
    more:    what it carries beside it
    space:   how its states are built; None: in a way that we refuse
    masked:  whether the host itself can draw it with a mask
    """

    name: str
    network: dict
    shape: tuple[int, ...]
    text: tuple[int, ...] = (6, TEXT)
    more: dict = field(default_factory=dict)
    space: str | None = "flow"
    masked: bool = True


def unet(**more):
    return {**tiny_models.unet_config(), "context_dim": TEXT, **more}


POOLED = {"pooled_output": torch.linspace(-1, 1, TEXT)[None]}
HEADS = {"model_channels": 64}  # of 64 channels, as these classes have them
ADM = {"num_classes": "sequential"}
FLUX = {
    **{"in_channels": 16, "out_channels": 16, "vec_in_dim": TEXT, "context_in_dim": TEXT, "hidden_size": 32},
    **{"mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6]},
    **{"theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": []},
}
FILM = {
    **{key: value for key, value in FLUX.items() if key != "txt_ids_dims"},
    "patch_size": [1, 2, 2],
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
COSMOS = {
    **{"max_img_h": 16, "max_img_w": 16, "max_frames": 8, "in_channels": 16, "out_channels": 16},
    **{"patch_spatial": 2, "patch_temporal": 1, "model_channels": 32, "num_blocks": 1, "num_heads": 2},
    **{"crossattn_emb_channels": TEXT, "pos_emb_cls": "rope3d", "concat_padding_mask": True},
}
NEXT_DIT = {
    **{"patch_size": 2, "in_channels": 16, "dim": 48, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2},
    **{"n_kv_heads": 2, "axes_dims": [8, 8, 8], "axes_lens": [64, 32, 32], "cap_feat_dim": TEXT},
    **{"qk_norm": True, "multiple_of": 8},
}
WAN = {
    **{"dim": 48, "ffn_dim": 64, "freq_dim": 32, "text_dim": TEXT, "num_heads": 2, "num_layers": 1},
    **{"in_dim": 16, "out_dim": 16, "text_len": 8, "model_type": "t2v"},
}
QWEN = {
    **{"in_channels": 64, "out_channels": 16, "num_layers": 1, "attention_head_dim": 16},
    **{"num_attention_heads": 2, "joint_attention_dim": TEXT, "axes_dims_rope": (4, 6, 6)},
}
KANDINSKY = {
    **{"in_text_dim": TEXT, "in_text_dim2": TEXT, "time_dim": 16, "model_dim": 64, "ff_dim": 64},
    **{"num_text_blocks": 1, "num_visual_blocks": 1, "axes_dims": (16, 24, 24), "visual_embed_dim": 132},
}
FAMILIES = [
    Family("SD15", unet(), (4, 8, 8), space="ve"),
    Family("SD20", unet(**HEADS), (4, 8, 8), space="ve"),
    Family("LotusD", unet(**HEADS, **ADM, adm_in_channels=4), (4, 8, 8), space=None),
    Family("SD15_instructpix2pix", unet(in_channels=8), (4, 8, 8), space="ve"),
    Family("SDXL", unet(**HEADS, **ADM, adm_in_channels=1536 + TEXT), (4, 8, 8), more=POOLED, space="ve"),
    Family(
        "SDXL_instructpix2pix",
        unet(**HEADS, **ADM, adm_in_channels=1536 + TEXT, in_channels=8),
        (4, 8, 8),
        more=POOLED,
        space="ve",
    ),
    Family("SSD1B", unet(**HEADS, **ADM, adm_in_channels=1536 + TEXT), (4, 8, 8), more=POOLED, space="ve"),
    Family(
        "SDXLRefiner", unet(**HEADS, **ADM, adm_in_channels=1280 + TEXT), (4, 8, 8), more=POOLED, space="ve"
    ),
    Family(
        "Stable_Cascade_C",
        {
            "c_cond": 32,
            "c_hidden": [32, 32],
            "nhead": [2, 2],
            "blocks": [[1, 1], [1, 1]],
            "c_clip_text": TEXT,
            "c_clip_text_pooled": TEXT,
            "stable_cascade_stage": "c",
        },
        (16, 8, 8),
        more={"pooled_output": POOLED["pooled_output"][None]},
        space="ve",
    ),
    Family(
        "Stable_Cascade_B",
        {
            "c_cond": 32,
            "c_hidden": [32, 32, 32, 32],
            "nhead": [-1, -1, 2, 2],
            "c_clip": TEXT,
            "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]],
            "stable_cascade_stage": "b",
        },
        (4, 16, 16),
        more={"pooled_output": POOLED["pooled_output"][None]},
        space="ve",
    ),
    Family(
        "SD3",
        {
            "input_size": None,
            "patch_size": 2,
            "in_channels": 16,
            "depth": 1,
            "pos_embed_max_size": 16,
            "num_patches": 256,
            "adm_in_channels": TEXT,
            "pos_embed_scaling_factor": None,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": TEXT, "out_features": 64},
            },
        },
        (16, 8, 8),
        more=POOLED,
    ),
    Family(
        "AuraFlow",
        {
            "dim": 64,
            "n_layers": 2,
            "n_double_layers": 1,
            "n_heads": 2,
            "global_conddim": 64,
            "cond_seq_dim": TEXT,
            "max_seq": 64,
        },
        (4, 8, 8),
    ),
    Family(
        "PixArtAlpha",
        {
            "input_size": 8,
            "hidden_size": 64,
            "depth": 1,
            "num_heads": 4,
            "caption_channels": TEXT,
            "pe_interpolation": 1,
            "micro_condition": False,
            "model_max_length": 6,
        },
        (4, 64, 64),
        space="ve",
    ),
    Family(
        "PixArtSigma",
        {
            "input_size": 8,
            "hidden_size": 64,
            "depth": 1,
            "num_heads": 4,
            "caption_channels": TEXT,
            "pe_interpolation": 1,
            "micro_condition": False,
            "model_max_length": 6,
        },
        (4, 64, 64),
        space="ve",
    ),
    Family("Flux", {**FLUX, "guidance_embed": True}, (16, 8, 8), more=POOLED | {"guidance": 3.5}),
    Family("FluxSchnell", FLUX, (16, 8, 8), more=POOLED),
    Family("FluxInpaint", {**FLUX, "in_channels": 96}, (16, 8, 8), more=POOLED),
    Family(
        "Flux2",
        {
            **FLUX,
            "in_channels": 128,
            "out_channels": 128,
            "patch_size": 1,
            "vec_in_dim": None,
            "axes_dim": [4, 4, 4, 4],
            "global_modulation": True,
            "mlp_silu_act": True,
            "ops_bias": False,
            "qkv_bias": False,
            "txt_ids_dims": [3],
        },
        (128, 4, 4),
    ),
    Family(
        "Chroma",
        {
            **{key: value for key, value in FLUX.items() if key != "guidance_embed"},
            "in_channels": 64,
            "out_channels": 64,
            "in_dim": 64,
            "out_dim": 32,
            "hidden_dim": 32,
            "n_layers": 1,
        },
        (16, 8, 8),
    ),
    Family("LongCatImage", {**FLUX, "vec_in_dim": None, "txt_ids_dims": [1, 2]}, (16, 8, 8)),
    Family("HunyuanVideo", FILM, (16, 2, 8, 8), more=POOLED),
    Family(
        "HunyuanImage21",
        {
            **FILM,
            "in_channels": 64,
            "out_channels": 64,
            "patch_size": [1, 1],
            "axes_dim": [8, 8],
            "vec_in_dim": None,
        },
        (64, 8, 8),
    ),
    Family(
        "GenmoMochi",
        {
            "in_channels": 12,
            "hidden_size_x": 64,
            "hidden_size_y": 32,
            "depth": 2,
            "num_heads": 2,
            "mlp_ratio_x": 192,
            "mlp_ratio_y": 2,
            "use_t5": True,
            "t5_feat_dim": TEXT,
            "t5_token_length": 6,
            "learn_sigma": False,
            "attend_to_padding": False,
            "use_extended_posenc": False,
            "patch_embed_bias": True,
            "rope_theta": 1e4,
            "timestep_mlp_bias": True,
            "posenc_preserve_area": True,
            "qkv_bias": False,
            "qk_norm": True,
            "out_bias": True,
            "timestep_scale": 1000.0,
        },
        (12, 2, 8, 8),
        more={"attention_mask": torch.ones(1, 6, dtype=torch.bool)},
    ),
    Family(
        "LTXV",
        {
            "in_channels": 128,
            "cross_attention_dim": 32,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "caption_channels": TEXT,
            "num_layers": 1,
        },
        (128, 2, 4, 4),
        more={"attention_mask": torch.ones(1, 6, dtype=torch.long)},
    ),
    Family(
        "CosmosT2V",
        {
            **COSMOS,
            "extra_per_block_abs_pos_emb": True,
            "extra_per_block_abs_pos_emb_type": "learnable",
            "block_config": "FA-CA-MLP",
            "block_x_format": "THWBD",
        },
        (16, 2, 8, 8),
        space="ve",
    ),
    Family("CosmosT2IPredict2", COSMOS, (16, 1, 8, 8), space="ve"),
    Family("Lumina2", NEXT_DIT, (16, 8, 8)),
    Family(
        "ZImage",
        {
            **NEXT_DIT,
            "dim": 256,
            "n_heads": 8,
            "n_kv_heads": 8,
            "axes_dims": [8, 12, 12],
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 8,
        },
        (16, 8, 6),
    ),
    Family("WAN21_T2V", WAN, (16, 2, 8, 8)),
    Family("WAN21_I2V", {**WAN, "in_dim": 36, "model_type": "i2v"}, (16, 2, 8, 8)),
    Family("WAN21_FunControl2V", {**WAN, "in_dim": 48}, (16, 2, 8, 8)),
    Family("WAN22_T2V", {**WAN, "in_dim": 48, "out_dim": 48}, (48, 2, 8, 8)),
    Family(
        "HiDream",
        {
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "caption_channels": [TEXT, TEXT],
            "text_emb_dim": TEXT,
            "axes_dims_rope": (4, 6, 6),
            "max_resolution": (16, 16),
            "llama_layers": [0, 0],
        },
        (16, 8, 8),
        more=POOLED | {"conditioning_llama3": torch.linspace(-1, 1, 96).reshape(1, 1, 6, TEXT)},
    ),
    Family(
        "ACEStep",
        {
            "num_layers": 1,
            "inner_dim": 32,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "text_embedding_dim": TEXT,
            "ssl_latent_dims": [16, 16],
            "lyric_encoder_vocab_size": 32,
        },
        (8, 16, 8),
        more={"conditioning_lyrics": torch.ones(1, 4, dtype=torch.long)},
    ),
    Family(
        "Omnigen2",
        {
            "hidden_size": 48,
            "num_layers": 1,
            "num_refiner_layers": 1,
            "num_attention_heads": 2,
            "num_kv_heads": 2,
            "multiple_of": 8,
            "axes_dim_rope": (8, 8, 8),
            "axes_lens": (32, 32, 32),
            "text_feat_dim": TEXT,
        },
        (16, 8, 8),
        more={"attention_mask": torch.ones(1, 6, dtype=torch.long)},
    ),
    Family("QwenImage", QWEN, (16, 1, 8, 8)),
    Family("Kandinsky5", KANDINSKY, (16, 2, 8, 8), more=POOLED, masked=False),
    Family("Kandinsky5Image", {**KANDINSKY, "visual_embed_dim": 64}, (16, 1, 8, 8), more=POOLED),
    Family(
        "ErnieImage",
        {
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_layers": 1,
            "ffn_hidden_size": 32,
            "text_in_dim": TEXT,
            "rope_axes_dim": (4, 6, 6),
        },
        (128, 4, 4),
    ),
    Family(
        "CogVideoX_T2V",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 32,
            "time_embed_dim": 16,
            "text_embed_dim": TEXT,
            "num_layers": 1,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 5,
            "max_text_seq_length": 6,
            "use_rotary_positional_embeddings": True,
        },
        (16, 2, 8, 8),
        space=None,
    ),
    Family(
        "Hunyuan3Dv2",
        {
            "context_in_dim": TEXT,
            "hidden_size": 32,
            "num_heads": 2,
            "depth": 1,
            "depth_single_blocks": 1,
            "mlp_ratio": 2.0,
        },
        (64, 12),
    ),
]


def make(family: Family):
    """Return the family's model, randomly initialised, in the host's keeping."""
    host = tiny_models.host()
    kind = getattr(load("comfy.supported_models"), family.name)
    own = {key: value for key, value in kind.unet_config.items() if key in ("image_model", "audio_model")}
    config = kind({**own, "dtype": torch.float32, **family.network})
    config.set_inference_dtype(torch.float32, None)
    device = torch.device("cpu")
    model = config.get_model({}, "", device)
    tiny_models.initialise(model.diffusion_model)
    return host.Patcher(model.eval(), load_device=device, offload_device=device)
