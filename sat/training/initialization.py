"""The data and the captioner that a run starts from."""

from __future__ import annotations

import logging
from pathlib import Path

from sat.captioner import Captioner
from sat.checkpoints import native
from sat.config.checks import check
from sat.config.model import Preprocessing
from sat.config.training import TrainConfig
from sat.data.dataset import CaptionDataset, find_data_name, read_vocabulary, warn_of_unknown
from sat.data.vocabulary import Vocabulary
from sat.distributed import ranks
from sat.evaluation import check_preprocessing
from sat.models.factory import initialize_model

logger = logging.getLogger(__name__)


def open_data(config: TrainConfig) -> tuple[CaptionDataset, CaptionDataset, Vocabulary]:
    """The training and validation splits, and their vocabulary."""
    folder = Path(config.data_folder)
    name = config.data_name or find_data_name(folder)
    train, val = (CaptionDataset(folder, name, split) for split in ("TRAIN", "VAL"))
    batch_norm = config.encoder.batch_norm
    remedy = "its statistics would be those of a rank's share: train without torchrun, or fixed"
    check(ranks() == 1 or batch_norm == "fixed", "batch_norm", batch_norm, remedy)
    for number in config.stages:
        group = config.stage(number).captions_per_sample
        if train.captions_per_image % group:
            raise ValueError(
                f"captions_per_sample is {group}: choose a divisor of "
                f"{train.captions_per_image}, the captions that each image has in {folder}"
            )
    vocabulary = read_vocabulary(folder, name)
    warn_of_unknown(train, vocabulary.unk_id)
    return train, val, vocabulary


def initial_captioner(
    config: TrainConfig, train: CaptionDataset, val: CaptionDataset, vocabulary: Vocabulary
) -> Captioner:
    """The captioner that the run resumes, continues or starts from; else a new one.

    Raises `ValueError` where it does not fit the data or has no positions for their captions, or
    samples attention that a later draw of the self-critical objective would not repeat.
    """
    captioner = _starting_captioner(config, train, vocabulary)
    if (positions := captioner.model.positions) is not None:
        _check_lengths(positions, config, (train, val))
    draws_words = any(config.stage(i).objective == "self_critical" for i in config.stages)
    remedy = "self-critical training would learn words from other regions, choose expected"
    both = draws_words and captioner.model.samples_attention
    check(not both, "decoder.test_attention", "sampled", remedy)
    return captioner


def _check_lengths(
    positions: int, config: TrainConfig, splits: tuple[CaptionDataset, CaptionDataset]
) -> None:
    """Raise `ValueError` for captions, known or decoded, longer than the decoder's positions."""
    remedy = f"the decoder has {positions} positions"
    longest = config.validation.max_length
    check(longest <= positions, "validation.max_length", longest, remedy)
    remedy += f", prepare the data with --max_len {positions - 1} or less"
    for data in splits:
        tokens = int(data.lengths.max()) - 1  # the end is only predicted
        name = f"the longest {data.split} caption, in tokens with its start,"
        check(tokens <= positions, name, tokens, remedy)


def _starting_captioner(
    config: TrainConfig, train: CaptionDataset, vocabulary: Vocabulary
) -> Captioner:
    start = f"{config.output_dir}/last" if config.resume else config.init
    if start is None and config.stages[0] > 1:
        start = f"{config.output_dir}/best"
    if start is None:
        if config.freezes_random_encoder:
            logger.warning(
                "the encoder has random weights and stage 1 does not train it: give trained ones "
                "(--encoder.weights, --hf.encoder) or a --stage1.encoder_learning_rate"
            )
        images = Preprocessing(size=train.image_size, resize=train.resize)
        model, model_config = initialize_model(config, images, vocabulary)
        return Captioner(model, vocabulary, model_config)
    captioner = Captioner(*native.load(start))
    if captioner.vocabulary != vocabulary:
        raise ValueError(
            f"{start} was trained with another word map or other special tokens "
            f"({len(captioner.vocabulary)} words) than the data's ({len(vocabulary)} words): use "
            "the data it was trained on"
        )
    check_preprocessing(captioner.preprocessing, train)
    return captioner
