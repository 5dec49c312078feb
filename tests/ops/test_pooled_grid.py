"""Attention over an enlarged grid against attention over a grid that was really enlarged."""

from __future__ import annotations

import pytest
import torch
from decoders import EVERY_CHOICE, SIZES, each_choice
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from sat.config.decoding import DecodingConfig
from sat.decoding.generate import generate
from sat.models.decoder import DecoderWithAttention
from sat.models.encoder import Encoder
from sat.models.show_attend_tell import ShowAttendTell
from sat.ops.pooled_grid import enlarge, from_cells, mean_of_regions, on_cells, pooling_matrix

LENGTHS = torch.tensor([5, 9, 3, 8])
each_size = pytest.mark.parametrize(("side", "larger"), [(1, 3), (2, 3), (3, 3), (3, 7), (8, 14)])


def really_enlarged(features: Tensor, side: int, larger: int) -> Tensor:
    """float[B, P, D], pooled as the tutorial's encoder ends."""
    maps = features.transpose(1, 2).unflatten(2, (side, side))
    return adaptive_avg_pool2d(maps, larger).flatten(2).transpose(1, 2)


@each_size
def test_pooled_grid_linear_maps_equal_those_of_enlarged_grid(side: int, larger: int) -> None:
    random = torch.Generator().manual_seed(1)
    cells = torch.randn(2, side**2, 5, generator=random, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, larger**2, generator=random, dtype=torch.float64, requires_grad=True)
    regions = really_enlarged(cells, side, larger)
    expected = (weights.unsqueeze(1) @ regions).squeeze(1)
    pooling = pooling_matrix(cells, larger**2)
    found = (on_cells(weights, pooling).unsqueeze(1) @ cells).squeeze(1)
    torch.testing.assert_close(enlarge(cells, larger**2), regions)
    torch.testing.assert_close(mean_of_regions(cells, larger**2), regions.mean(1))
    torch.testing.assert_close(found, expected)
    d_cells = torch.randn(2, side**2, generator=random, dtype=torch.float64)
    (through,) = torch.autograd.grad(on_cells(weights, pooling), weights, d_cells)
    torch.testing.assert_close(from_cells(d_cells, pooling), through)


def both(**choices: str) -> tuple[DecoderWithAttention, DecoderWithAttention]:
    """One that enlarges a grid to 5×5, and one that takes what it gets, with the same weights."""
    torch.manual_seed(5)
    enlarging = DecoderWithAttention(**SIZES, encoded_image_size=5, **choices).double().eval()
    for weight in enlarging.parameters():
        nn.init.normal_(weight, std=0.5)
    plain = DecoderWithAttention(**SIZES, **choices).double().eval()
    plain.load_state_dict(enlarging.state_dict())
    return enlarging, plain


def batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    features = torch.randn(4, 9, 4, generator=random).double()
    return features, torch.randint(11, (4, 9), generator=random)


@each_choice
def test_decoder_on_cells_has_output_and_gradients_of_enlarged_grid(
    choices: dict[str, str],
) -> None:
    """The features' too, which go through the pooling there."""
    found = []
    for decoder, side in zip(both(**choices), (3, 5)):
        features, captions = batch()
        features.requires_grad_()
        given = features if side == 3 else really_enlarged(features, 3, 5)
        output = decoder(given, captions, LENGTHS)
        (output.logits.sin().sum() + 3 * output.alphas.square().sum()).backward()
        named = {name: weight.grad for name, weight in decoder.named_parameters()}
        found.append(named | {"features": features.grad, "logits": output.logits})
        found[-1]["alphas"] = output.alphas
    for name, expected in found[1].items():
        torch.testing.assert_close(found[0][name], expected, rtol=1e-9, atol=1e-11, msg=name)
        assert expected.abs().max() > 1e-4 or name == "attention.full_att.bias"


@pytest.mark.parametrize("choices", EVERY_CHOICE[::7], ids=str)
def test_generate_on_cells_gives_captions_of_enlarged_grid(choices: dict[str, str]) -> None:
    enlarging, plain = (captioner(decoder) for decoder in both(**choices))
    features, _ = batch()
    for options in (
        DecodingConfig(beam_size=3, num_return_sequences=3),
        DecodingConfig(top_p=0.9, seed=4),
    ):
        found = generate(enlarging, features, options)
        expected = generate(plain, really_enlarged(features, 3, 5), options)
        assert [[c.words for c in some] for some in found] == [
            [c.words for c in some] for some in expected
        ]


def captioner(decoder: DecoderWithAttention) -> ShowAttendTell:
    encoder = Encoder(5, backbone="resnet18", weights="none")
    ids = {"start_id": 9, "end_id": 10, "pad_id": 0, "unk_id": 8}
    return ShowAttendTell(encoder=encoder, decoder=decoder, **ids)


@pytest.mark.parametrize(
    ("shape", "cells"), [((64, 64), 4), ((64, 96), 25), ((160, 160), 25), ((224, 224), 25)]
)
def test_encode_pools_unless_a_smaller_square_is_left_to_attention(
    shape: tuple[int, int], cells: int
) -> None:
    """ResNet gives 2×2, 2×3, 5×5 and 7×7 cells; 5×5 are wanted."""
    enlarging, plain = both()
    image = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        model = captioner(enlarging)
        encoded = model.encode(image)
        expected = model.encoder(image).flatten(1, 2)
        assert encoded.shape == (1, cells, 512)
        torch.testing.assert_close(enlarge(encoded, 25), expected)
        other = captioner(plain)
        other.encoder.load_state_dict(model.encoder.state_dict())
        torch.testing.assert_close(other.encode(image), expected)
        torch.testing.assert_close(model.encode_cached(model.encode_frozen(image)), encoded)


def test_start_with_another_number_of_cells_raises() -> None:
    enlarging, _ = both()
    with pytest.raises(ValueError, match="features have 6 regions, attention expects 25: give"):
        enlarging.start(torch.zeros(1, 6, 4).double())


def test_pooling_matrix_made_in_inference_mode_allows_gradients() -> None:
    """The matrix is cached, but not as an inference tensor."""
    enlarging, _ = both()
    features, captions = batch()
    features = features[:, :4]
    with torch.inference_mode():
        enlarging(features, captions, LENGTHS)
    enlarging(features.requires_grad_(), captions, LENGTHS).logits.sum().backward()
    assert features.grad.isfinite().all()
