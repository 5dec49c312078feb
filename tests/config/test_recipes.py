"""Every recipe under configs/: it is understood, can be built, and says how it is run."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch

from sat.commands import prepare
from sat.commands.train import parse
from sat.config.data import InputFilesConfig
from sat.config.model import ModelConfig
from sat.config.training import TrainConfig
from sat.data.vocabulary import Vocabulary
from sat.models.factory import build_model

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
PAPER = [path for path in RECIPES if path.stem.startswith("paper")]
README = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def config_of(path: Path) -> TrainConfig:
    return parse(["--config", str(path)])


def header(path: Path) -> str:
    """The comment at the top as one text, its commands on one line each."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = [
        line[1:].strip() for line in lines[: next(i for i, x in enumerate(lines) if x[0] != "#")]
    ]
    return "\n".join(comment).replace("\\\n", "")


def prepared_by(path: Path, monkeypatch: pytest.MonkeyPatch) -> InputFilesConfig:
    """What the header's create_input_files.py command asks for."""
    monkeypatch.syspath_prepend(ROOT)
    (flags,) = re.findall(r"^python create_input_files\.py (.+)$", header(path), re.MULTILINE)
    found = prepare.parse(shlex.split(flags))
    assert found.output_folder == config_of(path).data_folder
    return found.input_files


def test_recipes_include_the_published_systems():
    assert {path.stem for path in RECIPES} >= {
        "tutorial_coco", "paper_flickr8k", "paper_flickr30k", "paper_coco", "flickr8k", "shapes"
    }  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_header_tells_command_hardware_and_score(path):
    text = header(path)
    assert f"python train.py --config configs/{path.name}" in text or "make demo" in text
    ran = re.search(r"(\d+ min|\d+ h)", text) and re.search(r"BLEU\S* \d", text)
    assert ran or "Not run here" in text
    assert re.search(r"CPU core|cores|GPU", text), "the hardware"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_model_computes_logits(path, monkeypatch):
    for name in ("kaiming_uniform_", "kaiming_normal_", "normal_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda weight, *args, **how: weight)  # slow
    config = config_of(path)
    encoder = dataclasses.replace(config.encoder, weights="none")
    words = Vocabulary.build([["a", "dog", "runs"]], min_word_freq=1)
    model = build_model(ModelConfig(encoder=encoder, decoder=config.decoder), words).eval()
    with torch.no_grad():
        features = model.encode(torch.zeros(1, 3, 64, 64))
        logits, _ = model.step(torch.tensor([words.start_id]), model.start(features))
    assert logits.shape == (1, len(words))
    if path in PAPER:
        assert features.shape == (1, (64 // 16) ** 2, 512)  # 14×14×512 of 224 pixels
    if path.stem == "tutorial_coco":
        assert model.encoder(torch.zeros(1, 3, 64, 64)).shape == (1, 14, 14, 2048)
        assert features.shape == (1, 2 * 2, 2048)  # of which attention makes as many
        assert model.start(features).projected.shape[1] == 14 * 14


def test_tutorial_recipe_has_the_tutorials_values(monkeypatch):
    path = ROOT / "configs" / "tutorial_coco.yaml"
    config, data = config_of(path), prepared_by(path, monkeypatch)
    assert (data.resize, data.image_size, data.max_len, data.captions_per_image) == (
        "squash", 256, 50, 5
    )  # fmt: skip
    assert (data.min_word_freq, data.vocabulary_size, data.vocabulary_splits) == (6, None, "all")
    assert config.encoder.batch_norm == "drifts"
    assert (config.grad_clip, config.grad_clip_by, config.batches) == (5.0, "value", "random")
    assert (config.alpha_c, config.penalty_scaling, config.label_smoothing) == (1.0, "mean", 0.0)
    for stage, size, rate in ((config.stage1, 80, 0.0), (config.stage2, 32, 1e-4)):
        assert (stage.batch_size, stage.learning_rate) == (size, 4e-4)
        assert stage.encoder_learning_rate == rate
        assert (stage.decay, stage.decay_patience, stage.stop_patience) == (0.8, 8, 20)
        assert (stage.ema, stage.captions_per_sample, stage.accumulate) == (0.0, 1, 1)


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_paper_recipes_have_the_papers_values(path, monkeypatch):
    config, data = config_of(path), prepared_by(path, monkeypatch)
    assert (data.resize, data.image_size, data.vocabulary_size) == ("inner_crop", 224, 10000)
    assert data.dataset == path.stem.removeprefix("paper_")
    assert (config.stage1.batch_size, config.batches) == (64, "equal_length")
    optimizer = "rmsprop" if data.dataset == "flickr8k" else "adam"
    assert config.stage1.optimizer == optimizer
    assert (config.penalty_scaling, config.decoder.gate, config.stages) == ("sum", "scalar", (1,))


def test_readme_comparison_names_existing_fields():
    fields = {field.name for field in dataclasses.fields(InputFilesConfig)}

    def walk(cls: type, prefix: str) -> None:
        for field in dataclasses.fields(cls):
            fields.add(prefix + field.name)
            value = getattr(cls(), field.name)
            if dataclasses.is_dataclass(value):
                walk(type(value), f"{prefix}{field.name}.")

    walk(TrainConfig, "")
    _, _, table = README.partition("| | paper | tutorial | ours | field |\n")
    rows = [line.split("|") for line in table.partition("\n\n")[0].splitlines()[1:]]
    assert len(rows) > 12
    for row in rows:
        assert len(row) == 7
        for name in re.findall(r"`([\w.]+)`", row[5]):
            assert name in fields, name
