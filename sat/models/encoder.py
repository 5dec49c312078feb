"""Encoder: images to grids of features, one vector for each place (Xu et al. 2015, 3.1.1).

The body is an image classifier without its pooling and its classifier, cut into blocks that can be
left off or fine-tuned: one of torchvision's by name, one of timm's as timm:NAME, or our
EfficientNet-Lite.

Dimensions: B images, H and W pixels, h and w cells of the grid, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sat.config.checks import check_choice
from sat.models.backbones import build_backbone
from sat.models.dilation import dilate

RESNET_FINE_TUNES_FROM = "layer2"
"""the tutorial leaves conv1, bn1 and layer1 as they are"""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


class Encoder(nn.Module):
    """A backbone that gives a grid of features; frozen until `fine_tune` says otherwise.

    `weights` is "default" (trained on ImageNet), "none" (random), the name of one of torchvision's
    sets for this backbone ("IMAGENET1K_V1"), or the path of a local state dict. `blocks` keeps the
    first so many blocks of the body: VGG-19 without its last, the pooling, gives the 14×14×512 of
    the paper. `output_stride` puts dilation in the place of strides that go beyond it: 16 gives a
    grid of twice as many cells a side, of the same weights. `encoded_image_size` pools the grid to
    so many cells a side; None leaves it as it is.
    Images come in normalized by `mean` and `std` (RGB, of values in 0..1).

    Batch norm always uses the statistics it came with, in fine-tuned blocks too: those of the small
    batches of stage 2 are noise, and this way training and evaluation see the same features. With
    `batch_norm` "drifts" the whole body trains and evaluates as torch has it, frozen or not: the
    tutorial's does, and so its features change although no weight of it learns.
    """

    def __init__(
        self,
        encoded_image_size: int | None = 14,
        *,
        backbone: str = "resnet101",
        weights: str = "default",
        blocks: int | None = None,
        output_stride: int | None = None,
        batch_norm: str = "fixed",
    ) -> None:
        super().__init__()
        check_choice("batch_norm", batch_norm, ("fixed", "drifts"))
        self.batch_norm = batch_norm
        built = build_backbone(backbone, weights, blocks)
        self.mean, self.std = built.mean, built.std
        names = list(built.blocks)
        self.body = nn.Sequential(*built.blocks.values())
        if output_stride is not None:
            dilate(list(self.body), output_stride)
        native = encoded_image_size is None
        self.pool = nn.Identity() if native else nn.AdaptiveAvgPool2d(encoded_image_size)
        resnet = RESNET_FINE_TUNES_FROM in names
        self.default_from_block = names.index(RESNET_FINE_TUNES_FROM) if resnet else len(names) // 2
        self.fine_tune(False)
        self.backbone, self.side = backbone, built.side
        self.body.eval()
        self.encoder_dim = self._channels(built.side)

    def forward(self, images: Tensor) -> Tensor:
        """float[B, h, w, D] from normalized float[B, 3, H, W]."""
        return self.pool(self.maps(images)).permute(0, 2, 3, 1)  # (B, h, w, D)

    def maps(self, images: Tensor) -> Tensor:
        """float[B, D, h, w] from normalized float[B, 3, H, W], the grid as it comes."""
        if not images.is_floating_point():
            raise TypeError(
                f"images are {images.dtype}: convert them to float in 0..1 and normalize them with "
                "the encoder's mean and std"
            )
        return self.body(images)

    def check_side(self, side: int) -> None:
        """Raise `ValueError` unless the backbone takes images of `side` × `side` pixels."""
        try:
            self._channels(side)
        except (RuntimeError, AssertionError) as error:  # as MaxViT's windows do not divide it
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"image_size is {side}, which backbone {self.backbone!r} does not take ({reason}): "
                f"prepare the data with --image_size {self.side}, or choose another backbone"
            ) from error

    @torch.no_grad()
    def _channels(self, side: int) -> int:
        return self.body(torch.zeros(1, 3, side, side)).shape[1]

    def fine_tune(self, fine_tune: bool = True, from_block: int | None = None) -> None:
        """Let the blocks of the body from `from_block` on learn, or none at all.

        Left out, `from_block` is layer2 for ResNets and the second half for all others. Raises
        `ValueError` when nothing would learn.
        """
        first = self.default_from_block if from_block is None else from_block
        if fine_tune and not 0 <= first < len(self.body):
            n = len(self.body)
            raise ValueError(f"from_block is {first}: give 0 to {n - 1}, the body has {n} blocks")
        self.learns_from = first if fine_tune else len(self.body)
        for index, block in enumerate(self.body):
            block.requires_grad_(index >= self.learns_from)
        if fine_tune and not any(p.requires_grad for p in self.body.parameters()):
            raise ValueError(f"from_block is {first}: nothing is left to learn, give a lower one")
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """Itself; frozen blocks and every batch norm stay in evaluation mode whatever `mode` is.

        Not so where batch norm drifts: there everything is in `mode`.
        """
        super().train(mode)
        if self.batch_norm == "drifts":
            return self
        self.body.eval()
        for block in self.body[self.learns_from :]:
            for module in block.modules():
                module.training = mode and not isinstance(module, BATCH_NORMS)
        return self
