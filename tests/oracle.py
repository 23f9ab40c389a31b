"""The slow and plain way: transformers' own BERT on padded batches, to which ours must be equal."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BertForPreTraining

from commbert.nn.encoder import Bert
from commbert.nn.model import _names, to_transformers
from commbert.nn.packing import SpecialIds, TokenSequence


@dataclass(frozen=True)
class Padded:
    """Sequences with [CLS] and [SEP], padded to the longest."""

    input_ids: Tensor
    attention_mask: Tensor


def padded(sequences: Sequence[TokenSequence], specials: SpecialIds) -> Padded:
    """Put [CLS] and [SEP] around each sequence and pad to the longest."""
    length = max(len(s) for s in sequences) + 2
    ids = torch.full((len(sequences), length), specials.pad, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence) + 2] = torch.tensor([specials.cls, *map(int, sequence), specials.sep])
    lengths = torch.tensor([[len(s) + 2] for s in sequences])
    return Padded(ids, (torch.arange(length) < lengths).long())


def theirs(model: Bert) -> BertForPreTraining:
    """Return transformers' eager model with our weights."""
    found = to_transformers(model)
    found.set_attn_implementation("eager")
    return found


def hidden_states(model: BertForPreTraining, batch: Padded) -> Tensor:
    """Return the last layer's states."""
    return model.bert(batch.input_ids, batch.attention_mask).last_hidden_state


def pooled(hidden: Tensor, attention_mask: Tensor, *, pooling: str) -> Tensor:
    """Return one vector per sequence."""
    if pooling == "cls":
        return hidden[:, 0]
    weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def gradients(model: BertForPreTraining, ours: Bert) -> dict[str, Tensor]:
    """Return their gradients under our names and in our shapes; a missing one is zero."""
    of = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    return {n: torch.cat([of[t] for t in _names(n)]) for n, _ in ours.named_parameters()}
