"""ShowAttendTell: an encoder and a recurrent decoder that speak one vocabulary."""

from __future__ import annotations

from torch import Tensor, nn

from sat.models.base import Output
from sat.models.decoder import DecoderWithAttention, State
from sat.models.encoder import Encoder


class ShowAttendTell(nn.Module):
    """Photo in, words out, one step at a time (Xu et al. 2015).

    B images (or beams), C cells, P regions, D features, T words, V vocabulary. `generate.py` drives
    `start`, `step` and `reorder`; training calls the module itself, their unrolled form.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        decoder: DecoderWithAttention,
        start_id: int,
        end_id: int,
        pad_id: int,
        unk_id: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.start_id, self.end_id, self.pad_id, self.unk_id = start_id, end_id, pad_id, unk_id

    def encode(self, images: Tensor) -> Tensor:
        """Features float[B, C, D] of normalised images float[B, 3, H, W]."""
        return self._cells(self.encoder.maps(images))

    def encode_frozen(self, images: Tensor) -> Tensor:
        """What the frozen blocks make of images, float[B, h, w, C]: where `encode_rest` goes on."""
        return self.encoder.body[: self.encoder.learns_from](images).permute(0, 2, 3, 1)

    def encode_rest(self, activations: Tensor) -> Tensor:
        """Features float[B, C, D] from what the frozen blocks made."""
        rest = self.encoder.body[self.encoder.learns_from :]
        return self._cells(rest(activations.permute(0, 3, 1, 2)))

    def _cells(self, maps: Tensor) -> Tensor:
        """Features of the body's maps float[B, D, h, w]; attention itself enlarges squares."""
        height, width = maps.shape[2:]
        if height != width or not self.decoder.attention.enlarges(height * width):
            maps = self.encoder.pool(maps)
        return maps.flatten(2).transpose(1, 2)

    def start(self, features: Tensor) -> State:
        """The state before the first word."""
        return self.decoder.start(features)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits float[B, V] of the word after tokens int[B], and the next state."""
        return self.decoder.step(tokens, state)

    def reorder(self, state: State, index: Tensor) -> State:
        """The state with rows picked and repeated."""
        return self.decoder.reorder(state, index)

    def forward(self, features: Tensor, captions: Tensor, lengths: Tensor) -> Output:
        """Logits float[B, T-1, V] and maps float[B, T-1, P] of captions int[B, T]."""
        return self.decoder(features, captions, lengths)
