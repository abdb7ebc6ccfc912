"""Writes a very small vision-language model with random weights, for a real chat server to serve.

It answers nonsense, but nonsense of its own for every text and picture. Start it with
`python -m tools.launch.tiny_vlm FOLDER`.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

MARKS = ("<pad>", "<s>", "</s>", "<image>")
SIDE, PATCH = 32, 8
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def make_processor() -> LlavaProcessor:
    """One token per byte, and pictures of 32 by 32 in 16 patches."""
    letters = [*MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(list(MARKS))
    pad, start, end, image = MARKS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=pad,
        bos_token=start,
        eos_token=end,
        extra_special_tokens={"image_token": image},
    )
    pictures = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=CHAT,
        image_token=image,
        num_additional_image_tokens=1,
    )


def make_model(words: int) -> LlavaForConditionalGeneration:
    """137,000 weights, large enough that every byte of the question moves the answer."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=words,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=MARKS.index("<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=(SIDE // PATCH) ** 2 + 1,
    )
    model = LlavaForConditionalGeneration(config)
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data = 2 * torch.randn_like(weight) * weight.shape[-1] ** -0.5
    model.generation_config.update(pad_token_id=0, do_sample=True)
    return model


if __name__ == "__main__":
    processor = make_processor()
    make_model(len(processor.tokenizer)).save_pretrained(Path(sys.argv[1]))
    processor.save_pretrained(Path(sys.argv[1]))
