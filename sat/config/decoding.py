"""Options of decoding."""

from __future__ import annotations

from dataclasses import dataclass

from sat.config.checks import check, check_at_least


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
    """total log-probability is divided by length ** this: above 0 favours longer captions"""
    no_repeat_ngram_size: int = 0
    """no n-gram of this length occurs twice; 0: off"""
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
    """for sampling"""

    def __post_init__(self) -> None:
        check_at_least(1, self, "beam_size", "max_length", "num_return_sequences")
        within = f"give a number from 0 to max_length ({self.max_length})"
        check(0 <= self.min_length <= self.max_length, "min_length", self.min_length, within)
        size = self.no_repeat_ngram_size
        check(size >= 0, "no_repeat_ngram_size", size, "give 0 (off) or a length")
        check(
            self.samples or self.num_return_sequences <= self.beam_size,
            "num_return_sequences",
            self.num_return_sequences,
            f"one search returns at most beam_size ({self.beam_size}) captions",
        )
        check(self.temperature > 0, "temperature", self.temperature, "give a number above 0")
        check(self.top_k >= 0, "top_k", self.top_k, "give 0 (off) or a number of words")
        check(0 < self.top_p <= 1, "top_p", self.top_p, "give a probability above 0 and at most 1")

    @property
    def samples(self) -> bool:
        """True when words are sampled."""
        return self.do_sample or self.temperature != 1 or self.top_k > 0 or self.top_p < 1
