"""tools/card.py counts the objects that people and a captioner name."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

CARD = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "card.py"))


def test_objects_counts_what_three_people_name_and_the_captioner_names_too(tmp_path, capsys):
    cats = ["a cat", "two kittens", "a cat and a dog", "an animal", "a pet"]
    trains = ["a train", "a train", "a locomotive", "a station", "a platform"]
    images = [
        {"image_id": 1, "file_name": "coco_1.jpg", "captions": cats},
        {"image_id": 2, "file_name": "coco_2.jpg", "captions": trains},
        {"image_id": 3, "file_name": "other.jpg", "captions": trains},
    ]
    said = [(1, "a kitten sleeps"), (2, "a bus"), (3, "a train")]
    references, results = tmp_path / "references.json", tmp_path / "results.json"
    references.write_text(json.dumps({"images": images}))
    results.write_text(json.dumps([{"image_id": i, "caption": text} for i, text in said]))
    CARD["objects"](str(results), str(references), prefix="coco_")
    printed = capsys.readouterr().out
    assert "named by 3 people and by the captioner: 50.0% of 2" in printed
    assert "| cat | 1 | 100% |" in printed
    assert "| train | 1 | 0% |" in printed
