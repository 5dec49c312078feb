"""Constraints on the next word. N rows of state, V vocabulary, t words so far."""

from __future__ import annotations

import torch
from torch import Tensor

from sat.config.decoding import DecodingConfig
from sat.decoding.hypothesis import NEG_INF
from sat.models.base import CaptionModel


def end_ids(model: CaptionModel, options: DecodingConfig) -> list[int]:
    return sorted({model.end_id, *options.tokens.eos_token_id})


def next_log_probabilities(
    logits: Tensor, words: Tensor, model: CaptionModel, options: DecodingConfig
) -> Tensor:
    """Log-probabilities float[N, V] of the word after words int[N, t], from its logits.

    The repetition penalty lowers log-probabilities in beam search and logits otherwise, as in
    Hugging Face `generate`.
    """
    logits, beams = logits.float(), options.beam_size > 1 and not options.samples
    if options.repetition_penalty == 1:
        return logits.log_softmax(dim=-1)
    scores = logits.log_softmax(dim=-1) if beams else logits
    previous = _with_start(words, model).to(logits.device, non_blocking=True)
    lower = scores.gather(1, previous)
    factor = options.repetition_penalty ** torch.where(lower < 0, 1.0, -1.0)
    scores = scores.scatter(1, previous, lower * factor)
    return scores if beams else scores.log_softmax(dim=-1)


def apply_constraints(
    log_p: Tensor, words: Tensor, model: CaptionModel, options: DecodingConfig
) -> Tensor:
    """Set the forbidden entries of log_p float[N, V] to -inf, in place, after words int[N, t].

    The other entries are not normalized again: the score of a caption stays the model's own. A
    forced token has the log-probability 0. Raises `ValueError` for a rule on a token that the model
    does not have.
    """
    ends, tokens, length = end_ids(model, options), options.tokens, words.shape[1]
    if length == 0:
        tokens.check_tokens(log_p.shape[1])
    banned = {*tokens.suppress_tokens}
    if options.rule == "tutorial":
        banned |= {model.pad_id, model.start_id} - {*ends}
    if options.forbid_unknown and model.unk_id is not None:
        banned.add(model.unk_id)
    first = 0 if tokens.forced_bos_token_id is None else 1
    if length == first:
        banned |= {*tokens.begin_suppress_tokens}
    too_short = length < options.min_length
    if too_short:
        end_log_p = log_p[:, ends].clone()
        log_p[:, ends] = NEG_INF
    _ban_sequences(log_p, words, model, options)
    if length == 0 and tokens.forced_bos_token_id is not None:
        _force(log_p, [tokens.forced_bos_token_id])
    if length == options.max_length - 1 and tokens.forced_eos_token_id:
        _force(log_p, [*tokens.forced_eos_token_id])
    ids = torch.tensor(sorted(banned), dtype=torch.long)
    log_p.index_fill_(1, ids.to(log_p.device, non_blocking=True), NEG_INF)
    if too_short:  # a row without any allowed word may end early
        stuck = (log_p.amax(dim=1) == NEG_INF).unsqueeze(1)
        log_p[:, ends] = torch.where(stuck, end_log_p, log_p[:, ends])
    return log_p


def _ban_sequences(
    log_p: Tensor, words: Tensor, model: CaptionModel, options: DecodingConfig
) -> None:
    """Ban words that would repeat an n-gram, or complete a sequence that is never produced."""
    size, ends = options.no_repeat_ngram_size, end_ids(model, options)
    bad = [line for line in options.tokens.bad_words_ids if line not in [(end,) for end in ends]]
    if not bad and not (size and words.shape[1] + 1 >= size):
        return
    counts_start = options.rule == "hugging_face"
    for row, line in enumerate((_with_start(words, model) if counts_start else words).tolist()):
        tail = line[len(line) - size + 1 :] if size else []
        starts = range(len(line) - size + 1 if size else 0)
        repeats = [line[i + size - 1] for i in starts if line[i : i + size - 1] == tail]
        ends_of_bad = [
            last for *before, last in bad if line[max(len(line) - len(before), 0) :] == before
        ]
        log_p[row, repeats + ends_of_bad] = NEG_INF


def _force(log_p: Tensor, ids: list[int]) -> None:
    log_p.fill_(NEG_INF)
    log_p[:, ids] = 0.0


def _with_start(words: Tensor, model: CaptionModel) -> Tensor:
    return torch.cat([words.new_full((len(words), 1), model.start_id), words], dim=1)
