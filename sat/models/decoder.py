"""The recurrent decoder: one step, and its unrolling under teacher forcing.

B images (or beams), P regions, C cells, D features, H hidden units, E embedding, T words, V
vocabulary. Cells are fewer than regions only where a grid is enlarged (see `grid.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sat.config.checks import check_choice
from sat.config.model import DROPOUT_SITES
from sat.models.attention import ATTENTION_MODES, EXPECTED_SHARE, Attention
from sat.models.base import Output, captions_per_image
from sat.ops.attention_scores import working_memory
from sat.ops.linear import Linear, LSTMCell
from sat.ops.packed_captions import PackedCaptions
from sat.ops.pooled_grid import mean_of_regions
from sat.ops.ragged_rows import RaggedRows, is_identity
from sat.ops.unrolled_lstm import recurrent_weights, unroll


class State(NamedTuple):
    """What one step hands the next: B photos, and N rows, each looking at one of them."""

    features: Tensor  # float[B, C, D]
    projected: Tensor  # float[B, P, A]: the part of f_att that depends on the photo alone
    hidden: Tensor  # float[N, H]
    cell: Tensor  # float[N, H]
    seats: RaggedRows  # which photo each row looks at
    room: Tensor | None  # for attention to work in


class DecoderWithAttention(nn.Module):
    """An LSTM that looks at the photo again before every word (Xu et al. 2015, section 3.1).

    The first six arguments and the parameter names are the tutorial's, so that its weights load by
    name; then one keyword for each choice in which the published systems differ. The defaults are
    ours; the tutorial's reading is activation="relu", initial_state="linear", output="linear".
    """

    baseline: Tensor | None

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
        test_attention: str = "expected",
        attention_depth: int = 1,
        encoded_image_size: int | None = None,
        activation: str = "tanh",
        gate: str = "vector",
        initial_state: str = "tanh",
        output: str = "deep",
        dropout_sites: tuple[str, ...] = ("hidden", "readout"),
    ) -> None:
        super().__init__()
        check_choice("attention", attention, ("soft", "hard"))
        check_choice("test_attention", test_attention, ATTENTION_MODES)
        check_choice("gate", gate, ("vector", "scalar", "none"))
        check_choice("initial_state", initial_state, ("tanh", "linear"))
        check_choice("output", output, ("deep", "linear"))
        for site in dropout_sites:
            check_choice("dropout_sites", site, DROPOUT_SITES)
        self.vocab_size = vocab_size
        self.hard, self.test_attention = attention == "hard", test_attention
        self._shared_mode: str | None = None
        self.gate, self.initial_state, self.output = gate, initial_state, output
        self.dropout_sites = dropout_sites
        self.attention = Attention(
            *(encoder_dim, decoder_dim, attention_dim),
            activation=activation,
            depth=attention_depth,
            encoded_image_size=encoded_image_size,
        )
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.decode_step = LSTMCell(embed_dim + encoder_dim, decoder_dim)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        if gate != "none":
            self.f_beta = Linear(decoder_dim, encoder_dim if gate == "vector" else 1)
        if output == "deep":
            self.hidden_out = Linear(decoder_dim, embed_dim)  # L_h
            self.context_out = Linear(encoder_dim, embed_dim)  # L_z
        self.fc = Linear(embed_dim if output == "deep" else decoder_dim, vocab_size)
        for weight in (self.embedding.weight, self.fc.weight):
            nn.init.uniform_(weight, -0.1, 0.1)
        nn.init.zeros_(self.fc.bias)
        # of REINFORCE, per word; begins with the log-probability of a guess
        guess = torch.tensor(-math.log(vocab_size)) if self.hard else None
        self.register_buffer("baseline", guess)

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
        """The state before the first word; features float[B, C, D] or a grid float[B, h, w, D]."""
        features = features.flatten(1, -2)  # (B, C, D)
        if torch.is_autocast_enabled(features.device.type):  # once, not at every word
            features = features.to(torch.get_autocast_dtype(features.device.type))
        mean = mean_of_regions(features, self.attention.regions(features))
        if "mean" in self.dropout_sites:
            mean = self.dropout(mean)
        hidden, cell = self.init_h(mean), self.init_c(mean)
        if self.initial_state == "tanh":
            hidden, cell = hidden.tanh(), cell.tanh()
        one_each = RaggedRows(torch.arange(len(features), device=features.device), len(features))
        projected = self.attention.project(features)
        return State(features, projected, hidden, cell, one_each, working_memory(projected))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """The logits float[N, V] of the word after tokens int[N], and the next state."""
        features, projected, hidden, cell, seats, room = state
        embedded = self.embedding(tokens)
        context, _ = self.attention(features, projected, hidden, seats, self.test_attention, room)
        if self.gate != "none":
            context = self.f_beta(hidden).sigmoid() * context
        inputs = torch.cat([embedded, context], dim=1)  # (N, E + D)
        hidden, cell = self.decode_step(inputs, (hidden, cell))
        logits = self._predict(embedded, hidden, context, self._drop([len(tokens)]))
        return logits, state._replace(hidden=hidden, cell=cell)

    def reorder(self, state: State, index: Tensor) -> State:
        """The state with rows picked, repeated or dropped: row i becomes row index[i].

        Photos stay where they are until half of them have no row: they are large.
        """
        here, photos = state[:2], state.seats.photos[index]
        number = len(state.features)
        if number > 1 and len(kept := photos.unique()) <= number / 2:
            here = tuple(part.index_select(0, kept) for part in here)
            photos = torch.searchsorted(kept, photos)
        rows = (part.index_select(0, index) for part in state[2:4])
        return State(*here, *rows, RaggedRows(photos, len(here[0])), state.room)

    def forward(self, features: Tensor, captions: Tensor, lengths: Tensor) -> Output:
        """The unrolled `step` over captions int[B, T] of `lengths` int[B] (start and end counted).

        Of each photo there may be as many captions, its own one after another. The features are
        projected once a photo, the vocabulary layer runs once a batch, and a caption that has ended
        costs nothing more. In training, hard attention looks at one region drawn for each word, or,
        with probability 1/2 for the whole batch, at the expected context.
        """
        repeats = captions_per_image(captions, features)
        start = self.start(features)[:4]
        ragged = PackedCaptions(lengths.flatten() - 1, captions.shape[1] - 1, start[0].dtype)
        photos = ragged.order // repeats
        if not is_identity(photos, len(features)):
            start = tuple(part.index_select(0, photos) for part in start)
        embedded = self.embedding(ragged.pack(captions[:, :-1]))  # (N, E)
        lstm, gate = self.decode_step, self.f_beta if self.gate != "none" else None
        # One split: two slices would each get a gradient as large as the whole, mostly zero.
        of_word, of_context = lstm.weight_ih.split([embedded.shape[1], features.shape[-1]], dim=1)
        inputs = functional.linear(embedded, of_word, lstm.bias_ih + lstm.bias_hh)
        unrolled = unroll(
            *start[:2], inputs, *start[2:], ragged.rows,
            recurrent_weights(self.attention, lstm, gate, of_context),
            self.attention.activation, self._attention_mode(),
        )  # fmt: skip
        spoken = (embedded, unrolled.hiddens, unrolled.contexts)
        logits = self._predict(*map(ragged.only_spoken, spoken), self._drop(ragged.spoken))
        alphas, looks = (
            None if maps is None else ragged.unpack(ragged.only_spoken(maps))
            for maps in (unrolled.alphas, unrolled.looks)
        )
        return Output(ragged.unpack(logits), alphas, looks)

    def set_attention_mode(self, mode: str) -> None:
        """Choose the context used for captioning, one of `ATTENTION_MODES`; else `ValueError`."""
        check_choice("test_attention", mode, ATTENTION_MODES)
        self.test_attention = mode

    @contextmanager
    def shared_attention_mode(self) -> Iterator[None]:
        """What is trained on in the block, parts of a minibatch, shares one draw of the look."""
        self._shared_mode = self._attention_mode()
        try:
            yield
        finally:
            self._shared_mode = None

    def _attention_mode(self) -> str:
        """How the words of this batch get their context: one of `ATTENTION_MODES`."""
        if self._shared_mode or not self.training:
            return self._shared_mode or self.test_attention
        drawn = self.hard and torch.rand(()).item() >= EXPECTED_SHARE
        return "sampled" if drawn else "expected"

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
        sizes = {"hidden": self.decode_step.hidden_size}
        if self.output == "deep":
            sizes["readout"] = self.embedding.embedding_dim

        def drawn(site: str, n: int) -> Tensor:
            here = site in self.dropout_sites
            return self.dropout(one.expand(n, sizes[site])) if here else one.expand(n, 1)

        steps = [[drawn(site, n) for site in sizes] for n in rows]
        return tuple(torch.cat(masks) for masks in zip(*steps))
