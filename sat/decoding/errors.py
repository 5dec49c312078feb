"""The errors of a search or a sample that has no word to go on with."""

from __future__ import annotations

from dataclasses import fields

from sat.config.decoding import DecodingConfig


def no_token_error(options: DecodingConfig) -> ValueError:
    """The error where the rules forbid all tokens; it names the rules that are on."""
    rules = options.tokens
    on = [item.name for item in fields(rules) if getattr(rules, item.name) != item.default]
    on = [name for name in on if name != "eos_token_id"]  # it forbids nothing
    on += [name for name in ("no_repeat_ngram_size", "forbid_unknown") if getattr(options, name)]
    on += ["rule tutorial"] if options.rule == "tutorial" else []
    return ValueError(
        f"the rules of decoding ({', '.join(on)}) forbid every token that a caption could go on "
        "with: let them allow one"
    )


def nan_error() -> FloatingPointError:
    """The error where the model gives no probabilities."""
    return FloatingPointError(
        "log-probabilities are NaN: weights or features of the model are not finite, or too "
        "large for its precision (try float32)"
    )
