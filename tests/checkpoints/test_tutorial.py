"""Tutorial checkpoints: read exactly, by our own code only, and never run."""

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
from sat.data.vocabulary import Vocabulary

WRITERS = {
    "zip": legacy_files.write_zip,
    "old": legacy_files.write_old,
    "0.4": legacy_files.write_0_4,
}


@pytest.fixture(params=WRITERS)
def slim_file(request, tmp_path) -> Path:
    path = tmp_path / "BEST_checkpoint_coco.pth.tar"
    return WRITERS[request.param](path, legacy_files.checkpoint(slim=True))


def same(weights: dict[str, torch.Tensor], saved: dict, part: str) -> bool:
    """Whether names, order, types and numbers are those of the saved encoder or decoder."""
    expected = {
        f"{part}.{name}".replace("encoder.resnet.", "encoder.body."): value
        for name, value in saved[part].state_dict().items()
    }
    found = {name: value for name, value in weights.items() if name.startswith(f"{part}.")}
    return list(found) == list(expected) and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value)
        for name, value in expected.items()
    )


@pytest.mark.parametrize("fine_tuned", [False, True])
@pytest.mark.parametrize("writer", WRITERS)
def test_read_tutorial_any_torch_version_returns_saved_weights_and_sizes(
    tmp_path, writer, fine_tuned
):
    saved = legacy_files.checkpoint(fine_tuned=fine_tuned)
    path = WRITERS[writer](tmp_path / "file", saved)
    found = tutorial.read_tutorial(path)
    assert tutorial.is_tutorial(path)
    assert same(found.weights, saved, "encoder")
    assert same(found.weights, saved, "decoder")
    assert found.vocab_size == 24


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet34",
        "resnet50",
        pytest.param("resnet101", marks=pytest.mark.slow),
        pytest.param("resnet152", marks=pytest.mark.slow),
    ],
)
def test_read_tutorial_other_resnet_is_recognized_by_its_blocks(tmp_path, backbone):
    saved = legacy_files.checkpoint(backbone, slim=backbone != "resnet101")
    found = tutorial.read_tutorial(legacy_files.write_zip(tmp_path / "file", saved))
    assert found.config.encoder.backbone == backbone
    assert same(found.weights, saved, "encoder")


def test_read_tutorial_config_is_the_reading_of_the_tutorial(slim_file):
    config = tutorial.read_tutorial(slim_file).config
    encoder, decoder = config.encoder, config.decoder
    assert (encoder.backbone, encoder.weights, encoder.blocks) == ("resnet18", "none", None)
    assert encoder.encoded_image_size == 14
    assert (decoder.attention_dim, decoder.embed_dim, decoder.decoder_dim) == (6, 7, 8)
    assert (decoder.attention, decoder.activation, decoder.gate) == ("soft", "relu", "vector")
    assert (decoder.initial_state, decoder.output, decoder.dropout) == ("linear", "linear", 0.5)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert config.preprocessing == Preprocessing(size=256, resize="squash", mean=mean, std=std)


def test_read_tutorial_imports_neither_models_nor_torchvision(tmp_path):
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
def test_read_tutorial_file_from_gpu_is_read_on_cpu(tmp_path, writer):
    saved = legacy_files.checkpoint(slim=True)
    with mock.patch.object(torch.serialization, "location_tag", return_value="cuda:0"):
        path = WRITERS[writer](tmp_path / "file", saved)
    assert b"cuda:0" in path.read_bytes()
    assert same(tutorial.read_tutorial(path).weights, saved, "decoder")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.double])
def test_read_tutorial_any_layout_and_precision_is_kept(tmp_path, writer, dtype):
    saved = legacy_files.checkpoint(slim=True)
    wide = torch.randn(10, 50).to(dtype)
    # Every second column from the fourth on, transposed: an offset and two strides.
    saved["decoder"].fc.weight = nn.Parameter(wide[1:9, 2::2].t())
    assert not saved["decoder"].fc.weight.is_contiguous()
    found = tutorial.read_tutorial(WRITERS[writer](tmp_path / "file", saved)).weights
    assert same(found, saved, "decoder")
    assert found["decoder.fc.weight"].is_contiguous()


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


def of_resnet50(value):
    value["encoder"].resnet = legacy_files.checkpoint("resnet50", slim=True)["encoder"].resnet


WRONG = [
    (
        of("decoder", vocab_size=25),
        r"its decoder.embedding.weight is \(24, 7\), by its sizes \(25, 7\)",
    ),
    (
        of("decoder", attention_dim=5),
        r"decoder_att.bias is \(6,\), by its sizes \(5,\)",
    ),
    (of("decoder", embed_dim=8), r"weight_ih is \(32, 519\), by its sizes \(32, 520\)"),
    (of("decoder", decoder_dim=True), "it is truncated or damaged"),
    (of("decoder", decoder_dim="8"), "it is truncated or damaged"),
    (of("decoder", decoder_dim=2**70), "it is truncated or damaged"),
    (of_resnet50, r"encoder_att.weight is \(6, 512\), by its sizes \(6, 2048\)"),
    (of("encoder", enc_image_size=0), "its enc_image_size is 0, not positive"),
    (of("encoder", enc_image_size="14"), "its enc_image_size is '14', not positive"),
    (
        lambda value: vars(value["decoder"].dropout).update(p=7),
        "dropout is 7.0: give a number in",
    ),
    (put(encoder=None), "its Encoder is NoneType"),
    (put(decoder=nn.Linear(2, 2)), "its DecoderWithAttention is Linear"),
    (lambda value: value.pop("encoder"), "it holds .*, not encoder and decoder"),
    (without_fc, r"its decoder.fc.bias is missing, by its sizes \(24,\)"),
    (twice, "its encoder.resnet.4.0.bn1 occurs twice"),
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
    (bias(24, 0, (12, 2), (2, 1)), r"fc.bias is \(12, 2\), by its sizes \(24,\)"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG)
def test_read_tutorial_misfit_raises_one_sentence(tmp_path, change, sentence):
    value = legacy_files.checkpoint(slim=True)
    change(value)
    path = legacy_files.write_zip(tmp_path / "file", value)
    with pytest.raises(ValueError, match=sentence) as caught:
        tutorial.read_tutorial(path)
    assert str(caught.value).startswith(f"cannot load {path}: ")
    assert "\n" not in str(caught.value)


def test_load_tutorial_wider_resnet_raises_one_sentence(tmp_path):
    saved = legacy_files.checkpoint()
    saved["encoder"].resnet[4][0].conv1.weight = nn.Parameter(torch.zeros(128, 64, 3, 3))
    path = legacy_files.write_zip(tmp_path / "file", saved)
    vocabulary = Vocabulary.build([[f"word{i}" for i in range(20)]], 1)
    sentence = r"size mismatch for encoder\.body\.4\.0\.conv1\.weight"
    with pytest.raises(ValueError, match=sentence) as caught:
        tutorial.load(path, vocabulary)
    assert str(caught.value).startswith(f"cannot load {path}: ")
    assert "\n" not in str(caught.value)
