"""Random small VisionEncoderDecoder folders whose captions end at different lengths."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    VisionEncoderDecoderModel,
)

SIZE, WORDS, LONGEST = 16, 31, 9
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIZE,
    "patch_size": 8,
}
SWIN = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 1, "patch_size": 4}
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": SIZES,
    "deit": SIZES,
    "beit": SIZES | {"use_absolute_position_embeddings": True},
    "swin": SWIN | {"image_size": SIZE},
    "dinov2": SIZES,
    "clip_vision_model": SIZES,
    "siglip_vision_model": SIZES,
}
BERT = {key: SIZES[key] for key in list(SIZES)[:4]} | {"max_position_embeddings": 40}
BART = {
    "d_model": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 40,
}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 40},
    "bert": BERT,
    "roberta": BERT,
    "trocr": BART,
    "mbart": BART,
}
NAMES = (
    ("<s>", "</s>", "<pad>"),
    ("[BOS]", "[EOS]", "[PAD]"),
    ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    ("[CLS]", "[SEP]", "<|endoftext|>"),
    ("</s>", "<s>", "[CLS]"),
)


def images(number: int, seed: int) -> Tensor:
    """Normalized pixels float64[B, 3, S, S]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)


def network(encoder: str, decoder: str, seed: int) -> VisionEncoderDecoderModel:
    """Random weights, loud enough that words depend on the image and on the words before."""
    language = DECODERS[decoder] | {"vocab_size": WORDS, "pad_token_id": seed % WORDS}
    language |= {"is_decoder": True, "add_cross_attention": True}
    made = VisionEncoderDecoderModel(
        encoder=AutoModel.from_config(AutoConfig.for_model(encoder, **ENCODERS[encoder])),
        decoder=AutoModelForCausalLM.from_config(AutoConfig.for_model(decoder, **language)),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))
    return made.double().eval()


def end_tokens(made: VisionEncoderDecoderModel, pixels: Tensor, start: int) -> list[int]:
    """The two tokens that end most of the captions, at different lengths, if they are the end."""
    lines = made.generate(
        pixel_values=pixels,
        generation_config=GenerationConfig(
            decoder_start_token_id=start, pad_token_id=start, max_new_tokens=LONGEST - 2
        ),
    )[:, 1:].tolist()

    def variety(token: int) -> tuple[int, int]:
        places = [line.index(token) for line in lines if token in line[1:] and line[0] != token]
        return min(len(set(places)), 3), len(places)

    return sorted(range(WORDS), key=variety, reverse=True)[:2]


def options(chance: random.Random, ends: list[int]) -> dict[str, Any]:
    """Values for a generation config: how long, how wide, and up to three constraints."""
    words = [i for i in range(WORDS) if i not in ends]
    beams = chance.choice((1, 3, 3, 4))
    shared: dict[str, list[Any]] = {
        "no_repeat_ngram_size": [1, 2, 3],
        "repetition_penalty": [0.7, 1.4],
        "min_length": [3, 5],
        "min_new_tokens": [2, 4],
        "forced_bos_token_id": [chance.choice(words)],
        "forced_eos_token_id": [ends[0], ends[:1]],
        "suppress_tokens": [chance.sample(words, 4)],
        "begin_suppress_tokens": [chance.sample(range(WORDS), 6)],
        "bad_words_ids": [[[i] for i in chance.sample(range(WORDS), 2)] + [[3, 4], [5, 5, 5]]],
    }
    found = {name: chance.choice(shared[name]) for name in chance.sample(sorted(shared), 3)}
    if found.get("forced_bos_token_id") in found.get("suppress_tokens", ()):
        del found["suppress_tokens"]  # transformers refuses both
    found |= chance.choice(({"max_length": LONGEST + 1}, {"max_new_tokens": LONGEST}))
    if beams > 1:
        found |= {"num_beams": beams, "num_return_sequences": chance.choice((1, beams))}
        found["early_stopping"] = chance.choice((True, False, "never"))
        found["length_penalty"] = chance.choice((-1.0, 0.0, 0.6, 1.0, 2.0))
    return found


def write_tokenizer(folder: Path, ids: dict[str, int], names: tuple[str, ...]) -> None:
    """A tokenizer of whole words in which the start, the end and padding have these names."""
    words = [f"word{i}" for i in range(WORDS)]
    for number, name in zip(ids.values(), (*names, "<|other_end|>")):
        if words[number].startswith("word"):
            words[number] = name
    tokenizer = Tokenizer(models.WordLevel(dict(zip(words, range(WORDS))), unk_token="word0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([word for word in words if not word.startswith("word")])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{role}_token": words[ids[role]] for role in ("bos", "eos", "pad")}
    values = {"tokenizer_class": "PreTrainedTokenizerFast"} | special
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


def write_folder(folder: Path, made: VisionEncoderDecoderModel, values: dict[str, Any]) -> None:
    """Save the network with these values of its generation config, and a preprocessor."""
    made.generation_config = GenerationConfig(**values)
    made.save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    preprocessor = {"image_processor_type": "ViTImageProcessor", "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
