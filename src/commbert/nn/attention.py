"""Self-attention within each sequence of a packed row: one door, a way for each kind of device behind it.

On CPU the sequences of equal length are one batched product: no padding, no mask. On CUDA torch's variable-length
kernels read the packed row as it is.
"""

import math
import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

from commbert.nn.dropout import kept
from commbert.nn.packing import Packed

_CACHED = 400_000
"""Probabilities that one product makes at a time: 1.6 MB in float32 stay in a core's cache (measured)."""


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the runs of lengths differ from batch to batch
def attention(qkv: Float[Tensor, "t 3 heads d"], packed: Packed, *, dropout: float) -> Float[Tensor, "t heads d"]:
    """Return softmax(q k / sqrt(d)) v, each token attending to the tokens of its own sequence.

    Args:
        qkv: Queries, keys and values of all tokens.
        packed: Where the sequences lie.
        dropout: Share of the probabilities that is dropped; 0 outside training.

    Reference: Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    """
    if qkv.device.type == "cuda":
        return on_cuda(qkv, packed, dropout=dropout)
    return by_length(qkv, packed, dropout=dropout)


def on_cuda(qkv: Float[Tensor, "t 3 heads d"], packed: Packed, *, dropout: float) -> Float[Tensor, "t heads d"]:
    """Use torch's flash attention for packed rows; its public form has no dropout and no float32."""
    if dropout == 0.0 and qkv.dtype in (torch.bfloat16, torch.float16):
        query, key, value = qkv.unbind(1)
        offsets, longest = packed.offsets, packed.longest
        out = varlen_attn(query, key, value, offsets, offsets, longest, longest)
        assert isinstance(out, Tensor)
        return out
    return jagged(qkv, packed, dropout=dropout)


def jagged(qkv: Float[Tensor, "t 3 heads d"], packed: Packed, *, dropout: float) -> Float[Tensor, "t heads d"]:
    """Use torch's scaled-dot-product attention on nested tensors: any precision, with dropout, on any device."""
    shortest = min(r.length for r in packed.runs)
    lengths: dict[str, Any] = {"min_seqlen": shortest, "max_seqlen": packed.longest}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors is in prototype stage")
        query, key, value = (
            torch.nested.nested_tensor_from_jagged(part.contiguous(), packed.offsets.long(), **lengths).transpose(1, 2)
            for part in qkv.unbind(1)
        )
    out = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    values: Tensor = out.transpose(1, 2).values()
    return values


def by_length(qkv: Float[Tensor, "t 3 heads d"], packed: Packed, *, dropout: float) -> Float[Tensor, "t heads d"]:
    """Compute each run of equal lengths as one batch: no padding, no mask."""
    # The function is its own backward, so that no product may be cast between the two.
    with torch.autocast(qkv.device.type, enabled=False):
        out: Tensor = _ByLength.apply(qkv, packed, dropout)
    return out


def _blocks(packed: Packed, n_heads: int) -> list[tuple[slice, int, int]]:
    """Return (tokens, sequences, length) of products small enough to stay in cache."""
    blocks = []
    for run in packed.runs:
        step = max(1, _CACHED // (n_heads * run.length**2))
        for at in range(0, run.n_sequences, step):
            n = min(step, run.n_sequences - at)
            start = run.start + at * run.length
            blocks.append((slice(start, start + n * run.length), n, run.length))
    return blocks


class _ByLength(torch.autograd.Function):
    """Keeps the probabilities (and what dropout left of them) and writes gradients straight into the packed row."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, packed: Packed, dropout: float) -> Tensor:
        t, _, heads, d = qkv.shape
        out = qkv.new_empty(t, heads, d)
        blocks = _blocks(packed, heads)
        saved, scale = [], 1.0
        for tokens, n, length in blocks:
            query, key, value = _split(qkv[tokens], n, length)
            probability = torch.softmax((query / math.sqrt(d)) @ key.transpose(-1, -2), -1)
            saved.append(probability)
            if dropout > 0.0:
                is_kept, scale = kept(probability, dropout)
                saved.append(is_kept)
                probability = (probability * is_kept).mul_(scale)
            out[tokens].view(n, length, heads, d).copy_((probability @ value).transpose(1, 2))
        ctx.save_for_backward(qkv, *saved)
        ctx.blocks, ctx.dropout, ctx.scale = blocks, dropout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        qkv, *saved = ctx.saved_tensors
        _, _, heads, d = qkv.shape
        of_all, gradient = gradients[0].contiguous(), torch.empty_like(qkv)
        each = iter(saved)
        for tokens, n, length in ctx.blocks:
            query, key, value = _split(qkv[tokens], n, length)
            probability = next(each)
            of_out = of_all[tokens].view(n, length, heads, d).transpose(1, 2)
            of_probability = of_out @ value.transpose(-1, -2)
            used = probability
            if ctx.dropout > 0.0:
                is_kept = next(each)
                used = (probability * is_kept).mul_(ctx.scale)
                of_probability = (of_probability * is_kept).mul_(ctx.scale)
            of_scores = of_probability.sub_((of_probability * probability).sum(-1, keepdim=True)).mul_(probability)
            of_scores /= math.sqrt(d)
            of_query, of_key, of_value = _split(gradient[tokens], n, length)
            of_query.copy_(of_scores @ key)
            of_key.copy_(of_scores.transpose(-1, -2) @ query)
            of_value.copy_(used.transpose(-1, -2) @ of_out)
        return gradient, None, None


def _split(qkv: Tensor, n: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return views [n, heads, length, d] of queries, keys and values."""
    query, key, value = qkv.view(n, length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value
