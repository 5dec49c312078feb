"""Keys and values of each image once, though several captions (beams, samples) of it are decoded.

N rows, I images, K rows of the image that has most, H heads, T tokens, P patches, d features.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sat.ops.ragged_rows import RaggedRows

SHARED = "sat_shared"
"""the attention implementation that knows `ImageKeys`"""


class ImageKeys(Tensor):
    """Keys float[I, H, P, d] of images, for the queries of N rows."""

    rows: RaggedRows
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    # what is computed from them is a plain tensor


class ImageLayer(DynamicLayer):
    """One layer's keys and values of the images, for some rows."""

    def __init__(self, rows: RaggedRows) -> None:
        super().__init__()
        self.rows = rows

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **how: Any) -> Any:
        """Store them as they are: no other keys follow."""
        self.lazy_initialization(key_states, value_states)
        self.keys, self.values = self._for_rows(key_states), value_states
        return self.keys, self.values

    def of_rows(self, rows: RaggedRows) -> ImageLayer:
        """The same keys and values, for other rows."""
        layer = copy.copy(self)
        layer.rows = rows
        if layer.keys is not None:
            layer.keys = layer._for_rows(layer.keys)
        return layer

    def _for_rows(self, keys: Tensor) -> ImageKeys:
        found = keys.as_subclass(ImageKeys)
        found.rows = self.rows
        return found


def shared_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """Attention float[N, T, H, d] of queries float[N, H, T, d], as `transformers` calls it.

    The queries of all rows of an image meet its keys in one product; all patches are seen.
    """
    if not isinstance(key, ImageKeys):
        return sdpa_attention_forward(module, query, key, value, mask, **how)
    tokens, rows = query.shape[2], key.rows
    table = rows.pad(query.transpose(1, 2)).flatten(1, 2).transpose(1, 2)  # (I, H, K * T, d)
    keys = key.as_subclass(Tensor)
    how |= {"is_causal": False}
    output, _ = sdpa_attention_forward(module, table, keys, value, None, **how)
    return rows.unpad(output.unflatten(1, (rows.width, tokens))), None


def copy_cache(cache: Any, index: Tensor | None = None) -> Any:
    """Copy a cache, so that steps leave the original as it is; its row i becomes row index[i]."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    if index is not None and len(cache.layers):
        other.reorder_cache(index)
    return other


AttentionInterface.register(SHARED, shared_attention)
AttentionMaskInterface.register(SHARED, sdpa_mask)
