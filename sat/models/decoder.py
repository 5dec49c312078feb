"""The recurrent decoder: one step, and its unrolling under teacher forcing.

B images (or beams), P regions, D features, H hidden units, E embedding, T words, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sat.fields import check_choice
from sat.models.attention import Attention
from sat.models.recurrence import Unrolled, Weights, unroll


class State(NamedTuple):
    """What one step hands the next: B photos, and N rows, as many of each photo in a row."""

    features: Tensor  # float[B, P, D]
    projected: Tensor  # float[B, P, A]: the part of f_att that depends on the photo alone
    hidden: Tensor  # float[N, H]
    cell: Tensor  # float[N, H]


class Output(NamedTuple):
    """Teacher-forced predictions; rows past a caption's length are zero maps and void logits."""

    logits: Tensor  # float[B, T-1, V]
    alphas: Tensor  # float[B, T-1, P]


class DecoderWithAttention(nn.Module):
    """An LSTM that looks at the photo again before every word (Xu et al. 2015, section 3.1).

    The first six arguments and the parameter names are the tutorial's, so that its weights load by
    name; then one keyword for each choice in which the published systems differ. The defaults are
    ours; the tutorial's reading is activation="relu", initial_state="linear", output="linear".
    """

    def __init__(
        self,
        attention_dim: int,
        embed_dim: int,
        decoder_dim: int,
        vocab_size: int,
        encoder_dim: int = 2048,
        dropout: float = 0.5,
        *,
        attention: str = "soft",
        activation: str = "tanh",
        gate: str = "vector",
        initial_state: str = "tanh",
        output: str = "deep",
    ) -> None:
        super().__init__()
        check_choice("attention", attention, ("soft",))
        check_choice("gate", gate, ("vector", "scalar", "none"))
        check_choice("initial_state", initial_state, ("tanh", "linear"))
        check_choice("output", output, ("deep", "linear"))
        self.vocab_size = vocab_size
        self.gate, self.initial_state, self.output = gate, initial_state, output
        self.attention = Attention(encoder_dim, decoder_dim, attention_dim, activation=activation)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.decode_step = nn.LSTMCell(embed_dim + encoder_dim, decoder_dim)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        if gate != "none":
            self.f_beta = nn.Linear(decoder_dim, encoder_dim if gate == "vector" else 1)
        if output == "deep":
            self.hidden_out = nn.Linear(decoder_dim, embed_dim)  # L_h
            self.context_out = nn.Linear(encoder_dim, embed_dim)  # L_z
        self.fc = nn.Linear(embed_dim if output == "deep" else decoder_dim, vocab_size)
        for weight in (self.embedding.weight, self.fc.weight):
            nn.init.uniform_(weight, -0.1, 0.1)
        nn.init.zeros_(self.fc.bias)

    def load_pretrained_embeddings(self, embeddings: Tensor) -> None:
        """Take float[V, E] word vectors as the embedding; `ValueError` if the sizes differ."""
        if embeddings.shape != self.embedding.weight.shape:
            raise ValueError(
                f"word vectors are {tuple(embeddings.shape)}, the embedding is "
                f"{tuple(self.embedding.weight.shape)}: give one row a word and set embed_dim"
            )
        with torch.no_grad():
            self.embedding.weight.copy_(embeddings)

    def fine_tune_embeddings(self, fine_tune: bool = True) -> None:
        """Let the word vectors learn, or freeze them."""
        self.embedding.weight.requires_grad_(fine_tune)

    def start(self, features: Tensor) -> State:
        """The state before the first word; features float[B, P, D] or a grid float[B, h, w, D]."""
        features = features.flatten(1, -2)  # (B, P, D)
        if torch.is_autocast_enabled(features.device.type):  # once, not at every word
            features = features.to(torch.get_autocast_dtype(features.device.type))
        mean = features.mean(dim=1)
        hidden, cell = self.init_h(mean), self.init_c(mean)
        if self.initial_state == "tanh":
            hidden, cell = hidden.tanh(), cell.tanh()
        return State(features, self.attention.project(features), hidden, cell)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """The logits float[N, V] of the word after tokens int[N], and the next state."""
        embedded = self.embedding(tokens)
        context, _ = self.attention(state.features, state.projected, state.hidden)
        if self.gate != "none":
            context = self.f_beta(state.hidden).sigmoid() * context
        inputs = torch.cat([embedded, context], dim=1)  # (N, E + D)
        hidden, cell = self.decode_step(inputs, (state.hidden, state.cell))
        logits = self._predict(embedded, hidden, context, self._drop([len(tokens)]))
        return logits, state._replace(hidden=hidden, cell=cell)

    def reorder(self, state: State, index: Tensor) -> State:
        """The state with rows picked, repeated or dropped: row i becomes row index[i].

        As long as there are as many rows of every photo, the photos stay where they are.
        """
        photos = index // (len(state.hidden) // len(state.features))
        kept, counts = photos.unique_consecutive(return_counts=True)
        kept = kept if (counts == counts[:1]).all() else photos
        here = state.features, state.projected
        if not _is_count(kept, len(state.features)):
            here = tuple(part.index_select(0, kept) for part in here)  # large: seldom, please
        return State(*here, *(part.index_select(0, index) for part in state[2:]))

    def forward(self, features: Tensor, captions: Tensor, lengths: Tensor) -> Output:
        """The unrolled `step` over captions int[B, T] of `lengths` int[B] (start and end counted).

        There may be several captions of each photo, as many of each, its own one after another.
        The projection of the features runs once a photo and the vocabulary layer once a batch;
        rows are sorted by length so that a caption that has ended costs nothing more.
        """
        lengths, order = (lengths.flatten() - 1).sort(descending=True, stable=True)  # words
        repeats, rest = divmod(len(captions), len(features))
        if rest or not repeats:
            raise ValueError(
                f"{len(captions)} captions of {len(features)} photos: give as many of each photo"
            )
        state, photos = self.start(features), order // repeats
        if not _is_count(photos, len(features)):
            state = State(*(part.index_select(0, photos) for part in state))
        steps = captions.shape[1] - 1
        speaking = torch.arange(steps, device=order.device).unsqueeze(1) < lengths  # (T-1, B)
        rows = _rounded(speaking.sum(1).tolist(), len(order), state.features.dtype)
        stepping = torch.arange(len(order)) < torch.tensor(rows).unsqueeze(1)  # (T-1, B)
        stepping = stepping.to(order.device)
        embedded = self.embedding(captions.index_select(0, order)[:, :-1].t()[stepping])  # (N, E)
        unrolled = unroll(
            state.features,
            state.projected,
            linear(
                embedded,
                self.decode_step.weight_ih[:, : embedded.shape[1]],
                self.decode_step.bias_ih + self.decode_step.bias_hh,
            ),
            state.hidden,
            state.cell,
            [n for n in rows if n],
            self._recurrent_weights(),
            self.attention.activation,
        )
        spoken = speaking[stepping].nonzero().flatten()
        if len(spoken) < len(embedded):
            embedded = embedded.index_select(0, spoken)
            unrolled = Unrolled(*(part.index_select(0, spoken) for part in unrolled))
        drop = self._drop([n for n in speaking.sum(1).tolist() if n])
        logits = self._predict(embedded, unrolled.hiddens, unrolled.contexts, drop)
        places = (order * steps + torch.arange(steps, device=order.device).unsqueeze(1))[speaking]

        def padded(packed: Tensor) -> Tensor:
            everywhere = packed.new_zeros(len(order) * steps, packed.shape[1])
            return everywhere.index_copy(0, places, packed).unflatten(0, (-1, steps))

        return Output(padded(logits), padded(unrolled.alphas))

    def _predict(
        self, embedded: Tensor, hidden: Tensor, context: Tensor, drop: tuple[Tensor, ...]
    ) -> Tensor:
        """The logits float[N, V] after words, each a row: the last word, and what it led to."""
        readout = hidden * drop[0]
        if self.output == "deep":
            # Eq. 7, with the tanh and the dropout that the authors' code puts before L_o.
            mixed = embedded + self.hidden_out(readout) + self.context_out(context)
            readout = mixed.tanh() * drop[1]
        return self.fc(readout)

    def _drop(self, rows: list[int]) -> tuple[Tensor, ...]:
        """What dropout multiplies by, for `rows` words at each step: float[N, H], float[N, E].

        Drawn step by step, so that a seed means the same whether words come one by one or at once.
        """
        one = self.fc.weight.new_ones(1)
        if not self.training:
            return one, one
        sizes = [self.decode_step.hidden_size]
        if self.output == "deep":
            sizes.append(self.embedding.embedding_dim)
        drawn = [[self.dropout(one.expand(n, size)) for size in sizes] for n in rows]
        return tuple(torch.cat(steps) for steps in zip(*drawn))

    def _recurrent_weights(self) -> Weights:
        attention, cell = self.attention, self.decode_step
        none = cell.weight_hh.new_empty(0, cell.hidden_size)
        gated = self.gate != "none"
        return Weights(
            query=attention.decoder_att.weight,
            query_bias=attention.decoder_att.bias,
            score=attention.full_att.weight.flatten(),
            score_bias=attention.full_att.bias,
            context=cell.weight_ih[:, self.embedding.embedding_dim :],
            hidden=cell.weight_hh,
            gate=self.f_beta.weight if gated else none,
            gate_bias=self.f_beta.bias if gated else none[:, 0],
        )


def _is_count(index: Tensor, length: int) -> bool:
    """True for 0, 1, ... length - 1: an index that moves nothing."""
    return torch.equal(index, torch.arange(length, device=index.device))


def _rounded(rows: list[int], batch: int, dtype: torch.dtype) -> list[int]:
    """Captions to step through: a few that have ended too, so that few different sizes occur.

    In half precision oneDNN compiles a product for every size it meets, which takes far longer than
    the product; in single precision it does not.
    """
    grain = 16 if dtype in (torch.bfloat16, torch.float16) else 1
    return [min(batch, -(-n // grain) * grain) for n in rows]
