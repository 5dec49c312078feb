"""train.py and eval.py as they are typed: flags, recipes, mistakes, and what they leave behind."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import runpy
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import tiny

from sat.cli import cli_errors
from sat.commands.train import parse
from sat.config.decoding import DecodingConfig
from sat.config.training import StageConfig, TrainConfig

ROOT = Path(__file__).parents[2]

RECIPE = """
alpha_c: 0.25
seed: 7
stage1:
  epochs: 3
  learning_rate: 0.5
decoder: {dropout: 0.1, gate: scalar}
stages: [1, 2]
validation: {beam_size: 4}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return str(path)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed of arguments that end the program, which must not count as a success."""
    with pytest.raises(SystemExit) as caught, cli_errors():
        parse(arguments)
    assert caught.value.code not in (0, None)
    return " ".join(capsys.readouterr().err.split())


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What the script printed in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def mistaken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *command: object
) -> str:
    """The one line that is printed before the script fails."""
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / str(command[0])), run_name="__main__")
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_without_flags_all_is_default():
    assert parse([]) == TrainConfig()


def test_a_recipe_changes_what_it_names_and_nothing_else(recipe):
    config = parse(["--config", recipe])
    assert (config.alpha_c, config.seed, config.stages) == (0.25, 7, (1, 2))
    assert config.stage1 == StageConfig(epochs=3, learning_rate=0.5)
    assert (config.decoder.dropout, config.decoder.gate) == (0.1, "scalar")
    assert config.validation == DecodingConfig(beam_size=4)
    assert config.stage2 == TrainConfig().stage2
    assert config.data_folder == TrainConfig().data_folder


@pytest.mark.parametrize("form", ["--config FILE", "--config=FILE"])
@pytest.mark.parametrize("place", ["before", "after", "around"])
def test_flags_win_wherever_they_stand(recipe, form, place):
    named = form.replace("FILE", recipe).split()
    flags = ["--alpha_c", "2.5", "--stage1.epochs=9", "--stages", "[2]", "--decoder.gate", "none"]
    arguments = {
        "before": flags + named,
        "after": named + flags,
        "around": flags[:2] + named + flags[2:],
    }[place]
    config = parse(arguments)
    assert (config.alpha_c, config.stages, config.decoder.gate) == (2.5, (2,), "none")
    assert config.stage1 == StageConfig(epochs=9, learning_rate=0.5)
    assert (config.seed, config.decoder.dropout) == (7, 0.1)


def test_the_later_recipe_wins(recipe, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("seed: 8\n")
    both = ["--config", recipe, "--config", str(other)]
    assert (parse(both).seed, parse(both).alpha_c) == (8, 0.25)
    assert parse([*both[2:], *both[:2]]).seed == 7


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--resume"], {"resume": True}),
        (["--resume", "--cache_features"], {"resume": True, "cache_features": True}),
        (["--cache_features", "--seed", "3"], {"cache_features": True, "seed": 3}),
        (["--seed", "3", "--overwrite"], {"seed": 3, "overwrite": True}),
        (["--resume=false", "--mirror", "true"], {"resume": False, "mirror": True}),
        (["--cache_features", "false"], {"cache_features": False}),
        (["--batches", "random"], {"batches": "random"}),
        (["--mirror=true", "--resume", "--device=cpu"], {"mirror": True, "resume": True}),
    ],
)
def test_switches_may_stand_alone(arguments, expected):
    config = parse(arguments)
    assert {name: getattr(config, name) for name in expected} == expected


def test_switches_may_stand_alone_beside_a_recipe(recipe):
    for arguments in (["--resume", "--config", recipe], ["--config", recipe, "--resume"]):
        config = parse(arguments)
        assert (config.resume, config.seed) == (True, 7)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("alpha: 0.5", ": unknown key 'alpha' in TrainConfig: the nearest that it has is alpha_c"),
        ("stage1: {epoch: 3}", ": unknown key 'epoch' in StageConfig: the nearest that it has is"),
        ("stage1: {epochs: many}", ": stage1.epochs is 'many': give a whole number"),
        ("stage1: true", ": stage1 is True: give its fields, as {epochs: ...}"),
        ("learning_rate: 1e-4", "the nearest that it has is stage1.learning_rate"),
        ("stage1: {epochs: 1, epochs: 2}", " cannot be read (epochs stands twice: give it once)"),
        ("decoder: {gate: wide}", ": decoder.gate is 'wide': give vector, scalar, none"),
        ("stage1: {decay: 2.0}", "decay is 2.0: give a number in (0, 1]"),
        ("stages: [4]", "stages is (4,): choose from 1, 2 and 3"),
        ("- 1", ": it is [1]: give flags, as seed: 1"),
        ("seed: [", " cannot be read (while parsing a flow node"),
        ("seed: " + 5000 * "[" + 5000 * "]", " cannot be read (maximum recursion depth"),
        ("a: &a [1]\nb: [*a, *a]", " cannot be read (an alias is '*': write the values out"),
        ("x" * 10**6, " cannot be read (its length is 1000000: that is no file of flags"),
        ("\0", " cannot be read (unacceptable character #x0000"),
    ],
    ids=lambda text: text[:20],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path, capsys, text, told):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    sentence = refused(["--config", str(path)], capsys)
    assert told in sentence
    assert told[0] not in ": " or sentence.startswith(f"error: {path}{told}")


def test_a_recipe_of_comments_alone_changes_nothing(tmp_path):
    (tmp_path / "recipe.yaml").write_text("# seed: 3\n")
    assert parse(["--config", str(tmp_path / "recipe.yaml")]) == TrainConfig()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX")
def test_a_pipe_as_recipe_is_refused_and_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "recipe.yaml")
    told = refused(["--config", str(tmp_path / "recipe.yaml")], capsys)
    assert "recipe.yaml is no regular file" in told


def test_numbers_of_yaml_in_every_form_are_taken(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("stage1: {learning_rate: 1e-4, epochs: 3}\nstages: [1, 2]\nalpha_c: 1\n")
    config = parse(["--config", str(path)])
    assert (config.stage1.learning_rate, config.stages, config.alpha_c) == (1e-4, (1, 2), 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--alpha", "1"], "--alpha"),  # no abbreviations: they change meaning as flags are added
        (["--learning_rate", "1e-4"], "the nearest flag is --stage1.learning_rate ("),
        (["--seed", "one"], "error: seed is 'one': give a whole number (--help"),
        (["--resume", "maybe"], "error: resume is 'maybe': give true or false or auto (--help"),
        (["--decoder.gate", "x"], "error: decoder.gate is 'x': give vector, scalar, none (--help"),
        (["--stage1.epochs", "-1"], "epochs is -1: give a whole number in [0, 1e6]"),
        (["--config", "no_such_file.yaml"], "no_such_file.yaml"),
        (["--data_folder"], "data_folder"),
        (["--data_name", "--seed", "1"], "data_name"),
        (["--seed"], "seed"),
        (["configs"], "configs"),
    ],
)
def test_a_mistyped_flag_is_named(capsys, arguments, told):
    assert told in refused(arguments, capsys)


def test_help_is_quick_and_tells_what_flags_mean():
    code = (
        "import sys\nfrom sat.commands import train\n"
        "try:\n    train.parse(['--help'])\nexcept SystemExit as end:\n"
        "    print('ended', end.code, 'torch' in sys.modules, 'sat.training' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == "ended 0 False False"
    text = " ".join(done.stdout.split())
    for words in (
        "--stageN.epochs at most [120; stage3: 20]",
        "--decoder.attention_dim",
        "--decoder.gate {vector,scalar,none} on the context; the paper: scalar, the tutorial: "
        "vector [vector]",
        "weight of the doubly stochastic penalty",
        "the learning rates are multiplied by this",
    ):
        assert words in text


@pytest.mark.slow
def test_train_and_evaluate(tmp_path, monkeypatch, capsys):
    """The two commands of the README, on twelve pictures; then their usual mistakes."""
    data, runs = tiny.prepare(tmp_path / "data", known=2), tmp_path / "runs"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "encoder: {backbone: efficientnet_lite0, weights: none, blocks: 2}\n"
        "decoder: {attention_dim: 8, embed_dim: 8, decoder_dim: 8}\n"
        "stage1: {epochs: 1, batch_size: 8}\n"
        "choose_decoding: false\n"
    )
    common = ["--config", recipe, "--data_folder", data, "--output_dir", runs, "--device", "cpu"]
    trained = run("train.py", *common, "--cache_features")
    assert trained.stdout == f"best checkpoint: {runs / 'best'}\n"
    assert "stage 1, epoch 1" in trained.stderr
    assert len(tiny.log(runs)) == 1
    told = mistaken(monkeypatch, capsys, "train.py", *common)
    assert told.startswith(f"error: {runs} holds a run already: pass --resume")

    options = ["--data_folder", data, "--batch_size", 5, "--max_length", 6]
    beams = ["--beam_size", 1, 2]
    evaluated = run("eval.py", "--model", runs / "best", *options, *beams)
    lines = evaluated.stdout.splitlines()
    assert lines[0].startswith("| beam | Bleu_1 | Bleu_2 | Bleu_3 | Bleu_4 | brevity_penalty |")
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["1", "2"]
    assert lines[4] == "the model's own decoding: beam 1, length penalty 0"
    for beam, row in zip((1, 2), lines[2:4]):
        stem = runs / "best" / f"captions_test_beam{beam}"
        results = json.loads(Path(f"{stem}_results.json").read_text())
        assert {result["image_id"] for result in results} == set(range(300, 312))
        assert all(set(result) == {"image_id", "caption"} for result in results)
        scores = json.loads(Path(f"{stem}_scores.json").read_text())
        assert row.split("|")[2].strip() == f"{100 * scores['Bleu_1']:.1f}"
    looked = json.loads((runs / "best" / "pointing_test.json").read_text())
    assert lines[5].startswith("all objects named in") == (looked["nouns"] > 0)
    assert {"nouns", "peak_inside", "mass_inside", "chance", "movement"} <= set(looked)

    told = mistaken(monkeypatch, capsys, "eval.py", "--model", runs, *options, *beams)
    assert told.startswith(f"error: {runs} is not a checkpoint folder")


def flags_of(cls: type, prefix: str = "--") -> set[str]:
    found: set[str] = set()
    for name, hint in typing.get_type_hints(cls).items():
        whole = dataclasses.is_dataclass(hint)
        found |= flags_of(hint, f"{prefix}{name}.") if whole else {prefix + name}
    return found


def test_help_explains_every_flag_once_in_fewer_than_200_lines(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    assert text.count("\n") < 200
    explained = re.findall(r"^ +(--[\w.]+)(?: \{.*\})?  \S", text, re.MULTILINE)
    of_stages = {re.sub(r"--stage\d\.", "--stageN.", flag) for flag in flags_of(TrainConfig)}
    general = ["--config", "--print_config", "--print_completion"]
    assert sorted(explained) == sorted([*of_stages, *general])
    assert "None" not in text
