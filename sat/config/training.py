"""Configs of a training run; `sat-train` makes its flags from these fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sat.config.checks import check, check_fields, check_paths
from sat.config.decoding import SEEDS, DecodingConfig
from sat.config.model import DecoderConfig, EncoderConfig, Family, VitGpt2Config
from sat.config.objectives import HardAttentionConfig, ScheduledSamplingConfig

Precision = Literal["float32", "tf32", "bfloat16", "float16", "auto"]


@dataclass(frozen=True)
class StageConfig:
    """One stage of training: which parts learn, how fast, and when it ends."""

    epochs: int = 120
    """at most"""
    batch_size: int = 80
    """captions in a batch"""
    accumulate: int = 1
    """compute each batch in this many parts: less memory for the same step"""
    captions_per_sample: int = 1
    """captions shown with one encoding of their image; more are faster if the encoder learns"""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """rmsprop: with momentum and the constants of Graves 2013, for the paper's Flickr8k"""
    learning_rate: float = 4e-4
    """of the decoder"""
    encoder_learning_rate: float = 0.0
    """of the encoder; 0: the encoder is frozen"""
    encoder_from_block: int | None = None
    """first block that learns; the default of the backbone when empty"""
    trainable: Literal["cross_attention", "decoder", "all"] = "cross_attention"
    """of vit_gpt2: the part that learns; all: the encoder too, at its own rate"""
    warmup: int = 0
    """steps over which the learning rates grow from 0"""
    decay: float = 0.8
    """the learning rates are multiplied by this ..."""
    decay_patience: int = 8
    """... after so many epochs without a better validation BLEU-4"""
    stop_patience: int = 20
    """the stage ends after so many epochs without a better validation BLEU-4"""
    ema: float = 0.0
    """validate and keep a moving average of the weights, with this decay a step (0.999); less in
    the first steps of the stage"""
    objective: Literal["likelihood", "self_critical"] = "likelihood"
    """self_critical: reward captions drawn from the model by CIDEr-D; batch_size counts images"""
    samples: int = 5
    """captions drawn of each image by the self-critical objective"""
    scheduled_sampling: ScheduledSamplingConfig = field(default_factory=ScheduledSamplingConfig)
    """replace more and more of the input tokens by samples of the model"""
    baseline: Literal["leave_one_out", "greedy"] = "leave_one_out"
    """reward to subtract: the mean of the other captions drawn of the image, or its greedy one"""

    def __post_init__(self) -> None:
        check_fields(
            self,
            {
                "[0, 1e6]": "epochs",
                "[1, 65536]": "batch_size accumulate",
                "[1, 1000]": "captions_per_sample samples",
                "[0, 1e9]": "warmup",
                "(0, 1e30]": "learning_rate",
                "[0, 1e30]": "encoder_learning_rate",
                "[0, 1000]": "encoder_from_block",
                "(0, 1]": "decay",
                "[0, 1)": "ema",
                "[1, 1e6]": "decay_patience stop_patience",
            },
        )
        least_samples = 2 if self.baseline == "leave_one_out" else 1
        remedy = "give at least 2: each judges the others"
        check(self.samples >= least_samples, "samples", self.samples, remedy)
        group, size = self.captions_per_sample, self.batch_size
        if self.objective == "self_critical":
            remedy = "the self-critical objective draws captions of its own: leave it 1"
            check(group == 1, "captions_per_sample", group, remedy)
            schedule = self.scheduled_sampling.schedule
            remedy = "the self-critical objective shows no words: leave it"
            check(schedule == "none", "schedule", schedule, remedy)
        remedy = f"give a multiple of {group} (captions_per_sample)"
        check(size % group == 0, "batch_size", size, remedy)

    @property
    def fine_tunes(self) -> bool:
        """True when the encoder learns too."""
        return self.encoder_learning_rate > 0


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run: `sat-train` makes its flags from these fields."""

    data_folder: str = "data"
    """where sat-prepare wrote"""
    data_name: str = ""
    """the common part of the prepared files' names; found by itself when the folder holds one"""
    output_dir: str = "runs/default"
    """folder for best/, last/ and log.jsonl"""
    family: Family = "show_attend_tell"
    """vit_gpt2 is built from hf, show_attend_tell from encoder and decoder"""
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
    """stages to run, in order; 2 and 3 start from the best checkpoint of the stages before"""
    alpha_c: float = 0.1
    """weight of the doubly stochastic penalty (lambda of eq. 14)"""
    penalty_scaling: Literal["sum", "mean"] = "sum"
    """sum: eq. 14, per word; mean: over captions and regions, as the tutorial does"""
    box_weight: float = 0.0
    """weight of -log(attention inside the boxes) at the words that name objects with boxes"""
    hard: HardAttentionConfig = field(default_factory=HardAttentionConfig)
    label_smoothing: float = 0.0
    """share of each target's probability that all words get"""
    grad_clip: float = 5.0
    """largest norm of the gradient, or of its elements; 0: no clipping"""
    grad_clip_by: Literal["norm", "value"] = "norm"
    """value: clip each element, as the tutorial does"""
    captions: Literal["all", "random"] = "all"
    """each epoch shows all captions of an image, or one of them drawn anew"""
    repeat: dict[str, int] = field(default_factory=dict, hash=False)
    """images whose file name begins so are shown this many times an epoch: {coco_: 4}"""
    batches: Literal["by_length", "equal_length", "random"] = "by_length"
    """by_length: captions of similar length, with almost no padding; equal_length: of one length
    only, as the paper; random: as the tutorial"""
    mirror: bool = False
    """mirror each image half of the time (not if captions tell left from right)"""
    cache_features: bool = False
    """encode every image once by the frozen part of the encoder, and train from the features, kept
    in half precision"""
    cache_dir: str | None = None
    """folder of these features, where that of the data is read-only; data_folder when empty"""
    embeddings: str | None = None
    """text file of word vectors (GloVe, word2vec, fastText): sets embed_dim"""
    fine_tune_embeddings: bool = True
    """train the word vectors"""
    init: str | None = None
    """checkpoint to start from; stages 2 and 3 alone start from output_dir's best/"""
    validation: DecodingConfig = field(default_factory=lambda: DecodingConfig(beam_size=1))
    """how the validation images are captioned after each epoch; kept with the checkpoints"""
    choose_decoding: bool = True
    """at the end caption the validation images with beams 1, 3 and 5 and length penalties 0, 0.5
    and 1, and keep with best/ what scores highest"""
    validation_batch_size: int = 64
    """images captioned together"""
    workers: int = 1
    """processes that read images, and on CUDA features"""
    device: str = "auto"
    """auto: CUDA where there is one; else any torch device"""
    precision: Precision = "float32"
    """of the matrix products (autocast); tf32 and float16: CUDA only; auto: bfloat16 on CUDA or a
    processor that has it (AVX512-BF16, AMX), else float32"""
    compile: bool = False
    """torch.compile: slow first steps, faster later ones"""
    ddp_timeout: float = 1800.0
    """seconds that the processes of torchrun wait for one of them before all stop"""
    save_minutes: float = 10.0
    """minutes between saves of last/ within an epoch, so that a killed run loses little"""
    tracker: Literal["auto", "tensorboard", "wandb", "none"] = "auto"
    """curves, histograms, sample captions; auto: TensorBoard if it is installed"""
    log_every: int = 100
    """steps between points of a curve, and between histograms of weights and gradients"""
    seed: int = 0
    """of the first weights, the order of the captions and dropout"""
    resume: bool | Literal["auto"] = False
    """continue the run in output_dir; auto: if there is one to continue, else start it"""
    resume_changed: tuple[str, ...] = ()
    """settings that differ from those of the run to resume on purpose, as stage1.learning_rate"""
    overwrite: bool = False
    """replace the run in output_dir"""
    push_to_hub: str | None = None
    """upload best/ at the end to this repository of the Hub (user/name)"""

    def __post_init__(self) -> None:
        check_fields(
            self,
            {
                "[0, 1e6]": "alpha_c box_weight save_minutes",
                "[0, 1e9]": "grad_clip",
                "[0, 1)": "label_smoothing",
                "[1, 65536]": "validation_batch_size",
                "[0, 1024]": "workers",
                SEEDS: "seed",
                "[1, 1e9]": "log_every",
                "[1, 1e6]": "ddp_timeout",
            },
        )
        check_paths(self, ("data_folder", "output_dir", "cache_dir", "embeddings", "init"))
        in_order = sorted({1, 2, 3}.intersection(self.stages)) == list(self.stages)
        remedy = "choose from 1, 2 and 3, in that order, each once"
        check(in_order and len(self.stages) > 0, "stages", self.stages, remedy)
        for prefix, times in self.repeat.items():
            fits = type(times) is int and 1 <= times <= 1000
            check(fits, f"repeat.{prefix}", times, "give a whole number in [1, 1000]")
        if self.encoder.batch_norm == "drifts":
            remedy = "leave it out, features change while the encoder's batch_norm drifts"
            check(not self.cache_features, "cache_features", self.cache_features, remedy)
        if self.init is not None:
            remedy = "leave it out, init brings word vectors"
            check(self.embeddings is None, "embeddings", self.embeddings, remedy)
        if self.batches == "equal_length":
            remedy = "captions_per_sample mixes lengths: leave it 1"
            groups = [self.stage(number).captions_per_sample for number in self.stages]
            check(max(groups) == 1, "batches", self.batches, remedy)
            remedy = "captions random draws any length"
            check(self.captions != "random", "batches", self.batches, remedy)
        for number in self.stages:
            self._check_stage(f"stage{number}", self.stage(number))

    def stage(self, number: int) -> StageConfig:
        """The options of stage 1, 2 or 3."""
        return {1: self.stage1, 2: self.stage2, 3: self.stage3}[number]

    @property
    def freezes_random_encoder(self) -> bool:
        """True when a new run's encoder begins with random weights that its stage 1 keeps."""
        vit, fresh = self.family == "vit_gpt2", self.hf.encoder.startswith("fresh:")
        return (fresh if vit else self.encoder.weights == "none") and not self.stage1.fine_tunes

    def _check_stage(self, name: str, stage: StageConfig) -> None:
        if self.captions == "random":
            group = stage.captions_per_sample
            remedy = "captions random shows one: give 1"
            check(group == 1, f"{name}.captions_per_sample", group, remedy)
        if self.family == "vit_gpt2":
            trains_all, rate = stage.trainable == "all", stage.encoder_learning_rate
            remedy = "trainable all goes with a rate above 0, the others with 0 (frozen)"
            check(trains_all == stage.fine_tunes, f"{name}.encoder_learning_rate", rate, remedy)
