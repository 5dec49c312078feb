"""Export a captioner to ONNX: a folder that needs neither torch nor this library.

The folder holds `encoder.onnx` (images uint8[B, 3, S, S] -> the state before the first word),
`step.onnx` (tokens int64[B] and the state -> logits, attention maps and the next state),
`captioner.json` (words, rules of decoding, size and resize rule) and `caption_onnx.py`, which
captions an image with onnxruntime alone.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sat.atomic_io import write_json
from sat.captioner import Captioner
from sat.checkpoints.atomic_folder import folder_to_replace, replace_folder
from sat.config.checks import check
from sat.config.resize import SHORT_NAMES, shortest_name
from sat.decoding.constraints import end_ids
from sat.export.token_bytes import token_bytes
from sat.models.factory import BUILDERS

READER = Path(__file__).with_name("caption_onnx.py")
BATCH = 2
"""images of the example that is traced; the exported model takes any number"""


def export_onnx(captioner: Captioner, folder: str | Path) -> None:
    """Write the captioner's folder of ONNX files; it appears whole or not at all.

    Other files in the folder are kept. Raises `ImportError` without the extra [onnx], `ValueError`
    for a resize rule that `caption_onnx.py` does not have, for attention that is sampled (the files
    draw nothing), or for the current folder.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'sat-captioning[onnx]'") from None
    remedy = "ONNX files draw nothing, choose expected or argmax (--test_attention)"
    check(not captioner.model.samples_attention, "test_attention", "sampled", remedy)
    about = description(captioner)
    folder = folder_to_replace(folder)
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        write_json(new / "captioner.json", about)
        shutil.copyfile(READER, new / READER.name)
        export_networks(captioner, new)
        replace_folder(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def export_networks(captioner: Captioner, folder: Path) -> None:
    """Write `encoder.onnx` and `step.onnx`, of a copy: the captioner stays on its device."""
    model = copy.deepcopy(captioner.model)
    model.to("cpu")
    parts = BUILDERS[captioner.config.family].export(model)
    side = captioner.preprocessing.size
    images = torch.zeros(BATCH, 3, side, side, dtype=torch.uint8)
    tokens = torch.full((BATCH,), model.start_id)
    with torch.no_grad():
        state = dict(zip(parts.state, parts.encoder(images)))
        example = {"images": images}
        export_module(parts.encoder, example, list(parts.state), folder / "encoder.onnx")
        after_one_word = parts.step(tokens, *state.values())[2:]  # a size of 1 would be fixed
        example = {"tokens": tokens} | state | dict(zip(parts.changing, after_one_word))
        changed = [f"next_{name}" for name in parts.changing]
        export_module(parts.step, example, ["logits", "alphas", *changed], folder / "step.onnx")


def export_module(
    module: nn.Module, example: dict[str, Tensor], outputs: list[str], path: Path
) -> None:
    """Write a module as one ONNX file; the first size of every tensor is free.

    So is the second of `words`, which grow by one at each step.
    """
    batch, words = torch.export.Dim("batch"), torch.export.Dim("words")
    free = [{0: batch} | ({1: words} if name == "words" else {}) for name in example]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name")  # one batch goes in and comes out
        program: Any = torch.onnx.export(
            module.eval(),
            tuple(example.values()),
            dynamic_shapes=tuple(free),
            input_names=list(example),
            output_names=outputs,
            dynamo=True,
            verbose=False,
        )
    program.save(str(path))


def description(captioner: Captioner) -> dict[str, Any]:
    """The settings that the reader needs besides the two networks: its rules are the captioner's.

    Beams and sampling are left out, since it decodes greedily. Raises `ValueError` for a resize
    rule that it does not have.
    """
    size = captioner.preprocessing.size
    resize = shortest_name(captioner.preprocessing.resize, size)
    check(resize in SHORT_NAMES, "resize", resize, f"give one of {', '.join(SHORT_NAMES)}")
    model, options = captioner.model, captioner.config.decoding
    tokens, ends = options.tokens, end_ids(model, options)
    never = {*tokens.suppress_tokens}
    if options.rule == "tutorial":
        never |= {model.start_id, model.pad_id} - {*ends}
    if options.forbid_unknown and model.unk_id is not None:
        never.add(model.unk_id)
    first, last = tokens.forced_bos_token_id, tokens.forced_eos_token_id
    forced = {} if first is None else {0: (first,)}
    return {
        "size": size,
        "resize": resize,
        "start_id": model.start_id,
        "end_ids": ends,
        "max_length": options.max_length,
        "min_length": options.min_length,
        "no_repeat_ngram_size": options.no_repeat_ngram_size,
        "repetition_penalty": options.repetition_penalty,
        # whether the start is a word to the rules on repeated and bad ones
        "start_counts": options.rule == "hugging_face",
        "bad_words": [
            line for line in tokens.bad_words_ids if line not in [(end,) for end in ends]
        ],
        # tokens, and by the number of words before them those that are special there
        "never": sorted(never),
        "never_at": {len(forced): tokens.begin_suppress_tokens},
        "forced_at": forced | ({options.max_length - 1: last} if last else {}),
        # the bytes that each id adds to a caption, each written as the letter of that number
        "pieces": [piece.decode("latin-1") for piece in token_bytes(captioner.vocabulary)],
    }
