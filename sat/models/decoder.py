"""The recurrent decoder of "Show, Attend and Tell": one step, and its unrolling over captions.

B images, N rows (their beams), P regions, C cells (fewer than regions only where a grid is
enlarged, see `ops/pooled_grid.py`), D features, H hidden units, E embedding, T words, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from sat.config.checks import check_choice
from sat.config.model import DROPOUT_SITES
from sat.models.attention import ATTENTION_MODES, EXPECTED_SHARE, Attention
from sat.models.base import Output
from sat.models.decoder_state import State
from sat.ops.packed_captions import PackedCaptions
from sat.ops.pooled_grid import mean_of_regions, pooling_matrix
from sat.ops.ragged_rows import RaggedRows
from sat.ops.stepwise_dropout import stepwise_dropout
from sat.ops.unrolled_lstm import CellWeights, UnrollInputs, UnrollOptions, unroll


class DecoderWithAttention(nn.Module):
    """An LSTM that attends to the image before every word (Xu et al. 2015, section 3.1.2).

    The first six arguments and the parameter names are the tutorial's, so its weights load by name;
    then comes one keyword for each choice in which the published systems differ. The defaults are
    ours; the tutorial's are activation="relu", initial_state="linear", output="linear".
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
        """Raises `ValueError` for a value that is not one of a keyword's choices."""
        super().__init__()
        check_choice("attention", attention, ("soft", "hard"))
        check_choice("gate", gate, ("vector", "scalar", "none"))
        check_choice("initial_state", initial_state, ("tanh", "linear"))
        check_choice("output", output, ("deep", "linear"))
        for site in dropout_sites:
            check_choice("dropout_sites", site, DROPOUT_SITES)
        self.vocab_size = vocab_size
        self.hard = attention == "hard"
        self.set_attention_mode(test_attention)
        self._shared_mode: str | None = None
        self.compiled = False  # the recurrence, where it learns
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
        # of REINFORCE, nats per word; starts at that of a uniform guess
        guess = torch.tensor(-math.log(vocab_size)) if self.hard else None
        self.register_buffer("baseline", guess)

    def load_pretrained_embeddings(self, embeddings: Tensor) -> None:
        """Use word vectors float[V, E] as the embedding; `ValueError` if the sizes differ."""
        if embeddings.shape != self.embedding.weight.shape:
            raise ValueError(
                f"word vectors are {tuple(embeddings.shape)}, the embedding is "
                f"{tuple(self.embedding.weight.shape)}: give one row a word and set embed_dim"
            )
        with torch.no_grad():
            self.embedding.weight.copy_(embeddings)

    def fine_tune_embeddings(self, fine_tune: bool = True) -> None:
        self.embedding.weight.requires_grad_(fine_tune)

    def set_attention_mode(self, mode: str) -> None:
        """Set how captions are generated from alpha: "expected", "sampled" or "argmax".

        Raises `ValueError` for another mode.
        """
        check_choice("test_attention", mode, ATTENTION_MODES)
        self.test_attention, self.samples_attention = mode, mode == "sampled"

    def start(self, features: Tensor) -> State:
        """The state before the first word, of features float[B, C, D] or a grid float[B, h, w, D].

        h_0 and c_0 are computed from the mean of the regions (section 3.1.2).
        """
        features = features.flatten(1, -2)  # (B, C, D)
        if torch.is_autocast_enabled(features.device.type):  # once, not at every word
            features = features.to(torch.get_autocast_dtype(features.device.type))
        mean = mean_of_regions(features, self.attention.regions(features))
        if "mean" in self.dropout_sites:
            mean = self.dropout(mean)
        hidden, cell = self.init_h(mean), self.init_c(mean)
        if self.initial_state == "tanh":
            hidden, cell = hidden.tanh(), cell.tanh()
        one_each = RaggedRows.one_each(features.shape[0], features.device)
        return State(features, self.attention.project(features), hidden, cell, one_each)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """The logits float[N, V] of the word after tokens int[N], and the next state."""
        output, state = self.step_with_map(tokens, state, self.test_attention)
        return output.logits, state

    def step_with_map(self, tokens: Tensor, state: State, mode: str) -> tuple[Output, State]:
        """The step of section 3.1.2; the Output is without the dimension of time."""
        features, projected, hidden, cell, rows = state
        embedded = self.embedding(tokens)  # E y: (N, E)
        context, alpha, locations = self.attention(features, projected, hidden, rows, mode)
        if self.gate != "none":
            context = self.f_beta(hidden).sigmoid() * context  # section 4.2.1
        inputs = torch.cat([embedded, context], dim=1)  # (N, E + D)
        hidden, cell = self.decode_step(inputs, (hidden, cell))  # eq. 1-3
        logits = self._predict(embedded, hidden, context, self._masks([tokens.shape[0]]))
        return Output(logits, alpha, locations), state._replace(hidden=hidden, cell=cell)

    def _predict(
        self, embedded: Tensor, hidden: Tensor, context: Tensor, masks: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The logits float[N, V] from the last word E y, the hidden state and the context."""
        readout = hidden * masks[0]
        if self.output == "deep":
            # Eq. 7, with the tanh and the dropout that the authors' code puts before L_o.
            mixed = embedded + self.hidden_out(readout) + self.context_out(context)
            readout = mixed.tanh() * masks[1]
        return self.fc(readout)

    def reorder(self, state: State, index: Tensor) -> State:
        return state.reorder(index)

    def forward(self, features: Tensor, captions: Tensor, lengths: Tensor) -> Output:
        """The unrolled `step` over captions int[B * k, T] of `lengths` (start and end counted).

        Each of the B images may have k captions, one after another. Equal to `unroll_by_step` but
        faster: a caption that has ended costs nothing more, the vocabulary layer runs once a batch,
        and the gradient of the recurrence is written by hand. In training, hard attention samples a
        region at each word or, with probability 1/2 for the whole batch, takes the expected
        context. Raises `ValueError` if the images have different numbers of captions.
        """
        state = self.start(features)
        packed = PackedCaptions(lengths, captions.shape, state.features)
        features, projected, hidden, cell = (packed.repeat(part) for part in state[:4])
        embedded = self.embedding(packed.pack(captions[:, :-1]))  # (N, E)
        lstm = self.decode_step
        # One split: two slices would each get a gradient as large as the whole, mostly zero.
        of_word, of_context = lstm.weight_ih.split([embedded.shape[1], features.shape[-1]], dim=1)
        word_gates = functional.linear(embedded, of_word, lstm.bias_ih + lstm.bias_hh)
        pooling = pooling_matrix(features, projected.shape[1])
        compiled = self.compiled and self.training
        steps = unroll(
            UnrollInputs(features, projected, word_gates, hidden, cell),
            CellWeights.of_layers(
                query=self.attention.decoder_att,
                score=self.attention.full_att,
                beta=self.f_beta if self.gate != "none" else None,
                context=of_context,
                hidden=lstm.weight_hh,
            ),
            packed.batch_sizes,
            UnrollOptions(self.attention.activation, self._attention_mode(), pooling, compiled),
        )
        embedded, hiddens, contexts = (
            packed.drop_finished(part) for part in (embedded, steps.hiddens, steps.contexts)
        )
        logits = self._predict(embedded, hiddens, contexts, self._masks(packed.active_sizes))
        locations = steps.locations
        return Output(
            packed.unpack(logits),
            packed.unpack(packed.drop_finished(steps.alphas)),
            None if locations is None else packed.unpack(packed.drop_finished(locations)),
        )

    def unroll_by_step(self, features: Tensor, captions: Tensor, lengths: Tensor) -> Output:
        """`forward` written plainly: one `step` a word, differentiated by autograd.

        The documentation of `forward`, and its oracle in the tests.
        """
        state, mode, steps = self.start(features), self._attention_mode(), []
        packed = PackedCaptions(lengths, captions.shape, state.features)
        state = self.reorder(state, packed.image_index.cpu())
        for t, n in enumerate(packed.active_sizes):  # captions with a word left, longest first
            state = self.reorder(state, torch.arange(n))
            output, state = self.step_with_map(captions[packed.order[:n], t], state, mode)
            steps.append(output)
        logits, alphas, locations = zip(*steps)
        return Output(
            packed.unpack(torch.cat(logits)),
            packed.unpack(torch.cat(alphas)),
            None if mode == "expected" else packed.unpack(torch.cat(locations)),
        )

    @contextmanager
    def shared_attention_mode(self) -> Iterator[None]:
        """All micro-batches of the block use the same draw of sampled or expected attention."""
        self._shared_mode = self._attention_mode()
        try:
            yield
        finally:
            self._shared_mode = None

    def _attention_mode(self) -> str:
        """The mode of this batch, one of `ATTENTION_MODES`; drawn when hard attention trains."""
        if self._shared_mode or not self.training:
            return self._shared_mode or self.test_attention
        sampled = self.hard and torch.rand(1).tolist()[0] >= EXPECTED_SHARE
        return "sampled" if sampled else "expected"

    def _masks(self, sizes: list[int]) -> tuple[Tensor, Tensor]:
        """The dropout masks of `_predict`, for `sizes` words at each step."""
        dims = {"hidden": self.decode_step.hidden_size}
        if self.output == "deep":
            dims["readout"] = self.embedding.embedding_dim
        widths = [dim if site in self.dropout_sites else 0 for site, dim in dims.items()]
        hidden, *readout = stepwise_dropout(self.dropout, self.fc.weight, sizes, widths)
        return hidden, readout[0] if readout else hidden
