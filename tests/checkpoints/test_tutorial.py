"""Tutorial checkpoints: read exactly, by no other code than our own, and never run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest import mock

import legacy_files
import pytest
import torch
from torch import nn

from sat.checkpoints import tutorial
from sat.config.model import Preprocessing

WRITERS = {
    "zip": legacy_files.write_zip,
    "old": legacy_files.write_old,
    "0.4": legacy_files.write_0_4,
}


@pytest.fixture(params=WRITERS)
def slim_file(request, tmp_path) -> Path:
    path = tmp_path / "BEST_checkpoint_coco.pth.tar"
    return WRITERS[request.param](path, legacy_files.checkpoint(slim=True))


def same(found: dict[str, torch.Tensor], module: nn.Module) -> bool:
    """Whether names, order, types and numbers are those of the module's state dict."""
    expected = {
        name.replace("resnet.", "body.", 1): value for name, value in module.state_dict().items()
    }
    return list(found) == list(expected) and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value)
        for name, value in expected.items()
    )


@pytest.mark.parametrize("fine_tuned", [False, True])
@pytest.mark.parametrize("writer", WRITERS)
def test_everything_is_read_as_it_was_written(tmp_path, writer, fine_tuned):
    saved = legacy_files.checkpoint(fine_tuned=fine_tuned)
    path = WRITERS[writer](tmp_path / "file", saved)
    found = tutorial.read_tutorial(path)
    assert tutorial.is_tutorial(path)
    assert same(found.encoder, saved["encoder"])
    assert same(found.decoder, saved["decoder"])
    assert (found.backbone, found.encoded_image_size) == ("resnet18", 14)
    sizes = (found.attention_dim, found.embed_dim, found.decoder_dim, found.encoder_dim)
    assert (*sizes, found.vocab_size, found.dropout) == (6, 7, 8, 512, 24, 0.5)
    assert (found.epoch, found.bleu4, found.fine_tuned) == (11, 0.2345, fine_tuned)


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet34",
        "resnet50",
        pytest.param("resnet101", marks=pytest.mark.slow),
        pytest.param("resnet152", marks=pytest.mark.slow),
    ],
)
def test_the_backbone_is_told_from_its_blocks(tmp_path, backbone):
    saved = legacy_files.checkpoint(backbone, slim=backbone != "resnet101")
    found = tutorial.read_tutorial(legacy_files.write_zip(tmp_path / "file", saved))
    assert found.backbone == backbone
    assert same(found.encoder, saved["encoder"])


def test_the_config_is_the_tutorials_reading(slim_file):
    config = tutorial.model_config(tutorial.read_tutorial(slim_file))
    encoder, decoder = config.encoder, config.decoder
    assert (encoder.backbone, encoder.weights, encoder.blocks) == ("resnet18", "none", None)
    assert encoder.encoded_image_size == 14
    assert (decoder.attention_dim, decoder.embed_dim, decoder.decoder_dim) == (6, 7, 8)
    assert (decoder.attention, decoder.activation, decoder.gate) == ("soft", "relu", "vector")
    assert (decoder.initial_state, decoder.output, decoder.dropout) == ("linear", "linear", 0.5)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert config.preprocessing == Preprocessing(size=256, resize="squash", mean=mean, std=std)


def test_reading_imports_neither_models_nor_torchvision(tmp_path):
    paths = [
        str(write(tmp_path / name, legacy_files.checkpoint(slim=True)))
        for name, write in WRITERS.items()
    ]
    program = (
        "import sys; from sat.checkpoints import tutorial\n"
        "for name in [n for n in sys.modules if n.split('.')[0] == 'torchvision']:\n"
        "    del sys.modules[name]\n"
        "sys.modules['torchvision'] = sys.modules['models'] = None  # importing them fails now\n"
        f"for path in {paths}: tutorial.read_tutorial(path)\n"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in ('models', 'torchvision')))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("['models', 'torchvision']\n", "")


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_made_on_a_gpu_is_read_on_the_cpu(tmp_path, writer):
    saved = legacy_files.checkpoint(slim=True)
    with mock.patch.object(torch.serialization, "location_tag", return_value="cuda:0"):
        path = WRITERS[writer](tmp_path / "file", saved)
    assert b"cuda:0" in path.read_bytes()
    assert same(tutorial.read_tutorial(path).decoder, saved["decoder"])


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.double])
def test_any_layout_and_precision(tmp_path, writer, dtype):
    saved = legacy_files.checkpoint(slim=True)
    wide = torch.randn(10, 50).to(dtype)
    # Every second column from the fourth on, transposed: an offset and two strides.
    saved["decoder"].fc.weight = nn.Parameter(wide[1:9, 2::2].t())
    assert not saved["decoder"].fc.weight.is_contiguous()
    found = tutorial.read_tutorial(WRITERS[writer](tmp_path / "file", saved)).decoder
    assert same(found, saved["decoder"])
    assert found["fc.weight"].is_contiguous()


View = legacy_files.View


def without_fc(value):
    value["decoder"].fc = nn.ReLU()


def of(part: str, **attributes):
    """A change to the attributes of the encoder or decoder."""
    return lambda value: vars(value[part]).update(attributes)


def bias(*view):
    """A change that puts a view in place of the bias of `fc`, which has 24 numbers."""
    return lambda value: value["decoder"].fc._parameters.update(bias=View(*view))


def put(**values):
    """A change to the top dictionary."""
    return lambda value: value.update({name.replace("_4", "-4"): v for name, v in values.items()})


def twice(value):
    value["encoder"].resnet[1] = value["encoder"].resnet[4][0].bn1


def layers(backbone: str, width: int = 64):
    """A change to another backbone, whose first convolution has that width."""

    def change(value):
        value["decoder"].encoder_dim = 2048
        value["encoder"].resnet = legacy_files.checkpoint(backbone, slim=True)["encoder"].resnet
        value["encoder"].resnet[4][0].conv1.weight = nn.Parameter(torch.zeros(width, 1, 1, 1))

    return change


WRONG = [
    (of("decoder", vocab_size=25), r"its decoder.fc.weight is \(24, 8\), its sizes tell \(25, 8\)"),
    (
        of("decoder", attention_dim=5),
        r"encoder_att.weight is \(6, 512\), its sizes tell \(5, 512\)",
    ),
    (of("decoder", embed_dim=8), r"embedding.weight is \(24, 7\), its sizes tell \(24, 8\)"),
    (of("decoder", decoder_dim=True), "its decoder_dim is True, no number from 1"),
    (of("decoder", encoder_dim=2048), "its encoder_dim is 2048, but resnet18 gives 512"),
    (of("encoder", enc_image_size=0), "its enc_image_size is 0, no number from 1"),
    (of("encoder", enc_image_size="14"), "its enc_image_size is '14', no number from 1"),
    (put(epoch=None), "its epoch is None, no number from 0"),
    (put(bleu_4="high"), "its bleu-4 is 'high', no number from 0"),
    (put(encoder=None), "its Encoder is a NoneType"),
    (put(decoder=nn.Linear(2, 2)), "its DecoderWithAttention is a Linear"),
    (lambda value: value.pop("encoder"), "it holds .*, not epoch, encoder and decoder"),
    (without_fc, "its decoder lacks, or should not have, fc.bias, fc.weight"),
    (twice, "its encoder.resnet.4.0.bn1 occurs twice"),
    (
        layers("resnet50", 128),
        "first block of its encoder is 128 wide, not 64 as in resnet50: wide",
    ),
    (
        lambda value: value["encoder"].resnet[5].pop(1),
        r"\(2, 1, 2, 2\) blocks of kind BasicBlock: only",
    ),
    (bias(23, 0, (24,), (1,)), "its decoder.fc.bias is .* of 23 numbers"),
    (bias(24, 1, (24,), (1,)), "'offset': 1"),
    (bias(24, -1, (24,), (1,)), "'offset': -1"),
    (bias(24, 0, (24,), (-1,)), "'stride': "),
    (bias(24, 0, (24,), (2,)), "of 24 numbers: it is truncated or damaged"),
    (bias(24, 0, (-24,), (1,)), "of 24 numbers"),
    (bias(24, 0, (2**62, 4), (0, 0)), "of 24 numbers"),
    (bias(1, 0, (24,), (0,)), "of 1 numbers"),
    (bias(24, 0, (24, 1), (1,)), "of 24 numbers"),
    (bias(24, 0, (24.0,), (1,)), "of 24 numbers"),
    (bias(24, 0, (12, 2), (2, 1)), r"fc.bias is \(12, 2\), its sizes tell \(24,\)"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG)
def test_what_does_not_fit_gets_a_sentence(tmp_path, change, sentence):
    value = legacy_files.checkpoint(slim=True)
    change(value)
    path = legacy_files.write_zip(tmp_path / "file", value)
    with pytest.raises(ValueError, match=sentence) as caught:
        tutorial.read_tutorial(path)
    assert str(caught.value).startswith(f"cannot load {path}: ")
    assert "\n" not in str(caught.value)


def test_a_bleu_that_was_never_measured_and_one_that_is_a_whole_number(tmp_path):
    for value, expected in ((None, None), (0, 0.0)):
        saved = {**legacy_files.checkpoint(slim=True), "bleu-4": value}
        assert (
            tutorial.read_tutorial(legacy_files.write_zip(tmp_path / "f", saved)).bleu4 == expected
        )
