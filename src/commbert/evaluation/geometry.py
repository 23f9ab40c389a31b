"""How word vectors lie on the sphere: near what belongs together, spread over all else, or collapsed.

All functions take unit vectors, finite and none of them 0: words without a vector are left out by the caller.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import skew
from torch import Tensor

from commbert.evaluation.bootstrap import json_ready
from commbert.nn.measures import (
    effective_rank,
    mean_or_nan,
    mean_random_cosine,
    random_pairs,
    squared_distances,
    uniformity,
)

Ints = NDArray[np.int64]

MAX_MEAN_COSINE = 0.9
"""The mean cosine of random words is about the squared length of their mean vector, the part that all words share:
above this, less than a tenth of a vector's squared length is left to tell it from others. Random words of contextual
models were found at 0.99 in the worst case and below 0.6 in BERT's layers (Ethayarajh 2019, doi:10.18653/v1/D19-1006,
figure 1)."""
MIN_RANK_SHARE = 0.1
"""Least effective rank of the centred vectors, of the largest possible: below it nine of ten dimensions are unused
(dimensional collapse, Jing et al. 2022, arXiv:2110.09348). Random directions reach 0.85 to 1; the base model of the
default run, on its words, 0.80."""

_HUB_NEIGHBOURS = 10
_COLUMNS_AT_ONCE = 32_768


def alignment(vectors: Tensor, a: Ints, b: Ints) -> float:
    """Return the mean squared distance of positive pairs, 0 to 4; NaN without pairs.

    Args:
        vectors: [n, h] unit vectors.
        a: [pairs] rows of the first words.
        b: [pairs] rows of the second words.

    Reference: Wang & Isola 2020, arXiv:2005.10242, section 4.1, L_align with alpha = 2.
    """
    return mean_or_nan(squared_distances(vectors, a, b))


def neighbours(
    vectors: Tensor, k: int, *, block_rows: int = 256, queries: Ints | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k nearest other rows of each row by cosine, exactly, nearest first; of equal ones the lower row.

    Time grows with queries times rows; memory is that of ``block_rows`` times 32,768 cosines, some times over, however
    many rows there are.

    Args:
        vectors: [n, h] unit vectors.
        k: Neighbours, at most n - 1 are given.
        block_rows: Queries at once.
        queries: [q] rows that are asked; None = all.

    Returns:
        [q, min(k, n - 1)] rows of the neighbours, and their cosines.
    """
    n = len(vectors)
    k = min(k, max(n - 1, 0))
    asked = torch.arange(n) if queries is None else torch.from_numpy(np.asarray(queries, np.int64))
    index, cosine = np.empty((len(asked), k), np.int64), np.empty((len(asked), k), np.float32)
    if not k:
        return index, cosine
    at = 0
    for rows in asked.to(vectors.device).split(block_rows):
        found, score = _nearest(vectors, vectors[rows], rows, k)
        index[at : at + len(rows)], cosine[at : at + len(rows)] = found.cpu().numpy(), score.cpu().numpy()
        at += len(rows)
    return index, cosine


def nearest_rows(
    asked: Tensor, vectors: Tensor, k: int, *, own: Ints | None = None, block_rows: int = 256
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k nearest rows of each asked vector by cosine, exactly, nearest first; of equal ones the lower row.

    Memory is as for ``neighbours``.

    Args:
        asked: [q, h] unit vectors, on the device of ``vectors``.
        vectors: [n, h] unit vectors.
        k: How many are wanted; min(k, n) are given.
        own: [q] a row that does not count for this asked vector: it comes last, with a cosine of minus infinity;
            -1: all rows count.
        block_rows: Asked vectors at once.

    Returns:
        [q, min(k, n)] rows, and their cosines.
    """
    k, n = min(k, len(vectors)), len(asked)
    index, cosine = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    left_out = torch.from_numpy(np.full(n, -1) if own is None else np.asarray(own, np.int64)).to(vectors.device)
    for at in range(0, n if k else 0, block_rows):
        rows = slice(at, at + block_rows)
        found, score = _nearest(vectors, asked[rows], left_out[rows], k)
        index[rows], cosine[rows] = found.cpu().numpy(), score.cpu().numpy()
    return index, cosine


def hubness(index: Ints, n: int) -> float:
    """Return the skewness of how often each row is among the 10 nearest of others; 0 if all are so equally often.

    Near 0: no word is everybody's neighbour. If q of the n rows are asked, sampled is who names neighbours; any of the
    n may be named. The counts then hold chance too, and the fewer are asked, the nearer is their skewness to that of a
    Poisson law of their mean, (10 q / n)^-1/2: compare models at equal q and n.

    Args:
        index: [q, k] nearest rows of q rows, as ``neighbours`` gives them; the first 10 are counted.
        n: How many rows there are.

    Reference: Radovanovic, Nanopoulos & Ivanovic 2010, JMLR 11:2487-2531, section 2, S_{N_k}.
    """
    occurrences = np.bincount(index[:, :_HUB_NEIGHBOURS].ravel(), minlength=n)
    return float(skew(occurrences)) if len(np.unique(occurrences)) > 1 else 0.0


@dataclass(frozen=True)
class Geometry:
    """Figures of one embedding."""

    alignment: float
    uniformity: float
    mean_random_cosine: float
    effective_rank: float
    effective_rank_centred: float
    largest_rank: int
    """Largest effective rank that so many centred vectors of this length can have."""
    hubness: float

    def as_dict(self) -> dict[str, float | None]:
        """Return the figures by name; None where there is none."""
        return json_ready(vars(self))


def geometry(
    vectors: Tensor, a: Ints, b: Ints, *, n_pairs: int = 100_000, n_queries: int = 10_000, seed: int
) -> Geometry:
    """Return all figures.

    Args:
        vectors: [n, h] unit vectors of the words that take part.
        a: [pairs] rows of the first words of positive pairs.
        b: [pairs] rows of the second words.
        n_pairs: Random pairs for uniformity and the mean cosine.
        n_queries: Rows that are asked for their neighbours, drawn without replacement; all if there are no more.
        seed: Draws pairs and queries.
    """
    n = len(vectors)
    c, d = random_pairs(n, n_pairs, seed)
    queries = np.sort(np.random.default_rng([seed, n, 1]).permutation(n)[:n_queries])
    index, _ = neighbours(vectors, _HUB_NEIGHBOURS, queries=queries)
    return Geometry(
        alignment=alignment(vectors, a, b),
        uniformity=uniformity(vectors, c, d),
        mean_random_cosine=mean_random_cosine(vectors, c, d),
        effective_rank=effective_rank(vectors),
        effective_rank_centred=effective_rank(vectors, centred=True),
        largest_rank=min(max(n - 1, 0), vectors.shape[1]),
        hubness=hubness(index, n),
    )


def collapse(found: Geometry) -> list[str]:
    """Return the reasons to call an embedding collapsed, none if it is not.

    A figure that is no number is a reason too: of fewer than two words nothing can be said.
    """
    reasons: list[str] = []
    if not found.mean_random_cosine <= MAX_MEAN_COSINE:
        reasons.append(
            f"The mean cosine of random words is {found.mean_random_cosine:.3f}, above {MAX_MEAN_COSINE}: "
            "all words point one way."
        )
    least = MIN_RANK_SHARE * found.largest_rank
    if not found.effective_rank_centred >= least:
        reasons.append(
            f"The effective rank of the centred vectors is {found.effective_rank_centred:.1f}, below {least:.1f} "
            f"({MIN_RANK_SHARE:.0%} of {found.largest_rank}): most dimensions are unused."
        )
    return reasons


def _nearest(vectors: Tensor, asked: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k nearest of some vectors: of one piece of all rows after the other, with the best so far.

    ``rows`` are their own ones, which do not count.
    """
    index = torch.empty(len(rows), 0, dtype=torch.int64, device=vectors.device)
    cosine = torch.empty(len(rows), 0, dtype=vectors.dtype, device=vectors.device)
    for first, columns in _pieces(vectors):
        scores = asked @ columns.T
        own = torch.nonzero((rows >= first) & (rows < first + len(columns)))[:, 0]
        scores[own, rows[own] - first] = -torch.inf
        new, score = _top(scores, min(k, len(columns)))
        # Stable: what came before stands first among equals, and its rows are lower.
        cosine, order = torch.cat([cosine, score], 1).sort(dim=1, descending=True, stable=True)
        index = torch.cat([index, new + first], 1).gather(1, order)[:, :k]
        cosine = cosine[:, :k]
    return index, cosine


def _pieces(vectors: Tensor) -> Iterator[tuple[int, Tensor]]:
    for first in range(0, len(vectors), _COLUMNS_AT_ONCE):
        yield first, vectors[first : first + _COLUMNS_AT_ONCE]


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return columns and values of the k highest of each row, highest first; of equal ones the lower columns."""
    best = torch.topk(scores, min(k + 1, scores.shape[1]))
    columns = best.indices[:, :k]
    crowded = torch.nonzero(best.values[:, k - 1] == best.values[:, -1])[:, 0]
    if best.values.shape[1] > k and len(crowded):
        # More are equal to the last than have a place, and topk takes any of them.
        some, bound = scores[crowded], best.values[crowded, -1:]
        above, equal = some > bound, some == bound
        chosen = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
        columns[crowded] = torch.nonzero(chosen)[:, 1].view(-1, k)
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return columns.gather(1, order), values
