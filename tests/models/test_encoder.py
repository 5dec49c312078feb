"""The encoder against torchvision's own forward pass, and what freezing and loading promise."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from backbones import publish, untrained
from torch import nn
from torchvision import models

from sat.models.encoder import Encoder

FAMILIES = """
    resnet18 resnet101 resnext50_32x4d wide_resnet50_2 regnet_y_400mf vgg19_bn alexnet densenet121
    mobilenet_v2 mobilenet_v3_small efficientnet_b0 efficientnet_v2_s convnext_tiny
    shufflenet_v2_x0_5 squeezenet1_1 mnasnet0_5 swin_t swin_v2_t maxvit_t
"""


def blanked(model: nn.Module) -> nn.Module:
    """The same architecture with nothing in it, sooner than building it again."""
    blank = copy.deepcopy(model)
    for value in blank.state_dict().values():
        value.zero_() if value.is_floating_point() else value
    return blank


def small(**kwargs: Any) -> Encoder:
    return Encoder(None, backbone="resnet18", weights="none", **kwargs)


@pytest.mark.parametrize("name", FAMILIES.split())
def test_the_grid_is_what_the_classifier_sees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained(name)
    asked = publish(monkeypatch, model.state_dict())
    blank = blanked(model)
    monkeypatch.setattr(models, "get_model", lambda name, weights: blank)
    encoder = Encoder(None, backbone=name)
    assert asked == [models.get_model_weights(name).DEFAULT]

    seen = []
    head = next(h for h in ("classifier", "fc", "head") if hasattr(model, h))
    getattr(model, head).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = torch.randn(2, 3, *((224, 224) if name == "maxvit_t" else (64, 96)))
    with torch.no_grad():
        grid = encoder.train()(images)
        model(images)
    assert grid.shape[-1] == encoder.encoder_dim
    maps, (expected,) = grid.permute(0, 3, 1, 2), seen  # (B, D, h, w)
    if expected.shape != maps.shape:
        cells = round((expected[0].numel() / encoder.encoder_dim) ** 0.5)
        maps, expected = F.adaptive_avg_pool2d(maps, cells).flatten(1), expected.flatten(1)
    scale = expected.std()
    assert scale > 0
    torch.testing.assert_close(maps / scale, expected / scale, rtol=1e-5, atol=1e-5)


def test_resnet_blocks_are_numbered_as_the_tutorial_numbers_them() -> None:
    model = untrained("resnet18")
    numbers = {name: str(index) for index, (name, _) in enumerate(model.named_children())}
    expected = {
        f"body.{numbers[key.split('.')[0]]}.{key.partition('.')[2]}"
        for key in model.state_dict()
        if not key.startswith("fc")
    }
    keys = set(small().state_dict())
    assert keys == expected
    assert {"body.0.weight", "body.4.0.conv1.weight", "body.7.1.bn2.running_var"} <= keys


def test_pooling_up_averages_overlapping_cells() -> None:
    torch.manual_seed(0)
    encoder = small()
    images = torch.randn(1, 3, 64, 64)
    native = encoder(images)[0]
    encoder.pool = Encoder(3, backbone="resnet18", weights="none").pool
    pooled = encoder(images)[0]
    assert native.shape == (2, 2, 512)
    assert pooled.shape == (3, 3, 512)
    torch.testing.assert_close(pooled[::2, ::2], native)
    torch.testing.assert_close(pooled[1, 1], native.mean((0, 1)))
    torch.testing.assert_close(pooled[0, 1], native[0].mean(0))


def test_vgg_without_its_last_block_is_conv5_4(monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained("vgg19")
    monkeypatch.setattr(models, "get_model", lambda name, **kwargs: model)
    images = torch.randn(1, 3, 64, 64)
    encoder = Encoder(None, backbone="vgg19", weights="none", blocks=36)
    grid = encoder(images)
    assert grid.shape == (1, 64 // 16, 64 // 16, 512)  # at 224: 14, 14, 512
    pooled = F.max_pool2d(grid.permute(0, 3, 1, 2), 2)
    torch.testing.assert_close(pooled, model.features(images))


def test_swin_cut_short_still_gives_its_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained("swin_t")
    monkeypatch.setattr(models, "get_model", lambda name, **kwargs: model)
    encoder = Encoder(None, backbone="swin_t", weights="none", blocks=6)
    images = torch.randn(1, 3, 64, 96)
    assert encoder.encoder_dim == 384
    torch.testing.assert_close(encoder(images), model.features[:6](images))


def trainable(encoder: Encoder) -> list[int]:
    return [
        index
        for index, block in enumerate(encoder.body)
        if any(p.requires_grad for p in block.parameters())
    ]


def test_fine_tune_frees_the_blocks_it_says() -> None:
    encoder = small()
    assert trainable(encoder) == []
    encoder.fine_tune()
    assert trainable(encoder) == [5, 6, 7]  # layer2 to layer4
    encoder.fine_tune(from_block=7)
    assert trainable(encoder) == [7]
    encoder.fine_tune(from_block=0)
    assert trainable(encoder) == [0, 1, 4, 5, 6, 7]  # 2 and 3 have no parameters
    encoder.fine_tune(False)
    assert not any(p.requires_grad for p in encoder.parameters())
    lite = Encoder(backbone="efficientnet_lite0", weights="none")
    lite.fine_tune()
    assert trainable(lite) == [4, 5, 6, 7, 8]  # the second half of nine


@pytest.mark.parametrize("from_block", [None, 6])
def test_an_epoch_changes_only_the_parameters_that_learn(from_block: int | None) -> None:
    torch.manual_seed(0)
    encoder = small()
    encoder.fine_tune(from_block is not None, from_block)
    before = copy.deepcopy(encoder.state_dict())
    learning = {name for name, p in encoder.named_parameters() if p.requires_grad}
    head = nn.Linear(512, 3)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1)
    for _ in range(3):
        encoder.train()
        logits = head(encoder(5 + torch.randn(4, 3, 32, 32)).mean((1, 2)))
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    after = encoder.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == learning
    assert (from_block is None) == (not learning)


def test_training_sees_the_features_that_evaluation_sees() -> None:
    encoder = small()
    encoder.fine_tune(from_block=0)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(encoder.train()(images), encoder.eval()(images))
    assert not encoder.training


@pytest.mark.parametrize("learns", [False, True])
def test_drifting_batch_norm_goes_by_the_batch_as_the_tutorials_does(learns: bool) -> None:
    """The tutorial puts a frozen ResNet in training mode and gives it pictures."""
    torch.manual_seed(0)
    encoder = small(batch_norm="drifts")
    encoder.fine_tune(learns)
    tutorial = models.resnet18(weights=None)  # its first eight children, avgpool and fc left off
    tutorial = nn.Sequential(*list(tutorial.children())[:-2])
    tutorial.load_state_dict(encoder.body.state_dict())
    before = {name: value.clone() for name, value in encoder.body.state_dict().items()}
    mean, variance = torch.zeros(64), torch.ones(64)
    for _ in range(3):
        images = 5 + 2 * torch.randn(4, 3, 32, 32)
        with torch.no_grad():
            grid, expected = encoder.train()(images), tutorial.train()(images)
            maps = encoder.body[0](images).transpose(0, 1).flatten(1)  # (64, all places)
        torch.testing.assert_close(grid, expected.permute(0, 2, 3, 1))
        mean = 0.9 * mean + 0.1 * maps.mean(1)
        variance = 0.9 * variance + 0.1 * maps.var(1)
    after = encoder.body.state_dict()
    torch.testing.assert_close(after["1.running_mean"], mean)
    torch.testing.assert_close(after["1.running_var"], variance)
    for name, value in tutorial.state_dict().items():
        torch.testing.assert_close(after[name], value)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, _ in encoder.body.named_buffers()}
    whole, part = encoder.eval()(images), encoder(images[:2])
    torch.testing.assert_close(whole[:2], part, rtol=1e-4, atol=1e-4)  # no batch in evaluation
    assert not torch.allclose(encoder.train()(images)[:2], encoder(images[:2]))


def test_frozen_blocks_drop_nothing_and_learning_blocks_may() -> None:
    encoder = Encoder(backbone="efficientnet_b0", weights="none")
    encoder.fine_tune(from_block=6)
    encoder.train()
    modes = [{m.training for m in b.modules() if "Depth" in type(m).__name__} for b in encoder.body]
    assert modes[1:8] == [{False}] * 5 + [{True}] * 2


def test_bad_calls_get_a_sentence() -> None:
    encoder = small(blocks=4)
    with pytest.raises(TypeError, match=r"torch.uint8: convert them to float in 0..1"):
        encoder(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"from_block is 5: give 0 to 3, the body has 4 blocks"):
        encoder.fine_tune(from_block=5)
    with pytest.raises(ValueError, match=r"from_block is 2: nothing is left to learn"):
        encoder.fine_tune()
    with pytest.raises(ValueError, match=r"batch_norm is 'wild': choose one of fixed, drifts"):
        small(batch_norm="wild")


def test_images_of_a_size_that_the_backbone_does_not_take_are_refused() -> None:
    encoder = Encoder(None, backbone="alexnet", weights="none")
    encoder.check_side(64)
    with pytest.raises(ValueError, match=r"image_size is 32, .*'alexnet' .*: .* --image_size 64"):
        encoder.check_side(32)
