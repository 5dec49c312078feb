"""Configs that travel with a model: preprocessing, encoder, decoder, ViT + GPT-2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from sat.config.checks import check_choice, check_fields
from sat.config.decoding import DecodingConfig
from sat.config.resize import ResizeRule, parse_resize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DROPOUT_SITES = ("mean", "hidden", "readout")
AttentionMode = Literal["expected", "sampled", "argmax"]
Family = Literal["show_attend_tell", "vit_gpt2"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the tensor that the encoder was trained on; part of every model."""

    size: int = 256
    """side of the square image, in pixels"""
    resize: str = "squash"
    """squash: ignore the aspect ratio, as the tutorial; crop: the central square; inner_crop: 7/8
    of its side, as the paper (short side 256, crop 224); or steps, see `sat.config.resize`"""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """per channel (RGB), of values in 0..1"""
    std: tuple[float, float, float] = IMAGENET_STD
    """per channel (RGB), of values in 0..1"""

    def __post_init__(self) -> None:
        check_fields(self, {"[1, 4096]": "size", "[-1e6, 1e6]": "mean", "(0, 1e6]": "std"})
        _ = self.resize_rule

    @property
    def resize_rule(self) -> ResizeRule:
        """The steps of `resize`; `ValueError` for an unknown rule."""
        return parse_resize(self.resize, self.size)


@dataclass(frozen=True)
class EncoderConfig:
    """The network that turns an image into a grid of features."""

    backbone: str = "resnet101"
    """any torchvision classifier by name, timm:NAME (extra [timm]), or efficientnet_lite0 to 4"""
    weights: str = "default"
    """default: its ImageNet weights; none: random; else the path of a local state dict"""
    blocks: int | None = None
    """keep only this many blocks of the backbone (fewer blocks: finer grid); all when empty"""
    output_stride: int | None = None
    """side of a cell in pixels, 16 or 8: dilation in place of the strides beyond it gives a finer
    grid of the same weights; as the backbone has it when empty"""
    encoded_image_size: int | None = None
    """pool the grid to this many cells a side (the tutorial: 14); the native grid when empty"""
    batch_norm: Literal["fixed", "drifts"] = "fixed"
    """drifts: training goes by each batch's statistics and moves the stored ones, even where the
    encoder is frozen, as the tutorial's does"""

    def __post_init__(self) -> None:
        check_fields(self, {"[1, 1000]": "blocks", "[1, 256]": "encoded_image_size output_stride"})


@dataclass(frozen=True)
class DecoderConfig:
    """The recurrent decoder: its sizes, and the choices in which published systems differ."""

    attention_dim: int = 512
    """width of f_att's hidden layers"""
    embed_dim: int = 512
    """width of the word vectors"""
    decoder_dim: int = 512
    """width of the LSTM's state"""
    dropout: float = 0.5
    """share of the units that are dropped in training"""
    dropout_sites: tuple[str, ...] = ("hidden", "readout")
    """where dropout is applied: mean (the mean feature before the initial state, as
    arctic-captions), hidden (the state before the output), readout (the deep output's tanh)"""
    attention: Literal["soft", "hard"] = "soft"
    """in training: soft: the expected context (Xu et al. 2015, section 4.2); hard: one region drawn
    for each word, by REINFORCE (section 4.1)"""
    test_attention: AttentionMode = "expected"
    """in captioning: the expected context, that of one sampled region, or of the map's peak"""
    attention_depth: Literal[1, 2] = 1
    """hidden layers of f_att; the second sees the image alone"""
    activation: Literal["tanh", "relu"] = "tanh"
    """inside f_att; the paper: tanh, the tutorial: relu"""
    gate: Literal["vector", "scalar", "none"] = "vector"
    """on the context; the paper: scalar, the tutorial: vector"""
    initial_state: Literal["tanh", "linear"] = "tanh"
    """from the mean feature; the paper: tanh, the tutorial: linear"""
    output: Literal["deep", "linear"] = "deep"
    """deep: eq. 7 of the paper; linear: from the hidden state alone, as the tutorial does"""

    def __post_init__(self) -> None:
        check_fields(
            self, {"[1, 8192]": "attention_dim embed_dim decoder_dim", "[0, 1)": "dropout"}
        )
        for site in self.dropout_sites:
            check_choice("dropout_sites", site, DROPOUT_SITES)


@dataclass(frozen=True)
class VitGpt2Config:
    """A vision transformer and a language model joined by cross-attention (Hugging Face).

    A part named "fresh:" and one of Hugging Face's model types starts from random weights; its
    configuration holds Hugging Face's own keys for that type, and its defaults where a key is left
    out. Other parts bring theirs.
    """

    encoder: str = "fresh:vit"
    """Hub id, local folder, or fresh:vit, fresh:deit, fresh:beit, fresh:swin ..."""
    decoder: str = "fresh:gpt2"
    """Hub id, local folder, or fresh:gpt2, fresh:bert, fresh:roberta ..."""
    encoder_config: dict[str, Any] = field(default_factory=dict, hash=False)
    """of a fresh encoder: hidden_size, num_hidden_layers, patch_size ... of its type"""
    decoder_config: dict[str, Any] = field(default_factory=dict, hash=False)
    """of a fresh decoder: n_embd, n_layer, n_positions ... of its type"""
    attention_layer: int = -1
    """of the decoder, whose cross-attention is drawn; -1: the last"""
    attention_head: int | None = None
    """the head that is drawn; the mean over all when empty"""

    # In the checkpoints of earlier versions; the networks' own config.json says the same.
    EARLIER_KEYS = (
        *("encoder_layers", "encoder_width", "encoder_heads", "patch_size"),
        *("decoder_layers", "decoder_width", "decoder_heads", "positions", "dropout"),
    )

    def __post_init__(self) -> None:
        check_fields(self, {"[-1, 1000]": "attention_layer", "[0, 1000]": "attention_head"})


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to rebuild a captioner."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """the default options of captioning"""
    family: Family = "show_attend_tell"
    """vit_gpt2 is built from `hf`, show_attend_tell from `encoder` and `decoder`"""
    hf: VitGpt2Config = field(default_factory=VitGpt2Config)

    def __post_init__(self) -> None:
        check_fields(self)
