"""Finding a word's same-line partners of the held-out code among all words of the code."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from commbert import tables
from commbert.known import contains, pair_keys
from commbert.nn.ranking import ranks_of_wanted

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_BLOCK = 256


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
    average_precision: Floats
    """Mean, over the partners, of the share of partners among all up to its rank."""
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
    table = tables.read(line_words, tables.LINE_WORDS)
    ids, offsets = tables.list_values(table["word_ids"])
    found: dict[int, set[int]] = {}
    for row in np.flatnonzero(in_split[table["file_id"].to_numpy()]):
        words = [int(w) for w in ids[offsets[row] : offsets[row + 1]] if usable[w]]
        for w in words:
            found.setdefault(w, set()).update(words)
    query: list[int] = []
    partners: list[Ints] = []
    for w in sorted(found):
        others = np.array(sorted(found[w] - {w}), np.int64)
        others = others[~contains(known, pair_keys(w, others))]
        if len(others):
            query.append(w)
            partners.append(others)
    return Partners(np.array(query, np.int64), partners)


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
    queries = partners.query[chosen]
    ranked = ranks_of_wanted(
        vectors[np.searchsorted(candidates, queries)],
        vectors,
        [np.searchsorted(candidates, partners.partners[row]) for row in chosen],
        lambda i: contains(known, pair_keys(int(queries[i]), candidates)) | (candidates == queries[i]),
        block=_BLOCK,
    )
    reciprocal: list[float] = []
    precision: list[float] = []
    recall: dict[int, list[float]] = {k: [] for k in at}
    for ranks in ranked:
        reciprocal.append(1.0 / float(ranks[0]))
        precision.append(float((np.arange(1, len(ranks) + 1) / ranks).mean()))
        for k in at:
            recall[k].append(float((ranks <= k).sum()) / min(k, len(ranks)))
    found = {k: np.array(v) for k, v in recall.items()}
    return RetrievalScores(queries, np.array(reciprocal), np.array(precision), found)
