"""Finding novel same-line partners of validation words while training runs: a smaller form of the evaluation's task."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from commbert.known import contains, pair_keys
from commbert.nn.ranking import ranks_of_wanted

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Retrieval:
    """Which words are looked for among which, the same in every validation of a run.

    The mean reciprocal rank is over ``len(candidate)`` candidates and over the partners that the pairs table drew, so
    it compares validations of a run, and runs of the same settings; the evaluation's is over all words and partners.
    """

    query: Ints
    """[q] word ids, ascending."""
    wanted: tuple[Ints, ...]
    """Of each query the places of its partners in ``candidate``."""
    candidate: Ints
    """[n] word ids, ascending."""
    taken_out: NDArray[np.bool_]
    """[q, n] the query itself and the words that share a training line with it."""

    def __len__(self) -> int:
        return len(self.query)

    @property
    def words(self) -> Ints:
        """Ids of all words that need a vector, ascending."""
        return np.union1d(self.query, self.candidate)

    def mean_reciprocal_rank(self, queries: Tensor, candidates: Tensor) -> float:
        """Return the mean of 1 / rank of each query's first partner, ties counted half; NaN if a vector is none.

        Args:
            queries: [q, h] unit vectors.
            candidates: [n, h] unit vectors.
        """
        # Nothing sorts above a NaN: each partner would stand first.
        if not bool(queries.isfinite().all() and candidates.isfinite().all()):
            return float("nan")
        ranked = ranks_of_wanted(queries, candidates, self.wanted, lambda i: self.taken_out[i])
        return float(np.mean([1.0 / ranks[0] for ranks in ranked]))


def choose_retrieval(
    a: Ints,
    b: Ints,
    is_candidate: NDArray[np.bool_],
    known: NDArray[np.uint64],
    *,
    n_queries: int,
    n_candidates: int,
    seed: int,
) -> Retrieval:
    """Draw the queries and candidates.

    Args:
        a: [p] first words of pairs that share a validation line; each word of a pair looks for the other one.
        b: [p] second words.
        is_candidate: [n_words] whether a word takes part: it is of the code and no keyword.
        known: Sorted keys of pairs that share a training line; those are not looked for.
        n_queries: Queries at most.
        n_candidates: The wanted partners, and other words of the code up to so many in all. More only where there are
            more partners.
        seed: Draws both.
    """
    keep = (a != b) & is_candidate[a] & is_candidate[b] & ~contains(known, pair_keys(a, b))
    both = np.unique(np.stack([np.concatenate([a[keep], b[keep]]), np.concatenate([b[keep], a[keep]])], axis=1), axis=0)
    rng = np.random.default_rng([seed, 7])
    asking = np.unique(both[:, 0])
    query = np.sort(rng.choice(asking, min(n_queries, len(asking)), replace=False))
    both = both[np.isin(both[:, 0], query)]
    partners = np.unique(both[:, 1])
    others = np.setdiff1d(np.flatnonzero(is_candidate), partners)
    drawn = rng.choice(others, min(max(0, n_candidates - len(partners)), len(others)), replace=False)
    candidate = np.sort(np.concatenate([partners, drawn]))
    # Sorted by query, each query's partners are a run.
    ends = np.searchsorted(both[:, 0], query, side="right")
    wanted = np.split(np.searchsorted(candidate, both[:, 1]), ends[:-1]) if len(query) else []
    taken_out = contains(known, pair_keys(query[:, None], candidate)) | (query[:, None] == candidate)
    return Retrieval(query, tuple(wanted), candidate, taken_out)
