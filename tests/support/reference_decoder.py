"""Show, Attend and Tell read straight from the paper: slow, plain, and written apart from `sat`.

The oracle of the decoder's tests and the baseline of its benchmarks. Nothing is saved up: the
features are projected anew and the vocabulary layer runs at every word, and a beam search serves
one image. Equation numbers are those of Xu et al. 2015. The parameters have the tutorial's names.

B captions, P regions, D features, H hidden units, T words, V vocabulary, K beams.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ReferenceDecoder(nn.Module):
    """The tutorial's reading by default; the keywords, those of `sat`, give the others."""

    def __init__(
        self,
        attention_dim: int,
        embed_dim: int,
        decoder_dim: int,
        vocab_size: int,
        encoder_dim: int,
        dropout: float = 0.5,
        *,
        activation: str = "relu",
        gate: str = "vector",
        initial_state: str = "linear",
        output: str = "linear",
        attention_depth: int = 1,
        test_attention: str = "expected",
        dropout_sites: tuple[str, ...] = ("hidden", "readout"),
    ) -> None:
        super().__init__()
        self.test_attention, self.dropout_sites = test_attention, dropout_sites
        self.activation, self.gate = activation, gate
        self.initial_state, self.output = initial_state, output
        self.attention = nn.ModuleDict(
            {
                "encoder_att": nn.Linear(encoder_dim, attention_dim),
                "decoder_att": nn.Linear(decoder_dim, attention_dim),
                "full_att": nn.Linear(attention_dim, 1),
            }
        )
        if attention_depth == 2:
            self.attention["photo_att"] = nn.Linear(attention_dim, attention_dim)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.decode_step = nn.LSTMCell(embed_dim + encoder_dim, decoder_dim)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        if gate == "vector":
            self.f_beta = nn.Linear(decoder_dim, encoder_dim)
        if gate == "scalar":
            self.f_beta = nn.Linear(decoder_dim, 1)
        if output == "deep":
            self.hidden_out = nn.Linear(decoder_dim, embed_dim)
            self.context_out = nn.Linear(encoder_dim, embed_dim)
            self.fc = nn.Linear(embed_dim, vocab_size)
        else:
            self.fc = nn.Linear(decoder_dim, vocab_size)

    def initial(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """h_0 and c_0 from the mean of the regions."""
        mean = self.drop("mean", features.mean(dim=1))
        if self.initial_state == "linear":
            return self.init_h(mean), self.init_c(mean)
        return torch.tanh(self.init_h(mean)), torch.tanh(self.init_c(mean))

    def drop(self, site: str, values: Tensor) -> Tensor:
        """Dropout, if it falls here."""
        return self.dropout(values) if site in self.dropout_sites else values

    def attend(
        self, features: Tensor, hidden: Tensor, place: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The context z_t (eq. 13) and the weights alpha_t (eq. 4 and 5).

        Given a `place` int[B], the context is the one region there (eq. 8 and 9).
        """
        bend = torch.relu if self.activation == "relu" else torch.tanh
        from_photo = self.attention["encoder_att"](features)  # (B, P, A)
        if "photo_att" in self.attention:
            from_photo = self.attention["photo_att"](bend(from_photo))
        from_words = self.attention["decoder_att"](hidden)[:, None, :]
        layer = bend(from_photo + from_words)
        alpha = torch.softmax(self.attention["full_att"](layer).squeeze(-1), dim=1)
        if self.test_attention == "argmax" and not self.training:
            place = alpha.argmax(dim=1)
        if place is not None:
            return features[torch.arange(len(place)), place], alpha
        return (features * alpha[:, :, None]).sum(dim=1), alpha

    def word(
        self,
        tokens: Tensor,
        features: Tensor,
        hidden: Tensor,
        cell: Tensor,
        place: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits float[B, V] of the word after `tokens`, the map, and the new h and c."""
        context, alpha = self.attend(features, hidden, place)
        if self.gate != "none":
            context = torch.sigmoid(self.f_beta(hidden)) * context  # section 4.2.1
        previous = self.embedding(tokens)
        hidden, cell = self.decode_step(torch.cat([previous, context], dim=1), (hidden, cell))
        if self.output == "linear":
            return self.fc(self.drop("hidden", hidden)), alpha, hidden, cell
        # Eq. 7; where tanh and dropout stand is taken from the authors' own code.
        out = self.hidden_out(self.drop("hidden", hidden))
        mixed = previous + out + self.context_out(context)
        return self.fc(self.drop("readout", torch.tanh(mixed))), alpha, hidden, cell

    def forward(
        self, features: Tensor, captions: Tensor, lengths: Tensor, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits float[B, T-1, V] and maps float[B, T-1, P], both zero once a caption is over.

        Captions are sorted by length, longest first; a word is predicted for those not yet over.
        Given `places` int[B, T-1], each word looks at one region.
        """
        features = features.reshape(len(features), -1, features.shape[-1])
        hidden, cell = self.initial(features)
        lengths, order = lengths.reshape(-1).sort(descending=True)
        features, captions, hidden, cell = (x[order] for x in (features, captions, hidden, cell))
        to_predict = (lengths - 1).tolist()
        logits = features.new_zeros(len(features), captions.shape[1] - 1, self.fc.out_features)
        alphas = features.new_zeros(len(features), captions.shape[1] - 1, features.shape[1])
        for t in range(max(to_predict)):
            n = sum(words > t for words in to_predict)
            place = None if places is None else places[order][:n, t]
            predicted, alpha, hidden, cell = self.word(
                captions[:n, t], features[:n], hidden[:n], cell[:n], place
            )
            logits[:n, t] = predicted
            alphas[:n, t] = alpha
        back = torch.argsort(order)
        return logits[back], alphas[back]

    @torch.no_grad()
    def beam_search(
        self, features: Tensor, beam_size: int, start: int, end: int, steps: int = 51
    ) -> list[tuple[list[int], float, bool]]:
        """All captions of one image, float[P, D]: ids with start and end, score, whether it ended.

        They come in the order in which they ended; the width shrinks by each. Where none ended
        within `steps`, the beams as they stand.
        """
        features = features.reshape(1, -1, features.shape[-1])
        hidden, cell = self.initial(features)
        beams, totals, completed = [[start]], torch.zeros(1, device=features.device), []
        for _ in range(steps):
            tokens = torch.tensor([beam[-1] for beam in beams], device=features.device)
            rows = features.expand(len(beams), -1, -1)
            logits, _, hidden, cell = self.word(tokens, rows, hidden, cell)
            candidates = totals[:, None] + torch.log_softmax(logits, dim=1)  # (K, V)
            width = min(beam_size - len(completed), candidates.numel())
            best, places = candidates.flatten().topk(width)
            grown, kept = [], []
            for score, place in zip(best.tolist(), places.tolist()):
                parent, token = divmod(place, candidates.shape[1])
                if token == end:
                    completed.append(([*beams[parent], end], score, True))
                else:
                    grown.append([*beams[parent], token])
                    kept.append((score, parent))
            if not grown:
                return completed
            parents = [parent for _, parent in kept]
            beams, totals = grown, features.new_tensor([score for score, _ in kept])
            hidden, cell = hidden[parents], cell[parents]
        return completed or [(beam, score, False) for beam, score in zip(beams, totals.tolist())]
