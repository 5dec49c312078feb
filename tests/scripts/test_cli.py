"""Helpers of the scripts: flags completed, and freed memory kept."""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import sat.__main__
from sat.cli import cli_errors, complete_flags
from sat.config.decoding import DecodingConfig
from sat.config.training import TrainConfig
from sat.recipe_file import find_recipe

ROOT = Path(__file__).parents[2]
KEPT = """
import ctypes
from sat.cli import keep_freed_memory

class Mallinfo(ctypes.Structure):
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
keep_freed_memory()
libc.free(libc.malloc(ctypes.c_size_t(2**28)))
print(libc.mallinfo2().field8)  # fordblks: free bytes that were not given back
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
@pytest.mark.parametrize(("setting", "kept"), [({}, True), ({"MALLOC_TOP_PAD_": "0"}, False)])
def test_keep_freed_memory_without_malloc_variables_keeps_freed_blocks(
    setting: dict[str, str], kept: bool
) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run(
        [sys.executable, "-c", KEPT], env=plain | setting, capture_output=True, check=True
    )
    assert (int(found.stdout) >= 2**28) == kept


@pytest.mark.parametrize(
    ("cls", "typed", "completed"),
    [
        (
            DecodingConfig,
            "--forbid_unknown -b 3 --do_sample",
            "--forbid_unknown=true -b 3 --do_sample=true",
        ),
        (DecodingConfig, "--do_sample false --seed -1", "--do_sample false --seed -1"),
        (DecodingConfig, "--do_sample=false -i a b", "--do_sample=false -i a b"),
        (TrainConfig, "--log none --log=none", "--tracker none --tracker=none"),
        (TrainConfig, "--log_every 3", "--log_every 3"),
        (TrainConfig, "--stages 1 2 --seed 3", '--seed 3 --stages=["1","2"]'),
        (TrainConfig, "--stages 1 --stages=2 --stages 3", '--stages=["1","2","3"]'),
        (TrainConfig, "--stages [1,2] --mirror", "--mirror=true --stages=[1,2]"),
        (
            TrainConfig,
            "--validation.do_sample --mirror",
            "--validation.do_sample=true --mirror=true",
        ),
        (
            TrainConfig,
            "--seed 1 --config a --mirror --config=b",
            "--config=a --config=b --seed 1 --mirror=true",
        ),
    ],
)
def test_complete_flags_with_switches_and_files_adds_values_and_puts_files_first(
    cls: type, typed: str, completed: str
) -> None:
    assert complete_flags(cls, typed.split()) == completed.split()


@pytest.mark.parametrize(
    ("command", "flags", "empty"),
    [
        ("caption", [], ["img"]),
        ("caption", ["--img", "a.jpg"], ["model", "word_map", "output", "json"]),
        ("eval", [], ["model"]),
        ("eval", ["--model", "a"], ["word_map", "data_folder", "output_dir"]),
        ("export", [], ["onnx"]),
        ("export", ["--onnx", "a"], ["model", "word_map"]),
        ("web", [], ["model"]),
        ("train", [], ["data_folder", "output_dir", "cache_dir", "embeddings", "init", "config"]),
        ("train", [], ["push_to_hub"]),
        ("prepare", [], ["image_folder", "output_folder", "config", "tokenizer"]),
    ],
)
def test_path_that_is_an_empty_text_is_refused_at_once(
    tmp_path, monkeypatch, capsys, command, flags, empty
):
    """A shell's variable that is not set gives one; pathlib takes it for the current folder."""
    monkeypatch.chdir(tmp_path)
    run = importlib.import_module(sat.__main__.COMMANDS[command][0]).main
    for name in empty:
        with pytest.raises(SystemExit) as end:
            run([*flags, f"--{name}", ""])
        assert end.value.code == 1
        told = capsys.readouterr().err
        assert re.fullmatch(rf"error: {name} is .?''.{{,2}}: give [^.\n]+\n", told), told
        assert os.listdir() == []


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["captoin"], 2), (["--help"], 0)])
def test_python_m_sat_without_a_command_lists_all(monkeypatch, capsys, arguments, code):
    monkeypatch.setattr(sys, "argv", ["sat", *arguments])
    with pytest.raises(SystemExit) as end:
        sat.__main__.main()
    told = capsys.readouterr()
    text = told.err if code else told.out
    assert end.value.code == code
    assert all(f"  {name}" in text for name in sat.__main__.COMMANDS)


def test_python_m_sat_runs_the_command_by_its_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sat", "caption", "--help"])
    with pytest.raises(SystemExit):
        sat.__main__.main()
    assert "python -m sat caption" in capsys.readouterr().out


@pytest.mark.parametrize("command", [[ROOT / "caption.py"], ["-m", "sat", "caption"]])
def test_stop_while_a_command_is_imported_ends_it_in_one_word(tmp_path, command):
    """A module that the command imports is one that stops it."""
    stop = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n"
    (tmp_path / "yaml.py").write_text(stop)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="pipes break otherwise there")
@pytest.mark.parametrize("lines", [1, 10**5])
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("end", ["", "raise SystemExit(0)"])
def test_command_whose_reader_leaves_ends_without_a_word(lines, end, unbuffered):
    code = f"""
import time
from sat.cli import cli_errors
with cli_errors():
    time.sleep(0.5)
    for _ in range({lines}):
        print("a dog runs")
    {end}
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as command:
        command.stdout.close()
        assert (command.stderr.read(), command.wait()) == (b"", 141)


def test_broken_pipe_of_another_file_is_an_error(capsys):
    with pytest.raises(SystemExit) as end, cli_errors():
        raise BrokenPipeError(32, "Broken pipe", "worker")
    assert end.value.code == 1
    assert "Broken pipe: 'worker'" in capsys.readouterr().err


def test_each_console_script_runs_its_command(monkeypatch):
    scripts = re.findall(r'"sat-(\w+) = sat.__main__:(\w+)"', (ROOT / "setup.py").read_text())
    imported: list[str] = []

    def import_module(name: str) -> SimpleNamespace:
        imported.append(name)
        return SimpleNamespace(main=lambda arguments: None)

    monkeypatch.setattr(sat.__main__.importlib, "import_module", import_module)
    for _, function in scripts:
        getattr(sat.__main__, function)()
    assert [name for name, _ in scripts] == list(sat.__main__.COMMANDS)
    assert imported == [module for module, _ in sat.__main__.COMMANDS.values()]


def test_find_recipe_takes_a_path_or_the_name_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe("flickr8k").read_text().startswith("#")
    Path("flickr8k").write_text("batch_size: 7")
    assert find_recipe("flickr8k") == Path("flickr8k")
    assert find_recipe("nothing.yaml") == Path("nothing.yaml")  # jsonargparse says it is missing
