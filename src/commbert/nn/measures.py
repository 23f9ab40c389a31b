"""Figures that training and evaluation both need."""

import math
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
from commbert.nn.packing import SpecialIds, full_lengths, pack
from commbert.rows import Rows
from commbert.sentences import SentencePairs

MASK_RATE = 0.15
"""Share of tokens that a measurement hides (Devlin et al. 2019, arXiv:1810.04805, section 3.1)."""
_ROWS_AT_ONCE = 32_768


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


def mean_or_nan(values: Tensor) -> float:
    """Return the mean; NaN of none."""
    return float(values.mean()) if len(values) else float("nan")


def squared_distances(vectors: Tensor, a: NDArray[np.int64], b: NDArray[np.int64]) -> Tensor:
    """Return the squared distance of each pair of rows, [pairs] float64."""
    parts = [torch.empty(0, dtype=torch.float64)]
    for at in range(0, len(a), _ROWS_AT_ONCE):
        rows = [torch.from_numpy(x[at : at + _ROWS_AT_ONCE]).to(vectors.device) for x in (a, b)]
        parts.append((vectors[rows[0]].double() - vectors[rows[1]].double()).square().sum(1).cpu())
    return torch.cat(parts)


def uniformity(vectors: Tensor, a: NDArray[np.int64], b: NDArray[np.int64], *, t: float = 2.0) -> float:
    """Return the logarithm of the mean of exp(-t d^2) over random pairs, d their distance; -4t to 0; NaN without pairs.

    Lower is more evenly spread: 0 if all vectors are one; about -2t where most pairs are orthogonal.

    Args:
        vectors: [n, h] unit vectors.
        a: [pairs] rows of the first words, as ``random_pairs`` draws them.
        b: [pairs] rows of the second words.
        t: Width of the kernel.

    Reference: Wang & Isola 2020, arXiv:2005.10242, section 4.1, L_uniform.
    """
    if not len(a):
        return float("nan")
    exponents = -t * squared_distances(vectors, a, b)
    return float(torch.logsumexp(exponents, 0)) - math.log(len(a))


def mean_random_cosine(vectors: Tensor, a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Return the mean cosine of pairs of rows, as ``random_pairs`` draws them; NaN without pairs."""
    return mean_or_nan(1.0 - squared_distances(vectors, a, b) / 2.0)


def random_pairs(n: int, n_pairs: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw pairs of different rows, evenly and independently; none if there are fewer than two rows."""
    if n < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    rng = np.random.default_rng([seed, n])
    a = rng.integers(0, n, n_pairs)
    return a, (a + rng.integers(1, n, n_pairs)) % n


def effective_rank(vectors: Tensor, *, centred: bool = False) -> float:
    """Return exp(entropy of the singular values as shares of their sum), 1 to min(n, h); 0 if all are 0; NaN of none.

    Args:
        vectors: [n, h].
        centred: Take the mean vector off first. It tells more of word vectors: those of a language model share a large
            mean, one singular value that hides how many dimensions tell words apart.

    Reference: Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality", EUSIPCO, definition 1.
    """
    if not len(vectors):
        return float("nan")
    mean = vectors.double().mean(0)
    gram = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for rows in vectors.split(_ROWS_AT_ONCE):
        some = rows.double() - mean if centred else rows.double()
        gram += some.T @ some
    squares = torch.linalg.eigvalsh(gram)
    # Below this share of the squared lengths, eigenvalues are rounding of the vectors' own float32.
    noise = torch.finfo(torch.float32).eps ** 2 * len(vectors) * vectors.shape[1]
    values = squares[squares > noise].sqrt()
    share = values / values.sum()
    return float(torch.exp(-(share * share.log()).sum())) if len(values) else 0.0


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
            loss, rank = loss_and_rank(logits, labels)
            place = masked.positions - (np.cumsum(lengths) - lengths)[window]
            parts.append((rows[window], masked.labels, loss, rank, place))
    model.train(was_training)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order_again = np.argsort(columns[0], kind="stable")
    return MlmScores(*(column[order_again] for column in columns))


def packed_places(
    lengths: NDArray[np.int64], positions: NDArray[np.int64], first_lengths: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Turn positions in sequences laid end to end into places of the packed row, which has [CLS] and [SEP] too.

    Lengths as in ``commbert.nn.packing.pack``.

    Returns:
        Place and number of the sequence, of each position.
    """
    ends = np.cumsum(lengths)
    sequence = np.searchsorted(ends, positions, side="right")
    n_specials = np.cumsum(full_lengths(lengths, first_lengths) - lengths)
    before = np.concatenate([[0], n_specials])[sequence] + 1
    if first_lengths is not None:
        before += positions - (ends - lengths)[sequence] >= first_lengths[sequence]
    return positions + before, sequence


@dataclass(frozen=True)
class NspScores:
    """One row per pair of sentences."""

    loss: NDArray[np.float64]
    """Cross-entropy in nats."""
    is_right: NDArray[np.bool_]


def nsp_scores(
    model: Bert,
    windows: Rows,
    pairs: SentencePairs,
    specials: SpecialIds,
    *,
    device: torch.device,
    batch_size: int = 32,
) -> NspScores:
    """Ask whether the second sentence of each pair follows the first; nothing is hidden.

    Args:
        model: Model with an NSP head.
        windows: Token ids without specials.
        pairs: Rows of them.
        specials: Ids of the special tokens.
        device: Where to compute.
        batch_size: Pairs at a time.
    """
    was_training = model.training
    model.eval()
    first, second = windows.lengths(pairs.first), windows.lengths(pairs.second)
    loss, is_right = np.empty(len(pairs)), np.empty(len(pairs), np.bool_)
    order = np.argsort(-(first + second), kind="stable")
    with torch.inference_mode():
        for at in range(0, len(order), batch_size):
            rows = order[at : at + batch_size]
            packed = pack(windows.joined(pairs.chosen(rows).rows), (first + second)[rows], specials, first[rows]).to(
                device
            )
            logits = model.nsp_logits(model.hidden_states(packed, packed.offsets[:-1].long())).double().cpu()
            label = torch.from_numpy(pairs.label[rows])
            loss[rows] = torch.nn.functional.cross_entropy(logits, label, reduction="none").numpy()
            is_right[rows] = (logits.argmax(1) == label).numpy()
    model.train(was_training)
    return NspScores(loss, is_right)


def loss_and_rank(
    logits: Float[Tensor, "n v"], labels: Int[Tensor, "n"]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the cross-entropy of each label in nats, and how many entries have a higher logit than it."""
    own = logits.gather(1, labels[:, None])
    loss = torch.logsumexp(logits, 1) - own[:, 0]
    rank = (logits > own).sum(1)
    return loss.double().cpu().numpy(), rank.cpu().numpy()
