"""Encoders from timm: any network whose features are a chain of grids."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from sat.captioner import Captioner, load
from sat.checkpoints import native
from sat.config.model import DecoderConfig, EncoderConfig, ModelConfig, Preprocessing
from sat.models.encoder import Encoder
from sat.models.factory import build_model

timm = pytest.importorskip("timm")
SMALL = (
    *("resnet10t", "convnext_atto", "mobilenetv3_small_050", "tf_efficientnet_lite0"),
    *("ghostnet_050", "resnetv2_18"),
)


@pytest.mark.parametrize("name", SMALL)
def test_encoder_of_timm_gives_the_grid_of_its_features(name: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(None, backbone=f"timm:{name}", weights="none").eval()
    torch.manual_seed(0)
    expected = timm.create_model(name, pretrained=False, features_only=True).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        grid, last = encoder(images), expected(images)[-1]
    assert grid.shape == (2, 2, 3, last.shape[1])
    torch.testing.assert_close(grid.permute(0, 3, 1, 2), last)
    assert encoder.mean == pytest.approx(expected.pretrained_cfg["mean"])


def test_encoder_of_timm_with_windows_takes_images_of_its_own_size() -> None:
    encoder = Encoder(None, backbone="timm:maxvit_pico_rw_256", weights="none")
    assert encoder(torch.randn(1, 3, 256, 256)).shape == (1, 8, 8, encoder.encoder_dim)
    encoder.check_side(256)
    with pytest.raises(ValueError, match=r"image_size is 224, .*'timm:maxvit_.* 256"):
        encoder.check_side(224)


@pytest.mark.parametrize(("name", "first"), [("resnet10t", "layer2"), ("resnetv2_18", "stages_1")])
def test_fine_tuning_of_a_resnet_of_timm_begins_at_layer2_or_half_way(name, first) -> None:
    """A ResNet-v2 has six blocks; from the sixth on, only its last stage learned."""
    encoder = Encoder(None, backbone=f"timm:{name}", weights="none")
    names = list(timm.create_model(name, pretrained=False, features_only=True))
    assert encoder.default_from_block == names.index(first)


def test_encoder_of_timm_fine_tunes_its_last_blocks_only() -> None:
    encoder = Encoder(None, backbone="timm:resnet10t", weights="none")
    encoder.fine_tune(True, len(encoder.body) - 1)
    encoder.train()
    learns = [any(p.requires_grad for p in block.parameters()) for block in encoder.body]
    assert learns == [False] * (len(learns) - 1) + [True]
    assert not any(m.training for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_encoder_of_timm_reads_a_local_state_dict(tmp_path: Path) -> None:
    state = timm.create_model("resnet10t", pretrained=False).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    encoder = Encoder(None, backbone="timm:resnet10t", weights=str(tmp_path / "weights.pth"))
    assert torch.equal(encoder.body[-1][0].conv1.weight, state["layer4.0.conv1.weight"])


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
@pytest.mark.parametrize("change", ["lack", "have the unknown key 'more'", "size mismatch"])
def test_encoder_of_timm_with_weights_that_do_not_fit_raises(name, change, tmp_path: Path) -> None:
    """timm itself leaves such layers at their random weights."""
    path, state = tmp_path / "weights.pth", timm.create_model(name, pretrained=False).state_dict()
    last = [key for key in state if "conv" in key and "head" not in key][-1]
    if change == "lack":
        del state[last]
    elif change == "size mismatch":
        state[last] = state[last][:1]
    else:
        state["more"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(ValueError, match=f"do not fit timm:{name}: .*{change}"):
        Encoder(None, backbone=f"timm:{name}", weights=str(path))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("timm:resnet18x", "which timm has not: choose resnet18"),
        ("timm:swin_tiny_patch4_window7_224", "not a chain of grids"),  # channels last
        ("timm:xcit_nano_12_p8_224", "not a chain of grids"),  # a sequence
        pytest.param(  # a vector
            *("timm:efficientvim_m1", "not a chain of grids"),
            marks=pytest.mark.skipif(not timm.is_model("efficientvim_m1"), reason="an older timm"),
        ),
        ("tim:resnet18", "the only prefix is timm:"),
    ],
)
def test_encoder_of_timm_with_a_wrong_name_says_what_to_choose(backbone, message) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(None, backbone=backbone, weights="none")


def test_captioner_with_a_timm_encoder_saves_and_loads(tmp_path: Path) -> None:
    vocabulary = tiny.captioner().vocabulary
    config = ModelConfig(
        encoder=EncoderConfig("timm:resnet10t", "none"),
        decoder=DecoderConfig(attention_dim=4, embed_dim=4, decoder_dim=4),
        preprocessing=Preprocessing(64),
    )
    made = Captioner(build_model(config, vocabulary), vocabulary, config)
    native.save(tmp_path / "best", made.model, vocabulary, config)
    image = tiny.photos(tmp_path)[0]
    assert load(tmp_path / "best").caption(image, max_length=5) == made.caption(image, max_length=5)
