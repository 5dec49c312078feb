"""The page in the browser: drop images, read their captions, see where the model looked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio

from sat.atomic_io import write_json
from sat.captioner import Captioner, CaptionResult, load
from sat.data.image_sources import SAMPLES, shortened
from sat.visualize import visualize_att
from sat.web.view import STYLE, caption_html, error_html

SHIPPED = "the captioner that comes with the library"
UPLOAD_LIFETIME_SECONDS = 3600
"""seconds until an upload and the files made from it are deleted"""
MAX_QUEUE_LENGTH = 64
"""requests that may wait; more are told that the page is busy"""
MOST_IMAGES = 50
"""images of one request"""
PROGRESS = gradio.Progress()
"""as a default value it asks for a bar of progress"""
FONT = ("system-ui", "sans-serif")

LAUNCH: dict[str, Any] = {
    "share": False,
    "ssr_mode": False,
    "footer_links": [],
    "quiet": True,
    "css": STYLE,
    "theme": gradio.themes.Default(font=FONT, font_mono=("ui-monospace", "monospace")),
}
"""how every page is launched: nothing leaves the machine, nothing comes from the network"""


def build_page(models: Sequence[str] = (), device: str = "cpu") -> gradio.Blocks:
    """The page for checkpoint folders `models`; without any, for the library's own captioner.

    Its uploads are deleted after an hour, and when the page is closed.
    """
    names = list(models) or [SHIPPED]
    with gradio.Blocks(
        title="sat: captions, and where the model looked",
        analytics_enabled=False,
        delete_cache=(UPLOAD_LIFETIME_SECONDS // 4, UPLOAD_LIFETIME_SECONDS),
    ) as page:
        gradio.Markdown("# Captions, and where the model looked\nPoint at a word of a caption.")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=300):
                inputs = _inputs(names)
                button = gradio.Button("Caption", variant="primary", elem_id="caption")
            with gradio.Column(scale=2, min_width=300):
                shown = gradio.HTML(elem_id="captions")
                figure = gradio.DownloadButton("Figure", visible=False, elem_id="figure")
                written = gradio.DownloadButton("JSON", visible=False, elem_id="json")

        def caption(*values: Any, progress: Any = PROGRESS) -> tuple[Any, Any, Any]:
            return answer(lambda name: _captioner(name, device), *values, progress=progress)

        button.click(caption, inputs, [shown, figure, written], concurrency_limit=1)
    return page.queue(max_size=MAX_QUEUE_LENGTH)


def _inputs(names: list[str]) -> list[Any]:
    """The widgets, in the order in which `answer` takes their values."""
    images = gradio.File(
        label="images", file_count="multiple", file_types=["image"], elem_id="images"
    )
    samples = [[[str(path)]] for path in sorted(SAMPLES.glob("*.jpg"))]
    gradio.Examples(samples, images, label="samples", cache_examples=False)
    model = gradio.Dropdown(names, value=names[0], label="model", visible=len(names) > 1)
    with gradio.Accordion("decoding", open=False):
        beam = gradio.Slider(1, 20, value=5, step=1, label="beams")
        best = gradio.Slider(1, 10, value=1, step=1, label="captions of each image")
        samples_words = gradio.Checkbox(label="sample the words", elem_id="sample")
        top_p = gradio.Slider(0.05, 1, value=0.9, step=0.05, label="top p of sampling")
        seed = gradio.Number(0, precision=0, label="seed of sampling")
    kind = gradio.Radio(["png", "pdf", "svg"], value="png", label="figure")
    return [images, model, beam, best, samples_words, top_p, seed, kind]


@lru_cache(maxsize=4)
def _captioner(name: str, device: str) -> Captioner:
    return load(None if name == SHIPPED else name).to(device)


def answer(
    captioner_of: Callable[[str], Captioner],
    paths: list[str] | None,
    model: str,
    beam_size: int,
    number: int,
    sample: bool,
    top_p: float,
    seed: int | None,
    kind: str,
    *,
    progress: Any,
) -> tuple[str, Any, Any]:
    """The HTML of the captions, and the two download buttons.

    An image that cannot be captioned gets a sentence in its place. Raises `gradio.Error` where
    there is nothing to caption.
    """
    if not paths:
        raise gradio.Error("no image is given: drop one, or click on a sample")
    if len(paths) > MOST_IMAGES:
        raise gradio.Error(f"{len(paths)} images are given: caption {MOST_IMAGES} at a time")
    options: dict[str, Any] = {"num_return_sequences": int(number)}
    if sample:
        options |= {"do_sample": True, "top_p": top_p, "seed": int(seed or 0), "beam_size": 1}
    else:
        options |= {"do_sample": False, "beam_size": max(int(beam_size), int(number))}
    try:
        captioner = captioner_of(model)
    except (ValueError, OSError, ImportError) as error:
        raise gradio.Error(str(error)) from None
    shown: list[str] = []
    captioned: list[tuple[str, list[CaptionResult]]] = []
    for path in progress.tqdm(paths, desc="captioning"):
        name = Path(path).name
        try:
            results = captioner.candidates([path], **options)[0]
        except (ValueError, OSError) as error:
            reason = str(error).removeprefix(f"{shortened(path)}: ")
            folder = f"{Path(path).parent}{os.sep}"  # the server's, which no visitor may see
            shown.append(error_html(name, reason.replace(folder, "")))
            continue
        shown.append(caption_html(name, results))
        captioned.append((name, results))
    return "".join(shown), *_downloads(captioned, kind)


def _downloads(captioned: list[tuple[str, list[CaptionResult]]], kind: str) -> tuple[Any, Any]:
    """The figure of the first image, and the captions of all as JSON, as files to download."""
    if not captioned:
        return gradio.DownloadButton(visible=False), gradio.DownloadButton(visible=False)
    folder = Path(tempfile.mkdtemp(dir=gradio.utils.get_upload_folder()))
    first, results = captioned[0]
    figure = folder / f"{Path(first).stem[:60]}_att.{kind}"
    visualize_att(results[0], figure)
    written = folder / "captions.json"
    records = [{"image": name} | one.to_dict() for name, results in captioned for one in results]
    write_json(written, records)
    return (
        gradio.DownloadButton("Figure", value=str(figure), visible=True),
        gradio.DownloadButton("JSON", value=str(written), visible=True),
    )
