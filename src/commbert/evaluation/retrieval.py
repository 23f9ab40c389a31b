"""Finding a word's same-line partners of the held-out code among all words of the code."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from commbert import tables
from commbert.arrays import distinct
from commbert.known import contains, pair_keys

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_BLOCK = 256
_PAIRS_AT_ONCE = 2**21


@dataclass(frozen=True)
class Partners:
    """For each query word its partners: the words on its held-out lines, known training pairs left out."""

    query: Ints
    partners: list[Ints]


@dataclass(frozen=True)
class RetrievalScores:
    """One row per query."""

    query: Ints
    reciprocal_rank: Floats
    """1 / rank of the first partner."""
    recall: dict[int, Floats]
    """Share of the partners among the first k, of at most k."""


def held_out_partners(
    line_words: Path, in_split: NDArray[np.bool_], usable: NDArray[np.bool_], known: NDArray[np.uint64]
) -> Partners:
    """Collect the novel partners of every word of a held-out split.

    Args:
        line_words: Table corpus/line_words.
        in_split: [n_files] whether a file belongs to the split.
        usable: [n_words] whether a word takes part (no keyword).
        known: Sorted keys of pairs that share a training line.
    """
    pieces = tables.read_groups(line_words, tables.LINE_WORDS, ["file_id", "word_ids"])
    lines = (
        usable_words(*tables.list_values(piece["word_ids"]), in_split[piece["file_id"].to_numpy()], usable)
        for piece in pieces
    )
    return partners_in_groups(lines, known)


def usable_words(
    ids: NDArray[np.uint32], offsets: Ints, is_chosen: NDArray[np.bool_], usable: NDArray[np.bool_]
) -> tuple[NDArray[np.uint32], Ints]:
    """Return (ids, offsets) of the chosen rows of a list column, without the words that take no part.

    Args:
        ids: Word ids of all rows.
        offsets: [n_rows + 1] row i holds ``ids[offsets[i]:offsets[i + 1]]``.
        is_chosen: [n_rows].
        usable: [n_words].
    """
    row = np.repeat(np.arange(len(is_chosen)), np.diff(offsets))
    keep = is_chosen[row] & usable[ids]
    counts = np.bincount(row[keep], minlength=len(is_chosen))[is_chosen]
    return ids[keep], np.concatenate([[0], np.cumsum(counts)])


def partners_in_groups(groups: Iterable[tuple[NDArray[np.uint32], Ints]], known: NDArray[np.uint64]) -> Partners:
    """Collect for each word the words that it shares a group with (a line, a function), but for known pairs.

    Memory grows with the number of distinct novel pairs, not with how often they stand there.

    Args:
        groups: Pieces (ids, offsets): group i of a piece holds ``ids[offsets[i]:offsets[i + 1]]``, each word once.
        known: Sorted keys of pairs that share a training line.
    """
    found = np.empty(0, np.uint64)
    waiting: list[NDArray[np.uint64]] = []
    for ids, offsets in groups:
        for keys in _pairs_of(ids, offsets):
            waiting.append(keys[~contains(known, keys)])
            # Together as soon as they outnumber what was found: neither do all lie here, nor is all sorted each time.
            if sum(map(len, waiting)) > max(len(found), _PAIRS_AT_ONCE):
                found, waiting = distinct(np.concatenate([found, *waiting])), []
    found = distinct(np.concatenate([found, *waiting]))
    both_ways = np.concatenate([found, (found << np.uint64(32)) | (found >> np.uint64(32))])
    both_ways.sort()
    query, starts = np.unique((both_ways >> np.uint64(32)).astype(np.int64), return_index=True)
    others = both_ways.astype(np.uint32).astype(np.int64)
    return Partners(query, np.split(others, starts[1:]) if len(query) else [])


def _pairs_of(ids: NDArray[np.uint32], offsets: Ints) -> Iterable[NDArray[np.uint64]]:
    """Yield the distinct keys of all pairs of different words of a group, in pieces of about ``_PAIRS_AT_ONCE``."""
    ends = np.repeat(offsets[1:], np.diff(offsets))
    n_after = ends - np.arange(len(ids)) - 1
    total = np.concatenate([[0], np.cumsum(n_after)])
    low = 0
    while low < len(ids):
        high = max(low + 1, int(np.searchsorted(total, total[low] + _PAIRS_AT_ONCE, side="right")) - 1)
        first = np.repeat(np.arange(low, high), n_after[low:high])
        second = np.arange(total[low], total[high]) - total[first] + first + 1
        a, b = ids[first], ids[second]
        yield distinct(pair_keys(a, b)[a != b])
        low = high


def retrieve(
    partners: Partners,
    chosen: Ints,
    vectors: Tensor,
    candidates: Ints,
    known: NDArray[np.uint64],
    *,
    at: tuple[int, ...] = (1, 5, 10),
) -> RetrievalScores:
    """Rank all candidates by cosine for each chosen query; the query itself and its known training pairs are taken out.

    Args:
        partners: What is to be found.
        chosen: Rows of ``partners`` that are asked.
        vectors: [n_candidates, h] unit vectors, row i of word ``candidates[i]``.
        candidates: Word ids, sorted.
        known: Sorted keys of pairs that share a training line.
        at: Depths of the recall.
    """
    reciprocal: list[float] = []
    recall: dict[int, list[float]] = {k: [] for k in at}
    for low in range(0, len(chosen), _BLOCK):
        rows = chosen[low : low + _BLOCK]
        queries = partners.query[rows]
        scores = vectors[np.searchsorted(candidates, queries)] @ vectors.T
        for i, row in enumerate(rows):
            score = scores[i].clone()
            score[torch.from_numpy(contains(known, pair_keys(int(queries[i]), candidates)))] = -torch.inf
            score[int(np.searchsorted(candidates, queries[i]))] = -torch.inf
            wanted = score[torch.from_numpy(np.searchsorted(candidates, partners.partners[row]))]
            # Ties count half: a model that gives every word one vector has found nothing.
            above = (score[None, :] > wanted[:, None]).sum(1).numpy()
            tied = (score[None, :] == wanted[:, None]).sum(1).numpy() - 1
            ranks = np.sort(above + tied / 2) + 1
            reciprocal.append(1.0 / float(ranks[0]))
            for k in at:
                recall[k].append(float((ranks <= k).sum()) / min(k, len(ranks)))
    return RetrievalScores(partners.query[chosen], np.array(reciprocal), {k: np.array(v) for k, v in recall.items()})
