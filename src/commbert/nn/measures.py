"""Figures that training and evaluation both need."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from commbert import counters
from commbert.nn.encoder import Bert
from commbert.nn.masking import mask_tokens
from commbert.nn.packing import SpecialIds, pack

MASK_RATE = 0.15
"""Share of tokens that a measurement hides (Devlin et al. 2019, arXiv:1810.04805, section 3.1)."""


def auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Return the probability that a positive scores above a negative, ties counted half; NaN if a side is empty."""
    n_pos, n_neg = len(positive), len(negative)
    if not n_pos or not n_neg:
        return float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))[:n_pos]
    return float((ranks.sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def cosines(vectors: Float[Tensor, "n h"], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows; rows have length 1."""
    rows = torch.from_numpy(np.stack([a, b]).astype(np.int64))
    return np.asarray((vectors[rows[0]].double() * vectors[rows[1]].double()).sum(-1).numpy())


@dataclass(frozen=True)
class MlmScores:
    """One row per hidden token, in the order of the windows."""

    window: NDArray[np.int64]
    label: NDArray[np.int64]
    loss: NDArray[np.float64]
    """Cross-entropy in nats."""
    rank: NDArray[np.int64]
    """How many tokens the model held more likely than the right one."""
    place: NDArray[np.int64]
    """The token's place in its window, from 0."""


def mlm_scores(
    model: Bert,
    windows: Sequence[NDArray[np.int64]],
    specials: SpecialIds,
    *,
    seed: int,
    rate: float,
    device: torch.device,
    batch_size: int = 32,
) -> MlmScores:
    """Hide tokens, always the same ones and always by [MASK], and score the right token at each.

    Args:
        model: Model with an MLM head.
        windows: Token ids without specials.
        specials: Ids of the special tokens.
        seed: Decides which tokens are hidden.
        rate: Share of tokens hidden; at least one per window.
        device: Where to compute.
        batch_size: Windows at a time.
    """
    was_training = model.training
    model.eval()
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i]))
    parts: list[tuple[NDArray[Any], ...]] = []
    with torch.inference_mode():
        for at in range(0, len(order), batch_size):
            rows = np.array(order[at : at + batch_size])
            lengths = np.array([len(windows[i]) for i in rows])
            masked = mask_tokens(
                np.concatenate([windows[i] for i in rows]).astype(np.int64),
                lengths,
                rows.astype(np.uint64),
                stream=counters.key(seed, "evaluation masks"),
                rate=rate,
                mask_share=1.0,
                random_share=0.0,
                mask_id=specials.mask,
                regular_ids=np.array([specials.mask]),
            )
            places, window = packed_places(lengths, masked.positions)
            packed = pack(masked.input_ids, lengths, specials).to(device)
            logits = model.mlm_logits(model.hidden_states(packed, torch.from_numpy(places).to(device))).float()
            labels = torch.from_numpy(masked.labels).to(device)
            loss, rank = _loss_and_rank(logits, labels)
            place = masked.positions - (np.cumsum(lengths) - lengths)[window]
            parts.append((rows[window], masked.labels, loss, rank, place))
    model.train(was_training)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order_again = np.argsort(columns[0], kind="stable")
    return MlmScores(*(column[order_again] for column in columns))


def packed_places(
    lengths: NDArray[np.int64], positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Turn positions in sequences laid end to end into places of the packed row, which has [CLS] and [SEP] too.

    Returns:
        Place and number of the sequence, of each position.
    """
    sequence = np.searchsorted(np.cumsum(lengths), positions, side="right")
    return positions + 2 * sequence + 1, sequence


def _loss_and_rank(
    logits: Float[Tensor, "n v"], labels: Int[Tensor, "n"]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    own = logits.gather(1, labels[:, None])
    loss = torch.logsumexp(logits, 1) - own[:, 0]
    rank = (logits > own).sum(1)
    return loss.double().cpu().numpy(), rank.cpu().numpy()
