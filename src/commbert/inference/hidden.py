"""Scores of tokens that are hidden in texts: how likely the model holds each in its place."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from commbert.inference.models import AskedModel
from commbert.nn.measures import loss_and_rank
from commbert.nn.packing import batches_by_length, full_lengths, pack_sequences

BATCH_TOKENS = 4096
"""Tokens at a time: each hidden one takes a row of logits of the vocabulary's size."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class HiddenTokens:
    """One row per hidden token."""

    loss_nats: Floats
    """Cross-entropy."""
    rank: Ints
    """How many tokens the model held more likely than the right one."""


def hidden_tokens(
    model: AskedModel,
    texts: Sequence[Ints],
    *,
    text_of: Ints,
    place: Ints,
    token: Ints,
    batch_tokens: int = BATCH_TOKENS,
) -> HiddenTokens:
    """Score tokens at hidden places; texts of any lengths go packed through the model, without padding.

    Args:
        model: Has a trained MLM head.
        texts: Token ids without [CLS] and [SEP], with [MASK] at the hidden places.
        text_of: [n] row of the text that each hidden token is in, ascending.
        place: [n] its place there, from 0.
        token: [n] its right id.
        batch_tokens: How many tokens are computed at a time.
    """
    loss, rank = np.empty(len(token)), np.empty(len(token), np.int64)
    sizes = np.array([len(text) for text in texts], np.int64)
    lengths = full_lengths(sizes)
    bounds = np.searchsorted(text_of, np.arange(len(texts) + 1))
    for rows in batches_by_length(sizes, batch_tokens):
        items = np.concatenate([np.arange(bounds[row], bounds[row + 1]) for row in rows])
        starts = np.cumsum(lengths[rows]) - lengths[rows]
        read = np.repeat(starts, np.diff(bounds)[rows]) + 1 + place[items]
        with torch.inference_mode():
            packed = pack_sequences([texts[row] for row in rows], model.specials).to(model.device)
            states = model.bert.hidden_states(packed, torch.from_numpy(read).to(model.device))
            labels = torch.from_numpy(token[items]).to(model.device)
            loss[items], rank[items] = loss_and_rank(model.bert.mlm_logits(states).float(), labels)
    return HiddenTokens(loss, rank)
