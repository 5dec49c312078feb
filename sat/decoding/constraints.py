"""Constraints on the next word. N rows of state, V vocabulary, t words so far."""

from __future__ import annotations

import torch
from torch import Tensor

from sat.config.decoding import DecodingConfig
from sat.decoding.hypothesis import NEG_INF, StepDecoder


def apply_constraints(
    log_p: Tensor, words: Tensor, model: StepDecoder, options: DecodingConfig
) -> Tensor:
    """Set the forbidden entries of log_p float[N, V] to -inf, in place, after words int[N, t].

    The other entries are not normalized again: the score of a caption stays the model's own.
    """
    banned = {model.pad_id, model.start_id} - {model.end_id}
    if options.forbid_unknown and model.unk_id is not None:
        banned.add(model.unk_id)
    too_short = words.shape[1] < options.min_length
    if too_short:
        banned.add(model.end_id)
        end_log_p = log_p[:, model.end_id].clone()
    ids = torch.tensor(sorted(banned), dtype=torch.long, device=log_p.device)
    log_p.index_fill_(1, ids, NEG_INF)
    size = options.no_repeat_ngram_size
    if size and words.shape[1] >= size:
        for row, line in enumerate(words.tolist()):
            tail = line[len(line) - size + 1 :]
            starts = range(len(line) - size + 1)
            repeats = [line[i + size - 1] for i in starts if line[i : i + size - 1] == tail]
            log_p[row, repeats] = NEG_INF
    if too_short:  # a row without any allowed word may end early
        stuck = log_p.amax(dim=1) == NEG_INF
        log_p[stuck, model.end_id] = end_log_p[stuck]
    return log_p
