"""What a captioner's card shows: the objects that people name and it names too, and its captions.

    python tools/card.py objects runs/x/best/captions_val_beam5_results.json \
        data/VAL_REFERENCES_x.json --prefix coco_
    python tools/card.py sheet docs/captions.jpg [photo.jpg,cat.jpg,coffee.jpg]
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from pathlib import Path

from jsonargparse import auto_cli
from matplotlib.figure import Figure

import sat
from sat.data.annotations.words import split_words
from sat.metrics.object_names import named_kinds

MOST = 3
"""people of five who name an object that counts"""
FREQUENT = 30


def kinds_of(caption: str) -> set[str]:
    """The kinds of COCO that a caption names."""
    return {kind for _, kinds in named_kinds(split_words(caption)) for kind in kinds}


def objects(results: str, references: str, prefix: str = "") -> None:
    """Print the share of objects named, of all and of each frequent kind.

    Only images count whose file name begins with `prefix`.
    """
    said = {line["image_id"]: line["caption"] for line in json.loads(Path(results).read_text())}
    images = json.loads(Path(references).read_text())["images"]
    asked, hit = Counter[str](), Counter[str]()
    for image in images:
        if not image["file_name"].startswith(prefix):
            continue
        votes = Counter(kind for caption in image["captions"] for kind in kinds_of(caption))
        kinds = {kind for kind, count in votes.items() if count >= MOST}
        asked.update(kinds)
        hit.update(kinds & kinds_of(said[image["image_id"]]))
    total = max(asked.total(), 1)
    print(f"named by {MOST} people and by the captioner: {hit.total() / total:.1%} of {total}\n")
    print("| kind | asked | named |\n| --- | --- | --- |")
    for kind, count in asked.most_common(FREQUENT):
        print(f"| {kind} | {count} | {hit[kind] / count:.0%} |")


def sheet(output: str, images: list[str], model: str | None = None, columns: int = 4) -> None:
    """Draw images with their captions as one picture."""
    captioner = sat.load(model) if model else sat.load()
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.5 * columns, 3.1 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, result in zip(axes, captioner.caption_all(images)):
        axis.imshow(result.photo)
        axis.set_title("\n".join(textwrap.wrap(result.text, 32)), fontsize=9)
    for axis in figure.axes:
        axis.set_axis_off()
    figure.savefig(output)


if __name__ == "__main__":
    auto_cli([objects, sheet])
