"""The configurations of small random encoders and decoders, for those who download nothing.

Plain values under the names that Hugging Face's configuration of each kind gives them.
"""

from __future__ import annotations

from typing import Any

from sat.config.checks import check_choice

FRESH = "fresh:"
"""before the kind of a part that starts from random weights"""


def encoder_values(
    name: str, *, image_size: int, patch_size: int, layers: int, width: int, heads: int
) -> dict[str, Any]:
    """Of the vision transformer "fresh:kind"; none for another name.

    Images and patches are squares, in pixels. Swin halves its grid once, between two stages that
    share the layers.
    """
    image = {"image_size": image_size, "patch_size": patch_size, **_spread(width)}
    plain: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }
    kinds = {
        "vit": plain,
        "deit": plain,
        "beit": plain | {"use_absolute_position_embeddings": True},
        "swin": {
            "embed_dim": width // 2,
            "depths": (layers - layers // 2, layers // 2),
            "num_heads": (max(heads // 2, 1), heads),
            "window_size": max(1, min(7, image_size // patch_size // 2)),
        },
    }
    return _of_kind(name, kinds, image)


def decoder_values(
    name: str,
    *,
    vocab_size: int,
    start_id: int,
    end_id: int,
    pad_id: int,
    positions: int,
    layers: int,
    width: int,
    heads: int,
    dropout: float,
) -> dict[str, Any]:
    """Of the language model "fresh:kind", with cross-attention; none for another name."""
    shared = {
        "vocab_size": vocab_size,
        "bos_token_id": start_id,
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
        "is_decoder": True,
        "add_cross_attention": True,
        **_spread(width),
    }
    bert: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "max_position_embeddings": positions,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    gpt2: dict[str, Any] = {
        "n_layer": layers,
        "n_embd": width,
        "n_head": heads,
        "n_positions": positions,
    }
    gpt2 |= dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), dropout)
    after_padding = positions + pad_id + 1  # where RoBERTa begins to count
    kinds = {
        "gpt2": gpt2,
        "bert": bert,
        "roberta": bert | {"max_position_embeddings": after_padding},
    }
    return _of_kind(name, kinds, shared)


def _spread(width: int) -> dict[str, float]:
    """Random weights that neither shrink nor swell what passes through layers of this width.

    The usual 0.02 suits a width of 768; a small network that starts with it learns slowly.
    """
    return {"initializer_range": width**-0.5}


def _of_kind(name: str, kinds: dict[str, dict], shared: dict[str, Any]) -> dict[str, Any]:
    if not name.startswith(FRESH):
        return {}
    check_choice("a fresh part", name, [FRESH + kind for kind in kinds])
    return shared | kinds[name.removeprefix(FRESH)]
