"""Every default of the library, written once: frozen dataclasses that check themselves.

Flags are made from these fields, YAML recipes and checkpoints store them, and `__post_init__`
refuses what cannot work. Nothing here imports torch, so `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sat.fields import check, check_at_least, check_choices

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the tensor the encoder was trained on; it travels with the model."""

    size: int = 256
    """side of the square picture, in pixels"""
    resize: Literal["squash", "crop"] = "squash"
    """squash: ignore the aspect ratio, as the tutorial; crop: short side, then the centre"""
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
    """The network that turns a photo into a grid of features."""

    backbone: str = "resnet101"
    """efficientnet_lite0, efficientnet_lite2, or any torchvision classifier by name"""
    weights: str = "default"
    """default: its ImageNet weights; none: random; else the path of a local state dict"""
    blocks: int | None = None
    """keep only this many blocks of the backbone (fewer blocks: finer grid); all when empty"""
    encoded_image_size: int | None = None
    """pool the grid to this many cells a side (the tutorial: 14); the native grid when empty"""


@dataclass(frozen=True)
class DecoderConfig:
    """The recurrent decoder: sizes, and a field for each choice the published systems differ in."""

    attention_dim: int = 512
    embed_dim: int = 512
    decoder_dim: int = 512
    dropout: float = 0.5
    attention: Literal["soft"] = "soft"
    """soft: the expected context (Xu et al. 2015, section 4.2)"""
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


@dataclass(frozen=True)
class Decoding:
    """How words are chosen; names and meaning follow Hugging Face `generate`."""

    beam_size: int = 5
    """beams kept for each image; 1 is greedy decoding (alias: num_beams)"""
    max_length: int = 51
    """steps at most, <end> included: captions of 50 words"""
    min_length: int = 0
    """words at least, before a caption may end"""
    length_penalty: float = 0.0
    """total log-probability is divided by length ** this: above 0 favours longer captions"""
    no_repeat_ngram_size: int = 0
    """no n-gram of this length occurs twice; 0: off"""
    num_return_sequences: int = 1
    """captions returned for each image, best first"""
    forbid_unknown: bool = False
    """never say <unk>"""
    do_sample: bool = False
    """draw words instead of searching; temperature, top_k or top_p below imply it"""
    temperature: float = 1.0
    """logits are divided by it before drawing"""
    top_k: int = 0
    """draw from this many likeliest words; 0: from all"""
    top_p: float = 1.0
    """draw from the smallest set of words with at least this probability (nucleus)"""
    seed: int = 0
    """of the draws"""

    def __post_init__(self) -> None:
        check_at_least(1, self, "beam_size", "max_length", "num_return_sequences")
        within = f"give a number from 0 to max_length ({self.max_length})"
        check(0 <= self.min_length <= self.max_length, "min_length", self.min_length, within)
        size = self.no_repeat_ngram_size
        check(size >= 0, "no_repeat_ngram_size", size, "give 0 (off) or a length")
        check(
            self.samples or self.num_return_sequences <= self.beam_size,
            "num_return_sequences",
            self.num_return_sequences,
            f"at most beam_size ({self.beam_size}) captions come out of one search",
        )
        check(self.temperature > 0, "temperature", self.temperature, "give a number above 0")
        check(self.top_k >= 0, "top_k", self.top_k, "give 0 (off) or a number of words")
        check(0 < self.top_p <= 1, "top_p", self.top_p, "give a probability above 0 and at most 1")

    @property
    def samples(self) -> bool:
        """True when words are drawn at random."""
        return self.do_sample or self.temperature != 1 or self.top_k > 0 or self.top_p < 1


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a captioner again."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    decoding: Decoding = field(default_factory=Decoding)
    """how it captions photos unless told otherwise"""


@dataclass(frozen=True)
class StageConfig:
    """One stage of training: which parts learn, how fast, and when it is over."""

    epochs: int = 120
    """at most"""
    batch_size: int = 80
    """captions in a batch"""
    learning_rate: float = 4e-4
    """of the decoder (Adam)"""
    encoder_learning_rate: float = 0.0
    """of the encoder (Adam); 0: the encoder is frozen"""
    encoder_from_block: int | None = None
    """first block that learns; the backbone's own default when empty"""
    decay: float = 0.8
    """the learning rates are multiplied by this ..."""
    decay_patience: int = 8
    """... after so many epochs without a better validation BLEU-4"""
    stop_patience: int = 20
    """the stage ends after so many epochs without a better validation BLEU-4"""
    ema: float = 0.0
    """validate and keep a moving average of the weights, with this decay a step (0.999)"""
    objective: Literal["likelihood", "self_critical"] = "likelihood"
    """self_critical: reward captions drawn from the model by CIDEr-D; batch_size counts images"""
    samples: int = 5
    """captions drawn of each image by the self-critical objective"""

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.samples >= 2, "samples", self.samples, "give at least 2: each judges the others")
        check(self.epochs >= 0, "epochs", self.epochs, "give 0 (skip the stage) or more")
        check_at_least(1, self, "batch_size", "decay_patience", "stop_patience")
        check(self.learning_rate > 0, "learning_rate", self.learning_rate, "give a rate above 0")
        rate = self.encoder_learning_rate
        check(rate >= 0, "encoder_learning_rate", rate, "give 0 (frozen) or a rate")
        check(0 <= self.ema < 1, "ema", self.ema, "give 0 (off) or a share below 1, as 0.999")
        check(0 < self.decay <= 1, "decay", self.decay, "give a factor in (0, 1]")

    @property
    def fine_tunes(self) -> bool:
        """True when the encoder learns too."""
        return self.encoder_learning_rate > 0


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run: `train.py` makes its flags from these fields."""

    data_folder: str = "data"
    """where create_input_files.py wrote"""
    data_name: str = ""
    """the common part of the prepared files' names; found by itself when the folder holds one"""
    output_dir: str = "runs/default"
    """gets best/, last/ and log.jsonl"""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    stage1: StageConfig = field(default_factory=StageConfig)
    stage2: StageConfig = field(
        default_factory=lambda: StageConfig(
            learning_rate=1e-4, encoder_learning_rate=1e-4, batch_size=32
        )
    )
    stage3: StageConfig = field(
        default_factory=lambda: StageConfig(
            objective="self_critical", learning_rate=5e-5, batch_size=32, epochs=20
        )
    )
    stages: tuple[int, ...] = (1,)
    """which stages to run, in order; all but 1 start from the best of the stages before"""
    alpha_c: float = 0.1
    """weight of the doubly stochastic penalty (lambda of eq. 14)"""
    penalty_scaling: Literal["sum", "mean"] = "sum"
    """sum: eq. 14, per word; mean: over captions and regions, as the tutorial does"""
    label_smoothing: float = 0.0
    grad_clip: float = 5.0
    """largest norm of the whole gradient; 0: no clipping"""
    by_length: bool = True
    """batches of captions of like length, so that almost nothing is padding"""
    mirror: bool = False
    """show each picture mirrored half of the time (not where captions tell left from right)"""
    cache_features: bool = False
    """encode every image once to half-precision features and train from them (frozen encoder)"""
    embeddings: str | None = None
    """text file of word vectors (GloVe): sets embed_dim"""
    fine_tune_embeddings: bool = True
    """let the word vectors learn"""
    init: str | None = None
    """start from this checkpoint's weights; stages 2 and 3 alone start from output_dir's best/"""
    validation: Decoding = field(default_factory=lambda: Decoding(beam_size=1))
    """how the validation images are captioned after each epoch"""
    validation_batch_size: int = 64
    workers: int = 1
    """processes that read images; features are read by the main process"""
    device: str = "auto"
    """auto: CUDA where there is one; else any torch device"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast for the matrix products, where the hardware gains by it"""
    save_minutes: float = 10.0
    """last/ is also written this often within an epoch, so that a kill costs little"""
    seed: int = 0
    resume: bool = False
    """go on where the run in output_dir was stopped"""
    overwrite: bool = False
    """replace the run that output_dir holds"""

    def __post_init__(self) -> None:
        check_choices(self)
        known = self.stages and sorted({1, 2, 3}.intersection(self.stages)) == list(self.stages)
        check(known, "stages", self.stages, "choose from 1, 2 and 3, in that order, each once")
        check(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "below 1")
        check_at_least(0, self, "alpha_c", "grad_clip", "workers", "save_minutes")
        check_at_least(1, self, "validation_batch_size")
