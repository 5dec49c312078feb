"""Hugging Face's image processors as our preprocessing, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import AutoImageProcessor, ViTImageProcessor

from sat.config.model import Preprocessing
from sat.config.resize import BILINEAR, FILTERS, shortest_name, sides_text
from sat.hub import local_folder
from sat.models.hf_networks import FRESH, FRESH_MEAN, FRESH_STD, Channels
from sat.reading import reading

PROCESSOR = "preprocessor_config.json"
PLAIN = ("ViT", "DeiT", "Beit", "CLIP", "ChineseCLIP", "Bit", "Blip", "Siglip", "Pvt", "DINOv3ViT")
"""kinds of processors that scale, crop, normalize and pad in this order, and do nothing else"""
NOT_PADDING = ("Beit", "DINOv3ViT")
"""kinds that leave do_pad aside"""
OTHER_STEPS = ("do_flip_channel_order", "do_thumbnail", "do_align_long_axis", "do_split_image")
SCALES = (("height", "width"), ("shortest_edge", "longest_edge"), ("max_height", "max_width"))
RULES = ("size", "shortest_edge", "max_size")


def encoder_statistics(encoder: str) -> tuple[Channels, Channels]:
    """Mean and standard deviation that an encoder was trained with; a fresh one takes -1 to 1."""
    if encoder.startswith(FRESH):
        return FRESH_MEAN, FRESH_STD
    with reading(encoder, "give an encoder whose folder says its preprocessing"):
        return _statistics(_processor(encoder))


def preprocessing_of(folder: str) -> Preprocessing:
    """The preprocessing that makes the pixels of a folder's image processor.

    They differ by one gray level of 255 at most. `rescale_factor` becomes part of mean and standard
    deviation. Raises `ValueError` with the name of a setting that we do not have.
    """
    processor = _processor(folder)
    kind = type(processor).__name__.removesuffix("Fast").removesuffix("Pil")
    kind = kind.removesuffix("ImageProcessor")
    if kind not in PLAIN:
        raise _refused(folder, "image_processor_type", kind, f"give one of {', '.join(PLAIN)}")
    for name in OTHER_STEPS:
        if getattr(processor, name, None):
            raise _refused(folder, name, True, "sat has no such step")
    (mean, std), steps, last = _statistics(processor), [], None
    if processor.do_resize:
        step, last = _scale(folder, processor.size)
        number = FILTERS.index(BILINEAR) if processor.resample is None else int(processor.resample)
        if not 0 <= number < len(FILTERS):
            known = ", ".join(f"{i} ({name})" for i, name in enumerate(FILTERS))
            raise _refused(folder, "resample", number, f"give {known}")
        resample = FILTERS[number]
        steps.append(step if resample == BILINEAR else f"{step}:{resample}")
    if getattr(processor, "do_center_crop", None):
        last = _height_and_width(folder, "crop_size", processor.crop_size)
        steps.append(f"center_crop={sides_text(*last)}")
    pad = getattr(processor, "pad_size", None)
    if getattr(processor, "do_pad", None) and pad and kind not in NOT_PADDING:
        last = _height_and_width(folder, "pad_size", pad)
        zero = [round(255 * value) for value in mean]  # the color that is 0 when it is normalized
        if not all(0 <= level <= 255 for level in zero):
            raise _refused(folder, "do_pad", True, f"no pixel has the value of the mean {mean}")
        steps.append(f"pad={sides_text(*last)}:{bytes(zero).hex()}")
    if last is None or last[0] != last[1]:
        raise _refused(folder, "size", ",".join(steps), "images must all become one square")
    return Preprocessing(last[0], shortest_name(",".join(steps), last[0]), mean, std)


def processor_values(preprocessing: Preprocessing) -> dict[str, Any]:
    """The content of a preprocessor_config.json whose processor makes the same pixels."""
    rule = preprocessing.resize_rule
    values: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor" if rule.crop else "ViTImageProcessor",
        "do_resize": bool(rule.scale),
        "resample": FILTERS.index(rule.resample),
        "do_center_crop": bool(rule.crop),
        "do_pad": bool(rule.pad),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if rule.scale:
        names = SCALES[RULES.index(rule.scale)]
        values["size"] = {name: number for name, number in zip(names, rule.to) if number}
    for name, sides in (("crop_size", rule.crop), ("pad_size", rule.pad)):
        if sides:
            values[name] = dict(zip(SCALES[0], sides))
    return values


def _processor(name: str) -> Any:
    folder = str(local_folder(name, only=("*.json",)))
    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except ValueError:
        values = ViTImageProcessor.get_image_processor_dict(folder)[0]
        if kind := values.get("image_processor_type", values.get("feature_extractor_type")):
            known = f"give one of {', '.join(PLAIN)}"
            raise _refused(folder, "image_processor_type", kind, known) from None
        return ViTImageProcessor.from_pretrained(folder)  # where no file says the kind


def _statistics(processor: Any) -> tuple[Channels, Channels]:
    """Mean and standard deviation of values in 0..1 that a processor normalizes with."""
    scale = 255 * (processor.rescale_factor if processor.do_rescale else 1)
    used = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    mean, std = (np.broadcast_to(values, 3) / scale for values in used)
    return (*mean.tolist(),), (*std.tolist(),)


def _scale(folder: str, size: Any) -> tuple[str, tuple[int, int] | None]:
    """The rule that a processor's `size` names, and height and width where it fixes them."""
    for rule, names in zip(RULES, SCALES):
        first, second = (int(getattr(size, name, None) or 0) for name in names)
        if first and (second or rule == "shortest_edge"):
            text = f"{rule}={sides_text(first, second) if second else first}"
            return text, (first, second) if rule == "size" else None
    raise _refused(folder, "size", size, f"give one of {SCALES}")


def _height_and_width(folder: str, name: str, size: Any) -> tuple[int, int]:
    if not getattr(size, "height", None) or not getattr(size, "width", None):
        raise _refused(folder, name, size, "give height and width")
    return size.height, size.width


def _refused(folder: str, name: str, value: object, remedy: str) -> ValueError:
    return ValueError(f"{folder}/{PROCESSOR}: {name} is {value}: {remedy}")
