"""VitGpt2: any vision transformer and language model that `transformers` can join.

B images (or captions of them), in a search I images and N rows (beams), P patches (special
tokens among them), D features, W width of the decoder, T words, V vocabulary, H heads.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, VisionEncoderDecoderModel

from sat.config.checks import check
from sat.config.training import StageConfig
from sat.models.base import FrozenPart, Normalize, Output
from sat.models.hf_networks import FRESH_MEAN, FRESH_STD, JOINT, first_position, patch_places
from sat.models.image_cache import SHARED, ImageLayer, copy_cache
from sat.ops.packed_captions import captions_per_image
from sat.ops.ragged_rows import RaggedRows, from_host, is_identity

ATTENTION_LOCK = threading.RLock()
"""held where a decoder's config says how it attends: threads share it"""


class State(NamedTuple):
    """The state of the decoder between two tokens."""

    features: Tensor  # float[I, P, W]; of the N rows where they do not share keys
    rows: RaggedRows  # the image of each of the N rows
    words: DynamicCache  # keys and values of the words so far
    patches: Cache  # those of the patches


class VitGpt2(nn.Module):
    """A vision transformer and a language model as a captioner: images in, tokens out.

    `attention_layer` and `attention_head` choose the maps that `forward` returns: by default the
    mean over the heads of the last layer.
    """

    def __init__(
        self,
        network: VisionEncoderDecoderModel,
        *,
        start_id: int,
        end_id: int,
        pad_id: int,
        unk_id: int | None = None,
        attention_layer: int = -1,
        attention_head: int | None = None,
        mean: Sequence[float] = FRESH_MEAN,
        std: Sequence[float] = FRESH_STD,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = network
        self.fast_attention = network.decoder.config._attn_implementation  # sdpa, mostly
        self.start_id, self.end_id, self.pad_id, self.unk_id = start_id, end_id, pad_id, unk_id
        config = network.decoder.config  # mBART's other names are of its encoder
        layers = self.layers = getattr(config, "decoder_layers", config.num_hidden_layers)
        heads = getattr(config, "decoder_attention_heads", config.num_attention_heads)
        self.samples_attention = False
        remedy = f"the decoder has {layers} layers of {heads} heads"
        check(-layers <= attention_layer < layers, "attention_layer", attention_layer, remedy)
        inside = attention_head is None or 0 <= attention_head < heads
        check(inside, "attention_head", attention_head, remedy)
        self.attention_layer, self.attention_head = attention_layer, attention_head
        self._first_position = first_position(network.decoder)
        self.positions: int = config.max_position_embeddings - self._first_position
        """the most tokens that a caption may have, the start included"""
        names = inspect.signature(network.decoder.forward).parameters
        self.cache_name = "cache" if "cache" in names else "past_key_values"  # transformers < 5.24
        self.train(network.training)

    @property
    def encoder(self) -> nn.Module:
        return self.network.encoder

    @property
    def decoder(self) -> Any:
        return self.network.decoder

    def set_trainable(self, stage: StageConfig, *, embeddings: bool = True) -> None:
        """Let the stage's parts learn: cross-attention, decoder or all; `embeddings` is unused."""
        for name, weight in self.network.named_parameters():
            in_decoder = not name.startswith("encoder.")
            joins = in_decoder and JOINT.search(name) is not None
            learns = {"cross_attention": joins, "decoder": in_decoder, "all": True}
            weight.requires_grad_(learns[stage.trainable])
        self.train(self.training)

    def train(self, mode: bool = True) -> VitGpt2:
        """As for any module, but an encoder that does not learn is left in evaluation mode."""
        super().train(mode)
        if self.frozen_part() is not None:
            self.encoder.eval()
        return self

    @contextmanager
    def _attention(self, wanted: str) -> Iterator[None]:
        """A block in which the decoder uses an attention implementation, one thread at a time.

        A decoder that has eager attention only (TrOCR) keeps that.
        """
        with ATTENTION_LOCK:
            # The inner model may have a config of its own, which transformers before 5.24 does not
            # set with the outer one's.
            for part in (self.decoder, self.decoder.base_model) if self._shares_keys else ():
                if part.config._attn_implementation != wanted:
                    part.set_attn_implementation(wanted)
            yield

    def encode(self, images: Tensor) -> Tensor:
        """Features float[B, P, D] of pixels uint8[B, 3, H, W], or of normalized float images."""
        pixels = self.normalize(images) if images.dtype == torch.uint8 else images
        return self.encoder(pixel_values=pixels).last_hidden_state

    def encode_cached(self, cached: Tensor) -> Tensor:
        return cached.float()

    def compile_training(self) -> None:
        newer = hasattr(torch.compiler, "is_exporting")  # transformers asks for it
        check(newer, "torch", torch.__version__, "compile of vit_gpt2 needs 2.7, leave it out")
        self.encoder.compile()
        self.decoder.compile()

    def frozen_part(self) -> FrozenPart | None:
        learns = any(weight.requires_grad for weight in self.encoder.parameters())
        return None if learns else FrozenPart(self.encoder, self.encode)

    def set_attention_mode(self, mode: str) -> None:
        """Raises `ValueError`: this family always uses the whole attention map."""
        remedy = "a captioner of family vit_gpt2 always uses the whole attention map, leave it out"
        raise ValueError(f"test_attention is {mode!r}: {remedy}")

    def shared_attention_mode(self) -> AbstractContextManager[None]:
        """A block without effect: attention is always soft here."""
        return nullcontext()

    @property
    def baseline(self) -> None:
        return None

    def start(self, features: Tensor) -> State:
        rows = RaggedRows.one_each(len(features), features.device)
        patches: Cache = DynamicCache()
        if self._shares_keys:
            patches = Cache(layers=[ImageLayer(rows) for _ in range(self.layers)])
        return State(self._project(features), rows, DynamicCache(), patches)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        past_length = state.words.get_seq_length()
        self._check_length(past_length + 1)
        cache = EncoderDecoderCache(copy_cache(state.words), copy_cache(state.patches))
        with self._attention(SHARED):
            output = self.decoder.forward(  # the call itself may be compiled, for training
                input_ids=tokens.unsqueeze(1),
                attention_mask=self._mask(tokens.unsqueeze(1), past_length),
                encoder_hidden_states=state.features,
                use_cache=True,
                **{self.cache_name: cache},
            )
        words, patches = cache.self_attention_cache, cache.cross_attention_cache
        return output.logits[:, -1], State(state.features, state.rows, words, patches)

    def reorder(self, state: State, index: Tensor) -> State:
        if is_identity(index.numpy(), len(state.rows.image_index)):
            return state
        on_device = from_host(index.numpy(), device := state.features.device)
        words = copy_cache(state.words, on_device)
        rows = RaggedRows(state.rows.image_index[index], state.rows.num_images, device)
        if not self._shares_keys:
            features, patches = state.features[on_device], copy_cache(state.patches, on_device)
            return State(features, rows, words, patches)
        layers: Any = state.patches.layers
        patches = Cache(layers=[layer.of_rows(rows) for layer in layers])
        return State(state.features, rows, words, patches)

    def _mask(self, words: Tensor, past: int, maps: bool = False) -> Tensor:
        """Which words those of int[B, T], after `past` ones, may see; padding is behind all words.

        Of a mask of rows `transformers` asks whether it masks anything, which waits for a GPU; on
        the CPU it makes a search of one image 9 % faster. Eager attention does not ask.
        """
        if maps or not self._shares_keys or words.is_cpu:
            return words.new_ones(words.shape[0], past + words.shape[1])  # not len: exported
        sees = words.new_ones(words.shape[1], past + words.shape[1], dtype=torch.bool)
        return sees.tril_(past)[None, None]

    def _position_ids(self, words: Tensor) -> dict[str, Tensor]:
        """Those of RoBERTa's steps for int[B, T]; its whole pass leaves a start that pads out."""
        first = self._first_position
        ids = torch.arange(first, first + words.shape[1], device=words.device)
        return {"position_ids": torch.where(words == first - 1, first - 1, ids)} if first else {}

    @property
    def _shares_keys(self) -> bool:
        """False for decoders that have eager attention only (TrOCR): rows then have their own."""
        return self.fast_attention != "eager"

    def _project(self, features: Tensor) -> Tensor:
        """The features float[B, P, W] in the width of the decoder."""
        return getattr(self.network, "enc_to_dec_proj", nn.Identity())(features)

    def forward(
        self, features: Tensor, captions: Tensor, lengths: Tensor, *, output_attentions: bool = True
    ) -> Output:
        """Logits float[B, T-1, V] and maps float[B, T-1, P] of captions int[B, T].

        There may be several captions of each image, one after another. Maps are of the
        patches: the share of special tokens is left out, the rest sums to one (after any dropout).
        Without `output_attentions`, which needs eager attention, there are none.
        """
        repeats = captions_per_image(captions.shape[0], features.shape[0])
        words = captions[:, :-1]
        self._check_length(words.shape[1])
        with self._attention("eager" if output_attentions else self.fast_attention):
            output = (self.decoder if self.training else self.decoder.forward)(
                input_ids=words,
                attention_mask=self._mask(words, 0, maps=output_attentions),
                encoder_hidden_states=self._project(features).repeat_interleave(repeats, dim=0),
                output_attentions=output_attentions,
                use_cache=False,
                **self._position_ids(words),
            )
        if not output_attentions:
            return Output(output.logits, None)
        ends = lengths.to(words.device, non_blocking=True).view(-1, 1) - 1
        real = torch.arange(words.shape[1], device=words.device) < ends
        heads = output.cross_attentions[self.attention_layer]  # (B, H, T-1, P)
        maps = heads.mean(1) if self.attention_head is None else heads[:, self.attention_head]
        maps = maps[..., patch_places(self.encoder, maps.shape[-1])]
        maps = maps / maps.sum(dim=-1, keepdim=True).clamp(min=1e-9)
        return Output(output.logits, maps * real.unsqueeze(2))

    def _check_length(self, words: int) -> None:
        remedy = f"the decoder has positions for {self.positions} tokens: lower max_length"
        check(words <= self.positions, "the length of a caption", words, remedy)
