"""Configs of a training run; `train.py` makes its flags from these fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sat.config.checks import check, check_at_least, check_choices
from sat.config.decoding import DecodingConfig
from sat.config.model import DecoderConfig, EncoderConfig, VitGpt2Config
from sat.config.objectives import HardAttentionConfig, ScheduledSamplingConfig


@dataclass(frozen=True)
class StageConfig:
    """One stage of training: which parts learn, how fast, and when it is over."""

    epochs: int = 120
    """at most"""
    batch_size: int = 80
    """captions in a batch"""
    accumulate: int = 1
    """work through each batch in this many parts: less memory for the same step"""
    captions_per_sample: int = 1
    """captions shown with one encoding of their photo: more pay where the encoder learns"""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """rmsprop: with momentum and the constants of Graves 2013, for the paper's Flickr8k"""
    learning_rate: float = 4e-4
    """of the decoder"""
    encoder_learning_rate: float = 0.0
    """of the encoder; 0: the encoder is frozen"""
    encoder_from_block: int | None = None
    """first block that learns; the backbone's own default when empty"""
    trainable: Literal["cross_attention", "decoder", "all"] = "cross_attention"
    """of vit_gpt2: what learns; the encoder too (at its own rate) where it is all"""
    warmup: int = 0
    """steps over which the learning rates grow to what they are"""
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
    scheduled_sampling: ScheduledSamplingConfig = field(default_factory=ScheduledSamplingConfig)
    """show the decoder more and more of its own words in place of people's"""
    baseline: Literal["leave_one_out", "greedy"] = "leave_one_out"
    """what a drawn caption must beat: the mean of the image's other ones, or its greedy caption"""

    def __post_init__(self) -> None:
        check_choices(self)
        enough = self.samples >= (2 if self.baseline == "leave_one_out" else 1)
        check(enough, "samples", self.samples, "give at least 2: each judges the others")
        check(self.epochs >= 0, "epochs", self.epochs, "give 0 (skip the stage) or more")
        counts = ("batch_size", "captions_per_sample", "accumulate")
        check_at_least(1, self, *counts, "decay_patience", "stop_patience")
        together = self.objective == "likelihood" or self.captions_per_sample == 1
        remedy = "the self-critical objective draws captions of its own: leave it 1"
        check(together, "captions_per_sample", self.captions_per_sample, remedy)
        taught = self.objective == "likelihood" or self.scheduled_sampling.schedule == "none"
        schedule = self.scheduled_sampling.schedule
        check(taught, "schedule", schedule, "the self-critical objective shows no words: leave it")
        group, size = self.captions_per_sample, self.batch_size
        check(
            size % group == 0,
            "batch_size",
            size,
            f"give a multiple of {group} (captions_per_sample)",
        )
        check(self.learning_rate > 0, "learning_rate", self.learning_rate, "give a rate above 0")
        rate = self.encoder_learning_rate
        check(rate >= 0, "encoder_learning_rate", rate, "give 0 (frozen) or a rate")
        check_at_least(0, self, "warmup")
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
    family: Literal["show_attend_tell", "vit_gpt2"] = "show_attend_tell"
    """vit_gpt2 is built from hf, the other from encoder and decoder"""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    hf: VitGpt2Config = field(default_factory=VitGpt2Config)
    stage1: StageConfig = field(default_factory=StageConfig)
    stage2: StageConfig = field(
        default_factory=lambda: StageConfig(
            learning_rate=1e-4, encoder_learning_rate=1e-4, batch_size=32, trainable="all"
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
    hard: HardAttentionConfig = field(default_factory=HardAttentionConfig)
    label_smoothing: float = 0.0
    grad_clip: float = 5.0
    """largest norm of the whole gradient, or size of its elements; 0: no clipping"""
    grad_clip_by: Literal["norm", "value"] = "norm"
    """value: clip each element, as the tutorial does"""
    captions: Literal["all", "random"] = "all"
    """each epoch shows all captions of an image, or one of them drawn anew"""
    batches: Literal["by_length", "equal_length", "random"] = "by_length"
    """by_length: captions of like length, so that almost nothing is padding; equal_length: of one
    length only, as the paper; random: as the tutorial"""
    mirror: bool = False
    """show each picture mirrored half of the time (not where captions tell left from right)"""
    cache_features: bool = False
    """encode every image once, as far as the encoder is frozen, and train from the result, kept in
    half precision"""
    embeddings: str | None = None
    """text file of word vectors (GloVe, word2vec, fastText): sets embed_dim"""
    fine_tune_embeddings: bool = True
    """let the word vectors learn"""
    init: str | None = None
    """start from this checkpoint's weights; stages 2 and 3 alone start from output_dir's best/"""
    validation: DecodingConfig = field(default_factory=lambda: DecodingConfig(beam_size=1))
    """how the validation images are captioned after each epoch"""
    validation_batch_size: int = 64
    workers: int = 1
    """processes that read images; features are read by the main process"""
    device: str = "auto"
    """auto: CUDA where there is one; else any torch device"""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the matrix products (autocast), where the hardware gains by it; float16: CUDA only"""
    save_minutes: float = 10.0
    """last/ is also written this often within an epoch, so that a kill costs little"""
    log: Literal["auto", "tensorboard", "wandb", "none"] = "auto"
    """curves, histograms, sample captions; auto: for TensorBoard, where it is installed"""
    log_every: int = 100
    """steps between points of a curve, and between histograms of weights and gradients"""
    seed: int = 0
    resume: bool = False
    """go on where the run in output_dir was stopped"""
    overwrite: bool = False
    """replace the run that output_dir holds"""
    push_to_hub: str | None = None
    """in the end, upload best/ to this repository of the Hugging Face Hub (user/name)"""

    def __post_init__(self) -> None:
        check_choices(self)
        known = self.stages and sorted({1, 2, 3}.intersection(self.stages)) == list(self.stages)
        check(known, "stages", self.stages, "choose from 1, 2 and 3, in that order, each once")
        check(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "below 1")
        running = [stage_config(self, number) for number in self.stages]
        alone = all(stage.captions_per_sample == 1 for stage in running)
        fitting = self.batches != "equal_length" or alone
        check(fitting, "batches", self.batches, "captions_per_sample mixes lengths: leave it 1")
        steady = self.encoder.batch_norm == "fixed" or not self.cache_features
        drifting = "leave it out, features change while the encoder's batch_norm drifts"
        check(steady, "cache_features", self.cache_features, drifting)
        started = self.init is None or self.embeddings is None
        check(started, "embeddings", self.embeddings, "leave it out, init brings word vectors")
        check_at_least(0, self, "alpha_c", "grad_clip", "workers", "save_minutes")
        check_at_least(1, self, "validation_batch_size", "log_every")
        for number in self.stages:
            self._check_stage(f"stage{number}", stage_config(self, number))

    def _check_stage(self, name: str, stage: StageConfig) -> None:
        if self.captions == "random":
            together, remedy = stage.captions_per_sample, "captions random shows one: give 1"
            check(together == 1, f"{name}.captions_per_sample", together, remedy)
            fitting = self.batches != "equal_length"
            check(fitting, "batches", self.batches, "captions random draws any length")
        if self.family == "vit_gpt2" and (stage.trainable == "all") != stage.fine_tunes:
            remedy = "trainable all goes with a rate above 0, the others with 0 (frozen)"
            check(False, f"{name}.encoder_learning_rate", stage.encoder_learning_rate, remedy)


def stage_config(config: TrainConfig, number: int) -> StageConfig:
    """The config of stage 1, 2 or 3 (a function: jsonargparse takes methods for subcommands)."""
    return {1: config.stage1, 2: config.stage2, 3: config.stage3}[number]
