"""The recurrent decoder: one step, and its unrolling under teacher forcing.

B images (or beams), P regions, D features, H hidden units, E embedding, T words, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sat.fields import check_choice
from sat.models.attention import Attention


class State(NamedTuple):
    """What one step hands the next; every tensor is batch first."""

    features: Tensor  # float[B, P, D]
    projected: Tensor  # float[B, P, A]: the part of f_att that depends on the photo alone
    hidden: Tensor  # float[B, H]
    cell: Tensor  # float[B, H]


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
        """The logits float[B, V] of the word after tokens int[B], and the next state."""
        readout, _, state = self._advance(self.embedding(tokens), state)
        return self.fc(readout), state

    def reorder(self, state: State, index: Tensor) -> State:
        """The state with rows picked, repeated or dropped: row i becomes row index[i]."""
        return State(*(part.index_select(0, index) for part in state))

    def forward(self, features: Tensor, captions: Tensor, lengths: Tensor) -> Output:
        """The unrolled `step` over captions int[B, T] of `lengths` int[B] (start and end counted).

        There may be several captions of each photo, as many of each, its own one after another.
        The projection of the features runs once a photo and the vocabulary layer once a batch;
        rows are sorted by length so that a caption that has ended costs nothing more.
        """
        lengths, order = (lengths.flatten() - 1).sort(descending=True)  # words to predict
        repeats, rest = divmod(len(captions), len(features))
        if rest or not repeats:
            raise ValueError(
                f"{len(captions)} captions of {len(features)} photos: give as many of each photo"
            )
        state = self.reorder(self.start(features), order // repeats)
        embedded = self.embedding(captions.index_select(0, order))  # (B, T, E)
        steps = range(captions.shape[1] - 1)
        alive = (lengths.unsqueeze(1) > torch.arange(len(steps), device=lengths.device)).sum(0)
        readouts, alphas = [], []
        for t, rows in zip(steps, alive.tolist()):
            if rows < len(state.hidden):
                state = State(*(part[:rows] for part in state))
            readout, alpha, state = self._advance(embedded[:rows, t], state)
            readouts.append(readout)
            alphas.append(alpha)
        back = order.argsort()
        return Output(
            self.fc(_stack(readouts, len(order)).index_select(0, back)),
            _stack(alphas, len(order)).index_select(0, back),
        )

    def _advance(self, embedded: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One word further: what the vocabulary layer reads, the map, and the next state."""
        context, alpha = self.attention(state.features, state.projected, state.hidden)
        if self.gate != "none":
            context = self.f_beta(state.hidden).sigmoid() * context
        inputs = torch.cat([embedded, context], dim=1)  # (B, E + D)
        hidden, cell = self.decode_step(inputs, (state.hidden, state.cell))
        readout = self.dropout(hidden)
        if self.output == "deep":
            # Eq. 7, with the tanh and the dropout that the authors' code puts before L_o.
            mixed = embedded + self.hidden_out(readout) + self.context_out(context)
            readout = self.dropout(mixed.tanh())
        return readout, alpha, state._replace(hidden=hidden, cell=cell)


def _stack(rows: list[Tensor], batch: int) -> Tensor:
    """Steps of fewer and fewer rows, float[<=B, N] each, as one zero-padded float[B, T-1, N]."""
    padded = [nn.functional.pad(row, (0, 0, 0, batch - len(row))) for row in rows]
    return torch.stack(padded, dim=1)
