"""Caption an image with onnxruntime alone: python caption_onnx.py photo.jpg

Reads the files beside it, which `sat-export --onnx` wrote. Needs numpy, Pillow and onnxruntime.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FOLDER = Path(__file__).parent


class Reader:
    """The captioner in a folder of ONNX files."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.about = json.loads((folder / "captioner.json").read_text(encoding="utf-8"))
        self.encoder = onnxruntime.InferenceSession(folder / "encoder.onnx")
        self.step = onnxruntime.InferenceSession(folder / "step.onnx")

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The image as uint8[1, 3, S, S], cropped and scaled as in training."""
        image, size = to_rgb(image), self.about["size"]
        width, height = image.size
        box = (0.0, 0.0, float(width), float(height))
        if self.about["resize"] != "squash":
            side = min(width, height) * (7 / 8 if self.about["resize"] == "inner_crop" else 1)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        small = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        return np.asarray(small).transpose(2, 0, 1)[None]

    def caption(self, pixels: np.ndarray) -> tuple[str, np.ndarray]:
        """The greedy caption, and the attention map float[T, h, w] of each token.

        Raises `ValueError` where the rules of decoding forbid every token.
        """
        names = [output.name for output in self.encoder.get_outputs()]
        state = dict(zip(names, self.encoder.run(None, {"images": pixels})))
        words: list[int] = []
        maps: list[np.ndarray] = []
        for _ in range(self.about["max_length"]):
            tokens = np.array([words[-1] if words else self.about["start_id"]])
            outputs = self.step.run(None, {"tokens": tokens} | state)
            output = dict(zip((one.name for one in self.step.get_outputs()), outputs))
            logits = self.constrained(output["logits"][0], words)
            token = int(logits.argmax())
            none_allowed = logits[token] == -np.inf
            if none_allowed and len(words) >= self.about["min_length"]:  # else it may end early
                raise ValueError(
                    f"the rules of decoding forbid every token after {len(words)} words: let "
                    "captioner.json allow one"
                )
            if none_allowed or token in self.about["end_ids"]:
                break
            words.append(token)
            maps.append(output["alphas"][0])
            state |= {name: output[f"next_{name}"] for name in state if f"next_{name}" in output}
        side = math.isqrt(len(maps[0])) if maps else 0
        data = "".join(self.about["pieces"][word] for word in words).encode("latin-1")
        text = data.decode("utf-8", "replace").strip()
        return text, np.reshape(maps, (len(maps), side, side))

    def constrained(self, logits: np.ndarray, words: list[int]) -> np.ndarray:
        """The logits float[V] of the next token; -inf where the rules of decoding forbid it."""
        rules, length, seen = self.about, str(len(words)), [self.about["start_id"], *words]
        logits = logits.copy()
        logits[seen] *= rules["repetition_penalty"] ** np.where(logits[seen] < 0, 1.0, -1.0)
        line = seen if rules["start_counts"] else words
        banned = repeats(line, rules["no_repeat_ngram_size"])
        for *first, last in rules["bad_words"]:
            banned += [last] if line[len(line) - len(first) :] == first else []
        if forced := rules["forced_at"].get(length):
            banned = [token for token in range(len(logits)) if token not in forced]
        logits[banned + rules["never"] + rules["never_at"].get(length, [])] = -np.inf
        if len(words) < rules["min_length"]:
            logits[rules["end_ids"]] = -np.inf
        return logits


def repeats(line: list[int], size: int) -> list[int]:
    """The tokens that would make the last `size` tokens of the line occur twice; none for 0."""
    starts = range(len(line) - size + 1 if size else 0)
    tail = line[len(line) - size + 1 :]
    return [line[i + size - 1] for i in starts if line[i : i + size - 1] == tail]


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB, turned upright by its EXIF tag, with transparency over white."""
    with suppress(Exception):  # a damaged tag counts as upright
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # gray values of more than 8 bits
        values = np.asarray(image).astype(float)
        usual = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
        low, high = values.min(), values.max()
        white = next((top for top in usual if low >= 0 and high <= top), None)
        low, white = (0, white) if white else (low, (high - low) or 1)
        image = Image.fromarray(np.round((values - low) * (255 / white)).astype(np.uint8))
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


if __name__ == "__main__":
    reader = Reader()
    for path in sys.argv[1:]:
        with Image.open(path) as image:
            print(f"{path}: {reader.caption(reader.pixels(image))[0]}")
