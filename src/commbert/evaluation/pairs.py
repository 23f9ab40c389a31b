"""How well the cosine of two words tells pairs of one line from pairs of none, rung by rung."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from commbert import tables
from commbert.known import contains, pair_keys
from commbert.nn.measures import cosines

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RUNGS = tables.PAIR_KINDS[1:]


@dataclass(frozen=True)
class HeldOutPairs:
    """Positives with one negative per rung; row i of a rung belongs to positive ``group[i]``."""

    anchor: Ints
    positive: Ints
    is_novel: NDArray[np.bool_]
    """The pair shares no training line."""
    group: dict[str, Ints]
    negative: dict[str, Ints]


@dataclass(frozen=True)
class RungScores:
    """Scores of one rung, row by row: the positive's, its negative's, and of the two controls."""

    cluster: Ints
    is_novel: NDArray[np.bool_]
    positive: Floats
    negative: Floats
    blind_positive: Floats
    blind_negative: Floats
    frequency_positive: Floats
    frequency_negative: Floats


def read_pairs(path: Path, known: NDArray[np.uint64]) -> HeldOutPairs:
    """Read a held-out pairs table."""
    table = tables.read(path, tables.PAIRS, ["word_id_a", "word_id_b", "label", "kind"])
    a, b = (table[c].to_numpy().astype(np.int64) for c in ("word_id_a", "word_id_b"))
    kind = np.array(table["kind"].to_pylist(), dtype=object)
    is_positive = table["label"].to_numpy() == 1
    group = np.cumsum(is_positive) - 1
    return HeldOutPairs(
        anchor=a[is_positive],
        positive=b[is_positive],
        is_novel=~contains(known, pair_keys(a[is_positive], b[is_positive])),
        group={rung: group[kind == rung] for rung in RUNGS},
        negative={rung: b[kind == rung] for rung in RUNGS},
    )


def rung_scores(
    pairs: HeldOutPairs, rung: str, vectors: Tensor, row_of: Ints, n_lines: NDArray[np.uint64]
) -> RungScores:
    """Score one rung.

    The blind control never sees the first word: it scores the second one by its cosine to the mean of all anchors.
    The frequency control scores it by its number of training lines.

    Args:
        pairs: The held-out pairs.
        rung: Kind of the negatives.
        vectors: [n, h] unit vectors of words.
        row_of: Row of each word id in ``vectors``.
        n_lines: Training lines of each word id.
    """
    group, second = pairs.group[rung], pairs.negative[rung]
    first, positive = pairs.anchor[group], pairs.positive[group]
    mean = vectors[row_of[np.unique(pairs.anchor)]].double().mean(0)
    popularity = (vectors.double() @ mean).numpy()
    return RungScores(
        cluster=first,
        is_novel=pairs.is_novel[group],
        positive=cosines(vectors, row_of[first], row_of[positive]),
        negative=cosines(vectors, row_of[first], row_of[second]),
        blind_positive=popularity[row_of[positive]],
        blind_negative=popularity[row_of[second]],
        frequency_positive=n_lines[positive].astype(np.float64),
        frequency_negative=n_lines[second].astype(np.float64),
    )
