"""Captioners travel over the Hugging Face Hub: its cache, its requests, a card that runs."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest
import tiny
import tiny_vit
from PIL import Image

import sat
from sat import hub
from sat.captioner import Captioner
from sat.checkpoints import native
from sat.config.decoding import DecodingConfig

ROOT = Path(__file__).parents[1]
FAMILIES = ("show_attend_tell", "vit_gpt2")
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)


def captioner_of(family: str) -> Captioner:
    if family == "show_attend_tell":
        return tiny.captioner()
    words = tiny_vit.subwords()
    config = dataclasses.replace(tiny_vit.config(), decoding=DecodingConfig(max_length=9))
    return Captioner(tiny_vit.model(words), words, config)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the Hub, which may not be asked."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def in_cache(cache: Path, captioner: Captioner, revision: str, commit: str) -> None:
    """Lay a captioner out as huggingface_hub does after a download."""
    repository = cache / "models--me--mine"
    captioner.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(commit)


@pytest.mark.parametrize("family", FAMILIES)
def test_load_of_a_repository_in_the_cache_reads_its_revision_offline(family, cache):
    captioner = captioner_of(family)
    in_cache(cache, captioner, "main", "a" * 40)
    for loaded in (
        sat.load("me/mine"),
        sat.load("me/mine@main"),
        Captioner.from_pretrained("me/mine", revision="a" * 40),
        Captioner.from_pretrained("me/mine", cache_dir=cache),
    ):
        assert loaded.config == captioner.config
        assert not tiny.changed(tiny.weights(captioner.model), loaded.model)


@pytest.mark.parametrize("name", ["me/none", "me/mine@v2"])
def test_load_of_a_repository_that_cannot_be_had_raises_one_sentence(name, cache):
    in_cache(cache, captioner_of("show_attend_tell"), "main", "a" * 40)
    with pytest.raises(FileNotFoundError, match="is no folder here, and could not be read from"):
        sat.load(name)


def test_local_folder_of_a_path_is_the_path(cache):
    Path("runs").mkdir()
    for path in ("runs", "runs/best", "./me/mine", "/me/mine", "word_map.json", Path("a/b/c")):
        assert hub.local_folder(path) == Path(path)


def test_local_folder_without_huggingface_hub_says_what_to_install(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install .* or give a folder that exists"):
        hub.local_folder("me/mine")
    with pytest.raises(ImportError, match=r"pip install .* or leave --push_to_hub out"):
        hub.check_pushable("me/mine")
    with pytest.raises(ValueError, match="push_to_hub is 'mine': give a repository as user/name"):
        hub.push("runs/best", "mine")


def test_parts_of_a_vit_gpt2_captioner_are_read_from_the_hub_by_name(cache):
    from sat.data.tokenizer import SubwordTokenizer
    from sat.models.factory import build_model
    from sat.models.hf_pixels import encoder_statistics

    captioner = captioner_of("vit_gpt2")
    in_cache(cache, captioner, "v1", "a" * 40)
    snapshot = cache / "models--me--mine" / "snapshots"
    captioner.model.encoder.save_pretrained(snapshot / ("a" * 40))
    assert SubwordTokenizer.load("me/mine@v1") == captioner.vocabulary
    assert encoder_statistics("me/mine@v1") == ((0.5,) * 3, (0.5,) * 3)
    built = build_model(tiny_vit.config(encoder="me/mine@v1"), captioner.vocabulary)
    assert not tiny.changed(tiny.weights(captioner.model.encoder), built.encoder)


def test_push_without_a_connection_is_one_sentence(cache, monkeypatch):
    class Api:
        def __init__(self, token: str | None) -> None:
            """Take a token."""

        def create_repo(self, *args: object, **how: object) -> None:
            class ConnectError(Exception):
                """As httpx has it: no OSError."""

            raise ConnectError("[Errno -2] Name or service not known\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    captioner_of("show_attend_tell").save_pretrained("mine")
    with pytest.raises(OSError) as caught:
        hub.push("mine", "me/mine")
    told = "mine could not be uploaded to the Hub as me/mine ([Errno -2] Name or service not known)"
    assert str(caught.value).startswith(f"{told}: check the connection and the token")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cache")
def test_push_of_a_folder_without_a_model_card_brings_a_short_one(monkeypatch, capsys):
    sent: dict[str, str] = {}

    class Api:
        def __init__(self, token: str | None) -> None:
            """Take a token."""

        def create_repo(self, *args: object, **how: object) -> None:
            """Make nothing."""

        def upload_folder(self, allow_patterns: list[str], **how: object) -> str:
            return " ".join(sorted(allow_patterns))

        def upload_file(self, path_or_fileobj: bytes, path_in_repo: str, **how: object) -> None:
            sent[path_in_repo] = path_or_fileobj.decode()

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    captioner = captioner_of("show_attend_tell")
    captioner.save_pretrained("me/mine")
    Path("me/mine/README.md").unlink()
    assert hub.push("me/mine", "me/mine") == "config.json model.safetensors word_map.json"
    assert sent["README.md"].startswith("---\nlibrary_name: sat\n")
    Image.new("RGB", (40, 30), "red").save("photo.jpg")
    exec(SNIPPET.search(sent["README.md"])[1], {})
    assert capsys.readouterr().out == captioner.caption("photo.jpg").text + "\n"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("folder", ["run", "nowhere"])
def test_push_of_a_folder_that_is_no_checkpoint_uploads_nothing(monkeypatch, folder):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token: None)
    captioner_of("show_attend_tell").save_pretrained("run/best")
    with pytest.raises(
        FileNotFoundError, match=rf"^{folder} is no checkpoint \(no config.json\): "
    ):
        hub.push(folder, "me/mine")


@pytest.mark.parametrize("family", FAMILIES)
def test_snippet_of_the_model_card_runs(family, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "red").save("photo.jpg")
    captioner = captioner_of(family)
    captioner.save_pretrained("mine")
    code = SNIPPET.search(Path("mine/README.md").read_text())
    exec(code[1], {})
    assert capsys.readouterr().out == captioner.caption("photo.jpg").text + "\n"


CLIENT = """
import sys
from sat.captioner import Captioner
from sat.hub import push
found = Captioner.from_pretrained(sys.argv[1])
push(sys.argv[1], "me/mine", token="hf_none")
print(found.push_to_hub("me/mine", token="hf_none"), Captioner.from_pretrained("me/mine@main"))
"""


@pytest.mark.parametrize("family", [FAMILIES[0], pytest.param(FAMILIES[1], marks=pytest.mark.slow)])
def test_push_to_hub_then_from_pretrained_gives_the_captioner_back(family, tmp_path):
    """Upload to and download from a server of the Hub's requests, as another process does."""
    captioner = captioner_of(family)
    native.save(tmp_path / "mine", captioner.model, captioner.vocabulary, captioner.config)
    (tmp_path / "mine" / "trainer.pt").write_bytes(b"state")
    own = {path.name for path in (tmp_path / "mine").iterdir()}
    for name in ("notes.txt", "captions_test_beam5_results.json", "tokenizer/old.json"):
        (tmp_path / "mine" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_text("private")
    with hub_server.serve({}) as server:
        place = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | place
        command = [sys.executable, "-c", CLIENT, str(tmp_path / "mine")]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{server.address}/me/mine")
    assert set(server.files) == own - {"trainer.pt"}
    assert 'sat.load("me/mine")' in server.files["README.md"].decode()
    weights = server.files["model.safetensors"]
    assert weights == (tmp_path / "mine" / "model.safetensors").read_bytes()
    [downloaded] = (tmp_path / "home").rglob("snapshots/*")
    assert (downloaded / "model.safetensors").read_bytes() == weights
    assert sat.load(downloaded).config == captioner.config
