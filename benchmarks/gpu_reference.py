"""The tutorial's training on a GPU: the picture of every caption encoded anew, one worker."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import pair, train_step
from benchmarks.gpu_setting import Pace, Setting, Way, endless, pace, products
from benchmarks.loader import TutorialDataset
from benchmarks.pipeline import our_model, reference_models
from sat.data.dataloader import Batch
from sat.models.encoder import Encoder


def tutorials_loader(folder: Path, way: Way, device: torch.device) -> DataLoader:
    """Captions in random order, a picture with each, as its `train.py` reads them."""
    return DataLoader(
        TutorialDataset(folder),
        way.batch,
        shuffle=True,
        drop_last=True,
        num_workers=way.workers,
        pin_memory=device.type == "cuda",
    )


def frozen_reference(
    folder: Path, way: Way, setting: Setting, quick: bool, device: torch.device
) -> Pace:
    """The tutorial's stage 1: the frozen encoder runs for every caption."""
    scale = setting.pipeline
    model = our_model(scale, quick, device, setting.words)
    encoder, _ = reference_models(model, scale)
    sizes = pair.sizes_for(quick)._replace(features=encoder.encoder_dim, vocabulary=setting.words)
    _, decode = train_step.reference_step(sizes, device, pair.TUTORIAL)

    def step(batch: tuple[Tensor, ...]) -> None:
        images, captions, lengths = (part.to(device) for part in batch)
        with torch.no_grad():
            features = encoder(images).flatten(1, 2)
        decode(Batch(features, captions, lengths, lengths))

    with products(way.precision):
        batches = endless(tutorials_loader(folder, way, device))
        return pace(step, batches, lambda batch: len(batch[0]), setting, device)


def tuned_reference(
    folder: Path, way: Way, setting: Setting, quick: bool, device: torch.device
) -> Pace:
    """The tutorial's stage 2: both networks learn, each by an Adam of its own."""
    scale = setting.pipeline
    encoder = Encoder(14, backbone=scale.backbone, weights="none", batch_norm="drifts").to(device)
    encoder.fine_tune()
    learning = [weight for weight in encoder.parameters() if weight.requires_grad]
    sizes = pair.sizes_for(quick)._replace(features=encoder.encoder_dim, vocabulary=setting.words)
    decoder = pair.decoder(pair.ReferenceDecoder, sizes, pair.TUTORIAL).to(device)
    both = [torch.optim.Adam(part, lr=1e-4) for part in (decoder.parameters(), learning)]
    encoder.train(), decoder.train()

    def step(batch: tuple[Tensor, ...]) -> None:
        images, captions, lengths = (part.to(device) for part in batch)
        logits, alphas = decoder(encoder(images).flatten(1, 2), captions, lengths)
        loss = train_step._packed_loss(logits, captions, lengths)
        loss = loss + (1 - alphas.sum(dim=1)).square().mean()
        for optimizer in both:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_([*decoder.parameters(), *learning], 5.0)
        for optimizer in both:
            optimizer.step()
        loss.item()

    with products(way.precision):
        batches = endless(tutorials_loader(folder, way, device))
        return pace(step, batches, lambda batch: len(batch[0]), setting, device)
