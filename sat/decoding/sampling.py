"""Temperature, top-k and nucleus sampling. N rows of state, T words, V vocabulary."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sat.config.decoding import DecodingConfig
from sat.decoding.constraints import apply_constraints, end_ids, next_log_probabilities
from sat.decoding.errors import nan_error, no_token_error
from sat.decoding.hypothesis import NEG_INF, Hypothesis, rank_hypotheses
from sat.models.base import CaptionModel


def sample(
    model: CaptionModel,
    features: Tensor,
    options: DecodingConfig,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """Captions sampled word by word for each image, best first.

    The distribution is filtered by temperature, top-k and nucleus (Holtzman et al. 2020); the
    score of a caption is its log-probability before that. The global generator draws by default.
    Raises `ValueError` where the rules forbid all words of a caption, and `FloatingPointError`
    where the model's probabilities are NaN.
    """
    repeats = options.num_return_sequences
    images, device = torch.arange(len(features)).repeat_interleave(repeats), features.device
    state = model.reorder(model.start(features), images)
    rows = torch.arange(len(images), device=device)  # the captions that state holds
    words = rows.new_full((len(images), options.max_length), model.pad_id)  # (N, T)
    scores = torch.zeros(len(images), device=device)
    ended = torch.zeros_like(rows, dtype=torch.bool)
    tokens = torch.full_like(rows, model.start_id)
    stops = end_ids(model, options)
    ends = torch.tensor(stops, device=device)
    for t in range(options.max_length):
        logits, state = model.step(tokens, state)
        log_p = next_log_probabilities(logits, words[rows, :t], model, options)
        allowed = apply_constraints(log_p.clone(), words[rows, :t], model, options)
        p = filter_logits(allowed, options)
        stuck = p[:, 0].isnan() & ~ended[rows]  # a row is NaN as a whole, or nowhere
        drawn = torch.multinomial(p.nan_to_num(1.0), 1, generator=generator).squeeze(1)
        tokens = torch.where(ended[rows], model.pad_id, drawn)
        scores[rows] += log_p.gather(1, drawn.unsqueeze(1)).squeeze(1).masked_fill(ended[rows], 0)
        words[rows, t] = tokens
        ended[rows] |= torch.isin(tokens, ends)
        over, failed = torch.stack([ended[rows], stuck]).cpu().numpy()  # the one wait
        if failed.any():
            raise nan_error() if log_p[stuck].isnan().any() else no_token_error(options)
        active = torch.from_numpy(np.flatnonzero(~over))
        if len(active) == 0:
            break
        if len(active) <= len(rows) / 2:  # not more often, since it copies the state
            state, active = model.reorder(state, active), active.to(device, non_blocking=True)
            rows, tokens = rows[active], tokens[active]
    done: list[list[Hypothesis]] = [[] for _ in range(len(features))]
    for image, line, score, finished in zip(
        images.tolist(), words.tolist(), scores.tolist(), ended.tolist()
    ):
        length = next(i for i, word in enumerate(line) if word in stops) if finished else len(line)
        end_id = line[length] if finished else None
        done[image].append(Hypothesis(line[:length], score, finished, end_id))
    return rank_hypotheses(done, options)


def filter_logits(log_p: Tensor, options: DecodingConfig) -> Tensor:
    """Probabilities float[N, V] after temperature, then top-k, then nucleus filtering."""
    logits = log_p / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        least = logits.topk(options.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, NEG_INF)
    p = logits.softmax(dim=-1)
    if options.top_p < 1:
        ordered, index = p.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered  # probability of all more likely words
        p = torch.zeros_like(p).scatter(1, index, ordered.masked_fill(before >= options.top_p, 0))
    return p / p.sum(dim=-1, keepdim=True)
