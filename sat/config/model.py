"""Configs that travel with a model: preprocessing, encoder, decoder, ViT + GPT-2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sat.config.checks import check, check_at_least, check_choice, check_choices
from sat.config.decoding import DecodingConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DROPOUT_SITES = ("mean", "hidden", "readout")
AttentionMode = Literal["expected", "sampled", "argmax"]
ResizeMode = Literal["squash", "crop", "inner_crop"]
Family = Literal["show_attend_tell", "vit_gpt2"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the tensor that the encoder was trained on; part of every model."""

    size: int = 256
    """side of the square image, in pixels"""
    resize: ResizeMode = "squash"
    """squash: ignore the aspect ratio, as the tutorial; crop: the central square; inner_crop: 7/8
    of its side, as the paper (short side 256, crop 224)"""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """per channel (RGB), of values in 0..1"""
    std: tuple[float, float, float] = IMAGENET_STD
    """per channel (RGB), of values in 0..1"""

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.size > 0, "image size", self.size, "give a positive number of pixels")
        check(min(self.std) > 0, "std", self.std, "every channel needs a positive deviation")


@dataclass(frozen=True)
class EncoderConfig:
    """The network that turns an image into a grid of features."""

    backbone: str = "resnet101"
    """efficientnet_lite0, efficientnet_lite2, or any torchvision classifier by name"""
    weights: str = "default"
    """default: its ImageNet weights; none: random; else the path of a local state dict"""
    blocks: int | None = None
    """keep only this many blocks of the backbone (fewer blocks: finer grid); all when empty"""
    encoded_image_size: int | None = None
    """pool the grid to this many cells a side (the tutorial: 14); the native grid when empty"""
    batch_norm: Literal["fixed", "drifts"] = "fixed"
    """drifts: training goes by each batch's statistics and moves the stored ones, even where the
    encoder is frozen, as the tutorial's does"""

    def __post_init__(self) -> None:
        check_choices(self)


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
        check_choices(self)
        for name in ("attention_dim", "embed_dim", "decoder_dim"):
            check(getattr(self, name) > 0, name, getattr(self, name), "give a positive size")
        check(0 <= self.dropout < 1, "dropout", self.dropout, "give a probability below 1")
        for site in self.dropout_sites:
            check_choice("dropout_sites", site, DROPOUT_SITES)


@dataclass(frozen=True)
class VitGpt2Config:
    """A vision transformer and a language model joined by cross-attention (Hugging Face).

    The sizes are those of parts that start from random weights; others bring their own.
    """

    encoder: str = "fresh:vit"
    """Hub id, local folder, or fresh:vit, fresh:deit, fresh:beit, fresh:swin (random weights)"""
    decoder: str = "fresh:gpt2"
    """Hub id, local folder, or fresh:gpt2, fresh:bert, fresh:roberta (random weights)"""
    patch_size: int = 16
    """side of the encoder's patches, in pixels"""
    encoder_layers: int = 4
    """transformer blocks"""
    encoder_width: int = 128
    """of its hidden states"""
    encoder_heads: int = 4
    """attention heads of a block"""
    decoder_layers: int = 4
    """transformer blocks"""
    decoder_width: int = 128
    """of its hidden states"""
    decoder_heads: int = 4
    """attention heads of a block"""
    positions: int = 64
    """tokens that a caption may have, the start included"""
    dropout: float = 0.1
    """in the decoder"""
    attention_layer: int = -1
    """of the decoder, whose cross-attention is drawn; -1: the last"""
    attention_head: int | None = None
    """the head that is drawn; the mean over all when empty"""

    def __post_init__(self) -> None:
        sizes = ("layers", "width", "heads")
        check_at_least(1, self, *(f"{p}_{size}" for p in ("encoder", "decoder") for size in sizes))
        check_at_least(1, self, "patch_size", "positions")
        check(0 <= self.dropout < 1, "dropout", self.dropout, "give a probability below 1")
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            check(width % heads == 0, f"{part}_width", width, f"give a multiple of {heads} (heads)")


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
        check_choices(self)
