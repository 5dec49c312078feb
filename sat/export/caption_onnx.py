"""Caption an image with onnxruntime alone: python caption_onnx.py photo.jpg

Reads the files beside it, which `sat-export --onnx` wrote. Needs numpy, Pillow and onnxruntime.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

FOLDER = Path(__file__).parent


class Reader:
    """The captioner in a folder of ONNX files."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.about = json.loads((folder / "captioner.json").read_text(encoding="utf-8"))
        self.encoder = onnxruntime.InferenceSession(folder / "encoder.onnx")
        self.step = onnxruntime.InferenceSession(folder / "step.onnx")

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The image as uint8[1, 3, S, S], cropped and scaled as in training."""
        size, (width, height) = self.about["size"], image.size
        box = (0.0, 0.0, float(width), float(height))
        if self.about["resize"] != "squash":
            side = min(width, height) * (7 / 8 if self.about["resize"] == "inner_crop" else 1)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box)
        return np.asarray(small).transpose(2, 0, 1)[None]

    def caption(self, pixels: np.ndarray) -> tuple[str, np.ndarray]:
        """The greedy caption, and the attention map float[T, h, w] of each token."""
        names = [output.name for output in self.encoder.get_outputs()]
        state = dict(zip(names, self.encoder.run(None, {"images": pixels})))
        token, text, maps = self.about["start_id"], "", []
        for _ in range(self.about["max_length"]):
            outputs = self.step.run(None, {"tokens": np.array([token])} | state)
            output = dict(zip((one.name for one in self.step.get_outputs()), outputs))
            output["logits"][:, self.about["never"]] = -np.inf
            token = int(output["logits"].argmax())
            if token == self.about["end_id"]:
                break
            text += self.about["pieces"][token]
            maps.append(output["alphas"][0])
            state |= {name: output[f"next_{name}"] for name in state if f"next_{name}" in output}
        side = math.isqrt(len(maps[0])) if maps else 0
        return text.strip(), np.reshape(maps, (len(maps), side, side))


if __name__ == "__main__":
    reader = Reader()
    for path in sys.argv[1:]:
        with Image.open(path) as image:
            print(f"{path}: {reader.caption(reader.pixels(image))[0]}")
