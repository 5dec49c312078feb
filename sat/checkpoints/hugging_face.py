"""ViT + GPT-2 captioners in Hugging Face's folder layout, written and read.

Our folders hold sat.json besides. Without it, as in nlpconnect/vit-gpt2-image-captioning,
preprocessing and decoding are taken from Hugging Face's own files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sat.atomic_io import write_json
from sat.checkpoints.generation_config import decoding_from_generation, generation_from_decoding
from sat.checkpoints.integrity import restore_config
from sat.config.model import ModelConfig, VitGpt2Config
from sat.models.factory import wrap_network
from sat.models.hf_networks import read, without_progress_bars
from sat.models.hf_pixels import PROCESSOR, preprocessing_of, processor_values
from sat.models.vit_gpt2 import VitGpt2
from sat.reading import read_object

GENERATION = "generation_config.json"
HEADER = "sat.json"
"""file that holds our config and the scores; config.json is Hugging Face's own"""


def title(config: ModelConfig) -> str:
    """The heading of the model card."""
    return f"{config.hf.encoder} and {config.hf.decoder} joined by cross-attention"


def save(folder: Path, model: VitGpt2, vocabulary: Any, config: ModelConfig) -> None:
    """Write the files that plain transformers needs: weights, configs, tokenizer, preprocessor."""
    ids = (model.start_id, model.end_id, model.pad_id)
    for name, value in generation_from_decoding(config.decoding, *ids).items():
        setattr(model.network.generation_config, name, value)
    with without_progress_bars():
        model.network.save_pretrained(folder)
    vocabulary.save(folder / vocabulary.FILE)
    special = dict(zip(("bos_token", "eos_token", "pad_token"), ids))
    if model.unk_id is not None:
        special["unk_token"] = model.unk_id
    names = {name: vocabulary.special(number) for name, number in special.items()}
    names |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", names)
    write_json(folder / PROCESSOR, processor_values(config.preprocessing))


def load(folder: Path, family: Any, header: dict[str, Any]) -> tuple[VitGpt2, Any, ModelConfig]:
    """Load model, vocabulary and config of a folder, with or without sat.json, for evaluation."""
    from sat.data.tokenizer import SubwordTokenizer

    if (folder / GENERATION).exists():
        read_object(folder / GENERATION, "copy it again")  # transformers passes over a broken one
    network = read(folder)
    generation = network.generation_config.to_dict()
    vocabulary: Any = SubwordTokenizer.load(folder, generation)
    if (folder / HEADER).exists():
        config = restore_config(folder / HEADER, header)
    else:
        config = ModelConfig(
            family=family,
            hf=VitGpt2Config(encoder=str(folder), decoder=str(folder)),
            preprocessing=preprocessing_of(str(folder)),
            decoding=decoding_from_generation(generation),
        )
    known = network.decoder.config.vocab_size
    if len(vocabulary) > known:
        raise ValueError(
            f"{folder}: the tokenizer has {len(vocabulary)} tokens, the decoder {known}: "
            "they are not of one model"
        )
    return wrap_network(network, config, vocabulary).eval(), vocabulary, config


def load_weights(model: Any, folder: Path) -> None:
    """Fill the model from a folder of the same architecture."""
    try:
        weights = read(folder).state_dict()
        model.load_state_dict({f"network.{name}": value for name, value in weights.items()})
    except RuntimeError as error:
        raise ValueError(f"{folder} is of another architecture: {error}") from error
