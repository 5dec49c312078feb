"""Files that would run code, or are damaged, raise one sentence and nothing is run."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import legacy_files
import pytest
import torch

from sat.checkpoints import safe_pickle, tutorial

RAW = {"zip": legacy_files.raw_zip, "old": legacy_files.raw_old}
WRITERS = {"zip": legacy_files.write_zip, "old": legacy_files.write_old}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, bytes]:
    """The bytes of a small sound file in either container."""
    folder, value = tmp_path_factory.mktemp("sound"), legacy_files.checkpoint(slim=True)
    return {name: write(folder / name, value).read_bytes() for name, write in WRITERS.items()}


def call(module: str, name: str, argument: str) -> bytes:
    """The pickle of `module.name(argument)`."""
    text = argument.encode()
    return b"\x80\x02c%s\n%s\nX%s%s\x85R." % (
        module.encode(),
        name.encode(),
        len(text).to_bytes(4, "little"),
        text,
    )


EVIL = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("__builtin__", "eval"),
    ("torch.hub", "load"),
    ("torch", "load"),
    ("torch.nn.modules.linear", "Linear.forward"),
    ("torch.nn.modules", "linear.Linear"),
    ("models", "Encoder.__init__"),
    ("collections", "OrderedDict.fromkeys"),
]


@pytest.mark.parametrize("container", RAW)
@pytest.mark.parametrize(("module", "name"), EVIL)
def test_read_tutorial_unneeded_global_raises_and_is_not_run(tmp_path, container, module, name):
    sentinel = tmp_path / "ran"
    path = RAW[container](tmp_path / "evil", call(module, name, f"touch {sentinel}"))
    with pytest.raises(ValueError) as caught:
        tutorial.read_tutorial(path)
    assert str(caught.value) == (
        f"cannot load {path}: it names '{module}.{name}', which no tutorial checkpoint needs; it "
        "was not loaded and nothing of it was run: take a file from a source you trust"
    )
    assert not sentinel.exists()
    pickle.loads(call("posix", "system", f"touch {sentinel}"))
    assert sentinel.exists(), "the attack works where nothing stops it"


def test_read_tutorial_global_with_similar_name_raises(tmp_path):
    for module, name in safe_pickle.INERT_TYPES:
        near = [
            (module, name[:-1]),
            (module, name + "x"),
            (module + "x", name),
            ("x" + module, name),
        ]
        for pair in near:
            path = legacy_files.raw_zip(tmp_path / "evil", call(*pair, ""))
            with pytest.raises(ValueError, match="it names "):
                tutorial.read_tutorial(path)


@pytest.mark.parametrize("container", RAW)
@pytest.mark.parametrize(
    ("opcode", "data"),
    [
        ("INST", b"(X\x02\x00\x00\x00lsios\nsystem\n."),
        ("INST", b"(imodels\nEncoder\n."),
        ("STRING", b"S'text'\n."),
        ("OBJ", b"(cmodels\nEncoder\no."),
        ("STACK_GLOBAL", b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93."),
        ("EXT1", b"\x82\x01."),
    ],
)
def test_read_tutorial_unneeded_opcode_raises(tmp_path, container, opcode, data):
    path = RAW[container](tmp_path / "evil", b"\x80\x02" + data)
    with pytest.raises(
        ValueError, match=rf"its pickle uses {opcode}, which .* nothing of it was run"
    ):
        tutorial.read_tutorial(path)


def test_read_tutorial_far_memo_slot_raises_before_allocating(tmp_path):
    path = legacy_files.raw_zip(tmp_path / "evil", b"\x80\x02]r\xff\xff\xff\xff.")
    with pytest.raises(ValueError, match="its pickle jumps to memo slot 4294967295, which"):
        tutorial.read_tutorial(path)


def opened(path: Path) -> Any:
    with path.open("rb") as file:
        return safe_pickle.open_container(file)[0]


def test_open_container_build_opcode_sets_no_attribute(tmp_path):
    encoder, attention = (b"cmodels\n%s\n" % name for name in (b"Encoder", b"Attention"))
    plant = b"}X\x0c\x00\x00\x00__setstate__%ssb" % attention
    inert = opened(legacy_files.raw_zip(tmp_path / "a", b"\x80\x02%s)\x81%s}b." % (encoder, plant)))
    assert type(inert) is safe_pickle.INERT_TYPES["models", "Encoder"]
    assert inert.state == {}
    assert not hasattr(inert, "__dict__")
    # The two-part state, which sets attributes of objects without a __setstate__ of their own.
    slots = b"N}X\x05\x00\x00\x00itemsK\x01s\x86b"
    inert = opened(legacy_files.raw_zip(tmp_path / "b", b"\x80\x02%s)\x81%s." % (encoder, slots)))
    assert inert.items == {}
    before = dict(vars(safe_pickle.INERT_TYPES["models", "Encoder"]))
    with pytest.raises(ValueError, match="truncated or damaged"):
        tutorial.read_tutorial(
            legacy_files.raw_zip(tmp_path / "c", b"\x80\x02%s%s." % (encoder, plant))
        )
    assert dict(vars(safe_pickle.INERT_TYPES["models", "Encoder"])) == before


def test_open_container_calls_make_inert_objects_only(tmp_path):
    for module, name in safe_pickle.INERT_TYPES:
        inert = opened(legacy_files.raw_zip(tmp_path / "file", call(module, name, "argument")))
        assert type(inert) is safe_pickle.INERT_TYPES[module, name]
        assert inert.arguments == ("argument",)


def refused(path: Path, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        tutorial.read_tutorial(path)
    assert str(caught.value).startswith(f"cannot load {path}: ")


@pytest.mark.parametrize("container", RAW)
@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.9])
def test_read_tutorial_truncated_file_raises_value_error(tmp_path, sound, container, part):
    data, path = sound[container], tmp_path / "file"
    for length in (16, int(part * len(data)), len(data) - 1):
        path.write_bytes(data[:length])
        assert tutorial.is_tutorial(path)
        refused(path, "truncated or damaged.* copy or download it again")
    path.write_bytes(data)
    tutorial.read_tutorial(path)


def test_read_tutorial_old_file_without_last_byte_raises(tmp_path, sound):
    path, length = tmp_path / "file", len(sound["old"])
    path.write_bytes(sound["old"][:-1])
    refused(path, f"it has {length - 1} of {length} bytes: it is truncated or damaged")


@pytest.mark.parametrize("data", [b"", b"\x00" * 99, b"hello", pickle.dumps({}), b"\x1f\x8b"])
def test_read_tutorial_other_file_raises_value_error(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    assert not tutorial.is_tutorial(path)
    refused(path, "it starts unlike any file of torch.save: pass a BEST_checkpoint_")


def test_is_tutorial_folder_or_missing_path_is_false(tmp_path):
    assert not tutorial.is_tutorial(tmp_path)
    assert not tutorial.is_tutorial(tmp_path / "missing")


def test_read_tutorial_other_zip_raises_value_error(tmp_path, sound):
    path = tmp_path / "file"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "text")
    refused(path, "it is a zip with 0 data.pkl, not 1: pass a BEST_checkpoint_")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("checkpoint/data.pkl", pickle.dumps({}, 2))
    refused(path, "its entry 'checkpoint/data.pkl' is compressed: pass a BEST_checkpoint_")
    refused(legacy_files.raw_zip(path, pickle.dumps([1], 2)), "it holds 'list', not encoder and")
    with zipfile.ZipFile(legacy_files.raw_zip(path, pickle.dumps({}, 2)), "a") as archive:
        archive.writestr("checkpoint/byteorder", "big")
    refused(path, "its numbers are not little endian: save it on a little endian CPU")


def test_read_tutorial_storage_of_wrong_size_raises(tmp_path, sound):
    path, smaller = tmp_path / "file", tmp_path / "smaller"
    path.write_bytes(sound["zip"])
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(smaller, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[: -4 if name.endswith("/data/0") else None])
    refused(smaller, "its encoder.resnet.0.weight is not of the stated size: it is truncated")


@pytest.mark.parametrize("container", RAW)
@pytest.mark.parametrize(
    "identifier",
    [b"X\x01\x00\x00\x000", b"(X\x07\x00\x00\x00storageK\x01K\x02K\x03K\x04t", b"K\x01", b"]"],
)
def test_read_tutorial_malformed_persistent_id_raises(tmp_path, container, identifier):
    path = RAW[container](tmp_path / "file", b"\x80\x02" + identifier + b"Q.")
    refused(path, "its pickle points to .*, no storage")


def outcome(path: Path) -> str:
    try:
        return tutorial.read_tutorial(path).config.encoder.backbone
    except ValueError as error:
        return str(error)


def test_read_tutorial_any_damaged_byte_loads_or_raises_value_error(tmp_path, sound):
    """With one byte of its pickle changed a file loads, or raises a `ValueError`."""
    path, draws, outcomes = tmp_path / "file", random.Random(1), []
    end = sound["old"].index(b"decoder_optimizer")
    for _ in range(60):
        data = bytearray(sound["old"])
        data[draws.randrange(end)] = draws.randrange(256)
        path.write_bytes(data)
        outcomes.append(outcome(path))
    assert all(text.startswith(("resnet18", f"cannot load {path}: ")) for text in outcomes)
    assert 0 < outcomes.count("resnet18") < 60


def test_read_tutorial_storage_named_many_times_raises_by_size(tmp_path):
    value, shared = legacy_files.checkpoint(slim=True), torch.zeros(2**20)
    for i in range(32):
        value["encoder"].resnet.register_buffer(f"again{i}", shared)
    refused(legacy_files.write_zip(tmp_path / "many", value), "larger than twice the file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX")
def test_read_tutorial_pipe_raises_and_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no regular file")
