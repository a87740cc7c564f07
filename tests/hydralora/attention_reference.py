"""Attention over documents in one row, slowly: what torch's `varlen_attn` is documented to give."""

import torch
import torch.nn.functional as F
from torch import Tensor


def one_at_a_time(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scaling: float, window: tuple[int, int]
) -> Tensor:
    """Each document by itself; arguments as of `hydralora.base_model.packed_attention._varlen`."""
    assert longest == int(bounds.diff().max())
    results = []
    for begin, end in zip(bounds.tolist(), bounds.tolist()[1:], strict=False):
        q, k, v = (tensor[begin:end].transpose(0, 1)[None] for tensor in (query, key, value))
        distance = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
        mask = (distance >= 0) & ((distance <= window[0]) if window[0] >= 0 else True)
        result = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=True)
        results.append(result[0].transpose(0, 1))
    return torch.cat(results)
