"""The page in a real browser (Chromium, without a screen); `make test-web` installs both."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

import sat
from sat.checkpoints import native
from sat.config.decoding import DecodingConfig

pytestmark = pytest.mark.slow
pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)
ROOT = Path(sat.__file__).parents[1]
WAIT_SECONDS = 600
"""for anything that the page or the server does: more than it takes on a busy machine"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A checkpoint of a random captioner whose captions differ from image to image."""
    captioner, folder = tiny.captioner(), tmp_path_factory.mktemp("run") / "best"
    config = dataclasses.replace(captioner.config, decoding=DecodingConfig(min_length=3))
    native.save(folder, captioner.model, captioner.vocabulary, config)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    return tiny.photos(tmp_path_factory.mktemp("photos"))[:8]


@pytest.fixture(scope="module")
def server(model, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of a page that runs in a process of its own, and its folder of uploads."""
    temporary = tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-m", "sat", "web", "--port", "0", "--model", str(model)]
    environment = os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    line = process.stdout.readline()
    assert line.startswith("open http://127.0.0.1:"), line
    yield line.split()[1], temporary
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_SECONDS) in (0, 130)
    assert not list(temporary.glob("sat-web-*"))  # nothing that was uploaded is left


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def new_page(browser, server) -> Iterator[Callable[..., Any]]:
    """Opens the page; at the end nothing may have been asked of another machine."""
    contexts, foreign = [], []

    def note(request: Any) -> None:
        if not request.url.startswith((server[0], "data:", "blob:")):
            foreign.append(request.url)

    def new(**options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * WAIT_SECONDS)
        page.on("request", note)
        page.goto(server[0])
        page.wait_for_selector("#caption")
        return page

    yield new
    for context in contexts:
        context.close()
    assert foreign == []


def upload(page: Any, *paths: Path) -> None:
    page.set_input_files("#images input[type=file]", [str(path) for path in paths])
    page.wait_for_function(
        "n => document.querySelectorAll('#images .file-preview tr').length == n", arg=len(paths)
    )


def caption(page: Any, *paths: Path) -> list[str]:
    """The captions that the page shows for the images."""
    upload(page, *paths)
    page.click("#caption")
    page.wait_for_selector("#captions .sat, #captions [role=alert]")
    captions = page.locator("#captions .caption").all()
    return [" ".join(one.locator(".word").all_inner_texts()) for one in captions]


def view(page: Any, *lit: int) -> bytes:
    """The image on the page, once the layers of these words have faded in and the others out."""
    page.wait_for_function(
        "lit => [...document.querySelectorAll('#captions .map')].every((layer, i) => "
        "getComputedStyle(layer).opacity == Number(lit.includes(i)))",
        arg=list(lit),
    )
    return page.locator("#captions .view").first.screenshot()


def test_page_captions_as_the_library_does(new_page, model, photos):
    result = sat.load(model).caption(photos[0])
    assert caption(new_page(), photos[0]) == [" ".join(result.words)]


@pytest.mark.parametrize("point", ["hover", "focus", "tap"])
def test_page_pointing_at_a_word_lights_the_image(new_page, photos, point):
    page = new_page(has_touch=True)
    caption(page, photos[0])
    page.mouse.move(0, 0)
    before = view(page)
    getattr(page.locator("#captions .word").nth(1), point)()
    assert view(page, 1) != before


def test_page_downloads_figure_and_json(new_page, photos, tmp_path):
    page = new_page()
    captions = caption(page, photos[0], photos[1])
    for button, name in (("#figure", "figure.png"), ("#json", "captions.json")):
        with page.expect_download() as download:
            page.locator(f"{button}, {button} a").last.click()
        download.value.save_as(tmp_path / name)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    records = json.loads((tmp_path / "captions.json").read_text(encoding="utf-8"))
    assert [" ".join(record["words"]) for record in records] == captions


def test_page_with_a_damaged_image_says_so_and_captions_the_others(new_page, photos, tmp_path):
    (tmp_path / "bad.jpg").write_text("no image")
    page = new_page()
    assert len(caption(page, tmp_path / "bad.jpg", photos[0])) == 1
    assert "bad.jpg" in page.locator("#captions [role=alert]").inner_text()


def test_page_without_an_image_asks_for_one(new_page):
    page = new_page()
    page.click("#caption")
    page.wait_for_selector("text=no image is given")


def test_page_eight_at_once_get_each_their_own_caption(new_page, model, photos):
    captioner = sat.load(model)
    expected = [" ".join(captioner.caption(path).words) for path in photos]
    assert len(set(expected)) > 1
    pages = [new_page() for _ in photos]
    for page, path in zip(pages, photos):
        upload(page, path)
    for page in pages:
        page.click("#caption", no_wait_after=True)
    for page, text in zip(pages, expected):
        page.wait_for_selector("#captions .sat")
        assert " ".join(page.locator("#captions .word").all_inner_texts()) == text


def test_page_on_a_phone_does_not_scroll_sideways(new_page, photos):
    page = new_page(viewport={"width": 390, "height": 800})
    caption(page, photos[0])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_server_refuses_paths_outside_the_uploads(server, tmp_path):
    secret = tmp_path / "secret.png"
    shutil.copyfile(tiny.photos(tmp_path)[0], secret)
    address = server[0].rstrip("/")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{address}/gradio_api/file={secret}", timeout=WAIT_SECONDS)
    assert refused.value.code in (403, 404)
    data = [[{"path": str(secret)}], str(secret), 1, 1, False, 0.9, 0, "png"]
    request = urllib.request.Request(
        f"{address}/gradio_api/call/caption",
        json.dumps({"data": data}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as reply:
        event = json.load(reply)["event_id"]
    events = f"{address}/gradio_api/call/caption/{event}"
    with urllib.request.urlopen(events, timeout=WAIT_SECONDS) as reply:
        told = reply.read().decode()
    assert "event: error" in told
    assert "data:image" not in told
