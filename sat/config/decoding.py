"""Options of decoding."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from sat.config.checks import check, check_fields

SEEDS = "[0, 4294967295]"
MOST_BEAMS, LONGEST = 1024, 4096
"""largest beam_size and max_length"""
BATCH_SEED_STEP = 2654435761
"""a prime, so that batches of near seeds draw apart"""
SAMPLING = ("temperature", "top_k", "top_p")
"""options that imply sampling, unless they have their defaults"""


@dataclass(frozen=True)
class TokenRules:
    """Tokens by id that captions end with, must have or must not have, as in a Hugging Face folder.

    Names and meaning are those of its generation_config.json; all are off when empty.
    """

    eos_token_id: tuple[int, ...] = ()
    """tokens that end a caption, besides the vocabulary's <end>; they are no part of its text"""
    forced_bos_token_id: int | None = None
    """the first token"""
    forced_eos_token_id: tuple[int, ...] = ()
    """the only tokens allowed at max_length"""
    suppress_tokens: tuple[int, ...] = ()
    """never produced"""
    begin_suppress_tokens: tuple[int, ...] = ()
    """never produced first (or after the forced first one)"""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """sequences of tokens that are never produced"""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DecodingConfig:
    """How words are chosen; names and meaning are those of Hugging Face `generate`."""

    beam_size: int = 5
    """beams per image; 1 is greedy decoding (alias: num_beams)"""
    max_length: int = 51
    """most tokens, <end> included: captions of 50 words"""
    min_length: int = 0
    """fewest words before a caption may end"""
    length_penalty: float = 0.0
    """total log-probability is divided by length ** this: above 0 favors longer captions"""
    no_repeat_ngram_size: int = 0
    """no n-gram of this length occurs twice; 0: off"""
    repetition_penalty: float = 1.0
    """above 1: tokens said before are less likely (Keskar et al. 2019, section 4.1)"""
    rule: Literal["tutorial", "hugging_face"] = "tutorial"
    """tutorial: a beam that ends leaves the search one beam narrower, and <start> and <pad> are
    never produced; hugging_face: as its `generate`, the width stays, and they may be"""
    early_stopping: bool | Literal["never"] = False
    """when hugging_face stops with beam_size finished captions: true: at once; false: when no beam
    of the present length scores better; never: when none could at any length"""
    tokens: TokenRules = field(default_factory=TokenRules)
    """tokens by id that captions end with, must have or must not have"""
    num_return_sequences: int = 1
    """captions returned for each image, best first"""
    forbid_unknown: bool = False
    """never produce <unk>"""
    do_sample: bool = False
    """sample instead of searching; temperature, top_k and top_p imply it"""
    temperature: float = 1.0
    """logits are divided by it before sampling"""
    top_k: int = 0
    """sample from this many likeliest words; 0: from all"""
    top_p: float = 1.0
    """sample from the smallest set of words with at least this probability (nucleus)"""
    seed: int = 0
    """for sampling; each batch of images draws apart"""

    def __post_init__(self) -> None:
        check_fields(
            self,
            {
                f"[1, {MOST_BEAMS}]": "beam_size",
                "[1, 10000]": "num_return_sequences",
                f"[1, {LONGEST}]": "max_length",
                f"[0, {LONGEST}]": "min_length no_repeat_ngram_size",
                "[-100, 100]": "length_penalty",
                "(0, 1000]": "repetition_penalty",
                "[1e-30, 1e6]": "temperature",
                "[0, 1e9]": "top_k",
                "(0, 1]": "top_p",
                SEEDS: "seed",
            },
        )
        within = f"give a number from 0 to max_length ({self.max_length})"
        check(self.min_length <= self.max_length, "min_length", self.min_length, within)
        check(
            self.samples or self.num_return_sequences <= self.beam_size,
            "num_return_sequences",
            self.num_return_sequences,
            f"one search returns at most beam_size ({self.beam_size}) captions",
        )

    @property
    def samples(self) -> bool:
        """True when words are sampled."""
        return self.do_sample or self.temperature != 1 or self.top_k > 0 or self.top_p < 1

    @property
    def keeps_width(self) -> bool:
        """True when a beam search stays as wide as it began, as Hugging Face's."""
        return self.rule == "hugging_face" and self.beam_size > 1 and not self.samples

    def changed(self, **choices: Any) -> DecodingConfig:
        """These options with some replaced; Hugging Face's `num_beams` stands for `beam_size`.

        `do_sample=False` switches all sampling off that the other choices do not ask for.
        """
        if "num_beams" in choices:
            beams = choices.pop("num_beams")
            both = "that is another name of beam_size: give one of them"
            check("beam_size" not in choices, "num_beams", beams, both)
            choices["beam_size"] = beams
        if choices.get("do_sample") is False:
            choices = {name: getattr(DecodingConfig, name) for name in SAMPLING} | choices
        known = {field.name for field in fields(self)}
        if unknown := sorted(set(choices) - known):
            remedy = f"choose from {', '.join(sorted(known))}"
            raise ValueError(f"{unknown[0]} is no decoding option: {remedy}")
        return replace(self, **choices)

    def of_batch(self, first: int) -> DecodingConfig:
        """These options with a seed for the batch whose first image is number `first`."""
        return replace(self, seed=(self.seed + BATCH_SEED_STEP * first) % 2**32)

    def with_rules_of(self, other: DecodingConfig) -> DecodingConfig:
        """These options with the rule and the token rules of `other`, unless these name their own.

        A Hugging Face folder brings both.
        """
        if (self.rule, self.tokens) != (DecodingConfig.rule, TokenRules()):
            return self
        return replace(self, rule=other.rule, tokens=other.tokens)
