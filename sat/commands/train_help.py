"""The text of sat-train --help: flags in sections, those of the three stages said once."""

from __future__ import annotations

import re
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Iterable
from typing import Any

from jsonargparse import DefaultHelpFormatter

SECTIONS = {
    "folders": "data_folder data_name output_dir init resume resume_changed overwrite push_to_hub",
    "model": "family embeddings fine_tune_embeddings",
    "captions and images": "captions batches mirror cache_features cache_dir workers",
    "loss": "alpha_c penalty_scaling label_smoothing grad_clip grad_clip_by",
    "the whole run": "stages choose_decoding validation_batch_size device precision compile seed "
    "ddp_timeout save_minutes tracker log_every",
}
"""of the flags that are not of one part of the config"""
DESCRIPTION = (
    "Train a captioner on prepared files: sat-train --config flickr8k. Defaults "
    "stand in [brackets]; --stageN.x is --stage1.x, --stage2.x or --stage3.x."
)
SWITCH = "{true,false}"
INDENT = " " * 4
"""of the lines of an explanation after its first, which begins with the flag"""


class TrainHelpFormatter(DefaultHelpFormatter):
    """Explains each flag in a line or two, and those of the three stages once, as `--stageN.x`."""

    def __init__(self, *parts: Any, **how: Any) -> None:
        super().__init__(*parts, **how)
        self._defaults: dict[str, Any] = {}

    def add_usage(self, *_: Any, **__: Any) -> None:
        self.add_text(f"usage: {self._prog} [--config RECIPE] [--flag value ...]")

    def add_arguments(self, actions: Iterable[Action]) -> None:
        """Add the flags of a part of the config, or those of the whole run section by section."""
        shown: dict[str, Action] = {}
        for action in actions:
            self._defaults[action.dest] = action.default
            of_stage_1 = re.match(r"stage[23]\.", action.dest)  # and said there
            if action.help != SUPPRESS and action.metavar != "CONFIG" and not of_stage_1:
                shown[action.dest] = action
        for title, names in SECTIONS.items():
            self.start_section(title)
            super().add_arguments(shown.pop(name) for name in names.split() if name in shown)
            self.end_section()
        super().add_arguments(shown.values())

    def _format_action(self, action: Action) -> str:
        text = f"{', '.join(action.option_strings)}{self._choices(action)}  {self._explain(action)}"
        start = " " * self._current_indent
        filled = textwrap.fill(
            text.replace("--stage1.", "--stageN."),
            self._width + 1,  # argparse leaves two columns free
            initial_indent=start,
            subsequent_indent=start + INDENT,
            break_on_hyphens=False,
        )
        return filled + "\n"

    def _choices(self, action: Action) -> str:
        """The flag's choices as " {a,b}", unless its explanation names each."""
        choices = str(action.metavar or "")
        named = all(f"{choice}:" in str(action.help) for choice in choices.strip("{}").split(","))
        return "" if named or choices in SWITCH or choices[:1] != "{" else f" {choices}"

    def _explain(self, action: Action) -> str:
        """The flag's explanation, and its default, with those of other stages, in brackets."""
        text = " ".join(str(action.help).split()).partition(" The optional flags")[0]
        if action.default in (None, "", SUPPRESS):
            return text
        defaults = [_say(action.default)]
        for other in ("stage2", "stage3"):
            default = self._defaults.get(action.dest.replace("stage1", other), action.default)
            if default != action.default:
                defaults.append(f"{other}: {_say(default)}")
        return f"{text} [{'; '.join(defaults)}]"


def _say(default: Any) -> str:
    """The default as it is typed."""
    text = str(list(default) if isinstance(default, tuple) else default)
    return text.lower() if isinstance(default, bool) else text.strip("[]").replace("'", "")
