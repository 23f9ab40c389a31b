"""Negatives of held-out pairs by exchange: each positive is given to the anchor of another pair.

Both sides of such a task hold the same second words equally often, exactly: whoever looks at the second word only, at
its frequency, its form or its vector, is right half of the time. An exchange is a permutation of the pairs' positives,
of cycles in which every anchor gets a word that it never shares a line with; pairs that fit into no cycle stay out.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from commbert.known import KnownPairs, pair_keys
from commbert.pairs.negatives import NO_WORD
from commbert.pairs.positives import Ids

Ints = NDArray[np.int64]
_BLOCKS = (128, 512)
"""Pairs that exchange among each other, by frequency; those that found nothing try again among more."""
_EDGES = 64
"""Candidates of an anchor at most, drawn evenly."""
_ROWS_AT_ONCE = 512
_STAYS = 1.0e4
_FORBIDDEN = 1.0e8


def within(groups: NDArray[Any], exchange: Callable[[Ints], Ids]) -> Ids:
    """Exchange among the pairs of each group only, so that a figure of one group is balanced too.

    Args:
        groups: [n] the group of each pair.
        exchange: Takes the rows of a group, returns a word for each.
    """
    out = np.full(len(groups), NO_WORD, np.uint32)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        out[rows] = exchange(rows)
    return out


def by_frequency(
    anchor: Ids, positive: Ids, frequency: NDArray[np.uint64], known: KnownPairs, rng: np.random.Generator
) -> Ids:
    """Exchange positives of about the same frequency.

    Args:
        anchor: [n] first words.
        positive: [n] second words.
        frequency: [n_words] training lines of each word.
        known: Pairs that share a line anywhere.
        rng: Decides between equals.

    Returns:
        [n] word ids; ``NO_WORD`` for pairs that stay out.
    """
    out = np.full(len(anchor), NO_WORD, np.uint32)
    rarity = np.log1p(frequency[positive].astype(np.float64))
    left = np.lexsort((rng.random(len(positive)), rarity))
    for size in _BLOCKS:
        for rows in np.array_split(left, -(-len(left) // size)) if len(left) else []:
            a, b, far = anchor[rows], positive[rows], rarity[rows]
            cost = np.abs(far[:, None] - far) + rng.uniform(0.0, 0.1, (len(rows), len(rows)))
            cost[_wrong(a[:, None], b[:, None], b[None, :], known)] = _FORBIDDEN
            np.fill_diagonal(cost, _STAYS)
            mine, other = linear_sum_assignment(cost)
            moved = mine != other
            out[rows[mine[moved]]] = b[other[moved]]
        left = left[out[left] == NO_WORD]
    return out


def by_sub_word(anchor: Ids, positive: Ids, parts: csr_array, known: KnownPairs, rng: np.random.Generator) -> Ids:
    """Exchange positives so that as many anchors as can be get a word that shares a sub-word with them.

    The exchange is a maximum cover of the pairs by disjoint cycles, found as a full matching of least weight in which
    a pair may also keep its own positive at a price.

    Args:
        anchor: [n] first words.
        positive: [n] second words.
        parts: [n_words, n_parts] 1 where a word holds a sub-word.
        known: Pairs that share a line anywhere.
        rng: Decides between equals.

    Returns:
        [n] word ids; ``NO_WORD`` for pairs that stay out.
    """
    out = np.full(len(anchor), NO_WORD, np.uint32)
    row, column = _in_cycles(*_edges(anchor, positive, parts, known, rng))
    core = np.unique(row)
    if not len(core):
        return out
    # A shuffled order decides between covers of the same size.
    core = rng.permutation(core)
    place = np.empty(len(anchor), np.int64)
    place[core] = np.arange(len(core))
    own = np.arange(len(core))
    at = (np.concatenate([place[row], own]), np.concatenate([place[column], own]))
    weight = np.concatenate([np.ones(len(row)), np.full(len(core), 2.0)])
    mine, other = min_weight_full_bipartite_matching(coo_array((weight, at), shape=(len(core),) * 2).tocsr())
    moved = mine != other
    out[core[mine[moved]]] = positive[core[other[moved]]]
    return out


def _edges(
    anchor: Ids, positive: Ids, parts: csr_array, known: KnownPairs, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Return (pair, pair whose positive it may take): those that share a sub-word and never a line."""
    of_positives = parts[positive].T.tocsr()
    rows: list[Ints] = [np.empty(0, np.int64)]
    columns: list[Ints] = [np.empty(0, np.int64)]
    for low in range(0, len(anchor), _ROWS_AT_ONCE):
        shared = (parts[anchor[low : low + _ROWS_AT_ONCE]] @ of_positives).tocoo()
        row, column = shared.row.astype(np.int64) + low, shared.col.astype(np.int64)
        fit = ~_wrong(anchor[row], positive[row], positive[column], known)
        row, column = row[fit], column[fit]
        order = np.lexsort((rng.random(len(row)), row))
        row, column = row[order], column[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        rows.append(row[rank < _EDGES])
        columns.append(column[rank < _EDGES])
    return np.concatenate(rows), np.concatenate(columns)


def _in_cycles(row: Ints, column: Ints) -> tuple[Ints, Ints]:
    """Leave out edges of pairs that nobody can take from, or that can take from nobody: they are in no cycle."""
    while len(row):
        both = np.intersect1d(row, column)
        fit = np.isin(row, both) & np.isin(column, both)
        if fit.all():
            break
        row, column = row[fit], column[fit]
    return row, column


def _wrong(anchor: Ids, positive: Ids, negative: Ids, known: KnownPairs) -> NDArray[np.bool_]:
    anchor, positive, negative = np.broadcast_arrays(anchor, positive, negative)
    share_a_line = known.has(pair_keys(anchor, negative).ravel()).reshape(anchor.shape)
    return np.asarray((negative == anchor) | (negative == positive) | share_a_line)
