"""The data and the captioner that a run starts from."""

from __future__ import annotations

from pathlib import Path

from sat.captioner import Captioner
from sat.checkpoints import native
from sat.config.model import Preprocessing
from sat.config.training import TrainConfig
from sat.data.dataset import CaptionDataset, find_data_name, read_vocabulary
from sat.data.vocabulary import Vocabulary
from sat.evaluation import check_preprocessing
from sat.models.factory import initialize_model


def open_data(config: TrainConfig) -> tuple[CaptionDataset, CaptionDataset, Vocabulary]:
    """The training and validation splits, and their vocabulary."""
    folder = Path(config.data_folder)
    name = config.data_name or find_data_name(folder)
    train, val = (CaptionDataset(folder, name, split) for split in ("TRAIN", "VAL"))
    for number in config.stages:
        group = config.stage(number).captions_per_sample
        if train.captions_per_image % group:
            raise ValueError(
                f"captions_per_sample is {group}: choose a divisor of "
                f"{train.captions_per_image}, the captions that each image has in {folder}"
            )
    return train, val, read_vocabulary(folder, name)


def initial_captioner(
    config: TrainConfig, train: CaptionDataset, vocabulary: Vocabulary
) -> Captioner:
    """The captioner that the run resumes, continues or starts from; else a new one."""
    start = f"{config.output_dir}/last" if config.resume else config.init
    if start is None and config.stages[0] > 1:
        start = f"{config.output_dir}/best"
    if start is None:
        images = Preprocessing(size=train.image_size, resize=train.resize)
        model, model_config = initialize_model(config, images, vocabulary)
        return Captioner(model, vocabulary, model_config)
    captioner = Captioner(*native.load(start))
    if captioner.vocabulary != vocabulary:
        raise ValueError(
            f"{start} was trained with another word map ({len(captioner.vocabulary)} words) than "
            f"the data's ({len(vocabulary)} words): use the data it was trained on"
        )
    check_preprocessing(captioner.preprocessing, train)
    return captioner
