"""Does cross-attention alone teach a decoder to see that knows captions but never saw a photo?

    python -m benchmarks.captions_alone --config configs/vit_gpt2_shapes.yaml \
        --output_dir runs/alone [--init runs/vit_gpt2_shapes/best] [other flags of train.py]

trains a fresh decoder on the training captions (stage1's epochs, rate and batches), and writes it
to decoder/ and an encoder (of --init; else a random one) to encoder/ in output_dir. It prints how
both score when joined by cross-attention that has learnt nothing: the start that the run printed
below it, which trains nothing but the cross-attention, must improve on. With --stage1.epochs 3 and
the encoder of --init it did, on scenes: BLEU-4 0.333 at the start; 0.541, 0.703 and 0.750 after.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from sat.captioner import Captioner
from sat.commands.train import parse
from sat.config.training import TrainConfig
from sat.data.dataloader import CaptionBatchSampler
from sat.data.dataset import CaptionDataset
from sat.device import resolve_device
from sat.models.factory import build_model
from sat.models.hf_pixels import PROCESSOR, processor_values
from sat.models.vit_gpt2 import VitGpt2
from sat.training.initialization import initial_captioner, open_data
from sat.training.losses import cross_entropy
from sat.training.optim import optimizer_step, warm_up
from sat.training.validation import validate


def main(config: TrainConfig) -> float:
    """The validation BLEU-4 of the joined parts before anything between them has learnt."""
    torch.manual_seed(config.seed)
    folder, device = Path(config.output_dir), resolve_device(config.device)
    train, val, vocabulary = open_data(config)
    start_from = initial_captioner(config, train, val, vocabulary)
    sighted, model_config = start_from.model, start_from.config
    speaker = build_model(dataclasses.replace(model_config, hf=config.hf), vocabulary).to(device)
    read_captions(speaker, train, config)
    speaker.decoder.save_pretrained(folder / "decoder")
    sighted.encoder.save_pretrained(folder / "encoder")
    values = processor_values(model_config.preprocessing)
    (folder / "encoder" / PROCESSOR).write_text(json.dumps(values), encoding="utf-8")
    hf = dataclasses.replace(
        config.hf, encoder=str(folder / "encoder"), decoder=str(folder / "decoder")
    )
    joined = build_model(dataclasses.replace(model_config, hf=hf), vocabulary).to(device)
    captioner = Captioner(joined, vocabulary, model_config)
    start = validate(captioner, val, config)["Bleu_4"]
    print(
        f"BLEU-4 {start:.4f} with cross-attention that has learnt nothing; now let it alone learn:"
    )
    print(
        f"python train.py {' '.join(sys.argv[1:])} --output_dir {folder / 'joined'} "
        f"--hf.encoder {hf.encoder} --hf.decoder {hf.decoder} "
        "--init null --stage1.trainable cross_attention --stage1.encoder_learning_rate 0"
    )
    return start


def read_captions(model: VitGpt2, train: CaptionDataset, config: TrainConfig) -> None:
    """Train the decoder as a plain language model of the captions."""
    stage, device = config.stage1, resolve_device(config.device)
    weights = list(model.decoder.parameters())
    optimizer = torch.optim.Adam(weights, lr=stage.learning_rate)
    warm_up(optimizer, stage.warmup)
    batches = CaptionBatchSampler(train.lengths, stage.batch_size, seed=config.seed)
    model.train()
    for batches.epoch in range(stage.epochs):
        bar = tqdm(batches, desc=f"reading captions, epoch {batches.epoch + 1}", disable=None)
        for batch in bar:
            rows = [caption for caption, _ in batch]
            lengths = torch.from_numpy(train.lengths[rows])
            captions = torch.from_numpy(train.captions[rows, : lengths.max()]).long()
            logits = model.decoder(input_ids=captions[:, :-1].to(device), use_cache=False).logits
            words = (lengths - 1).to(device)
            loss = cross_entropy(logits, captions[:, 1:].to(device), words)
            optimizer_step(optimizer, [loss], lambda part: (part, {}), config)
            bar.set_postfix(cross_entropy=round(loss.item(), 3), refresh=False)
    model.eval()


if __name__ == "__main__":
    main(parse(sys.argv[1:]))
