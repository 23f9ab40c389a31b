"""How well the cosine of two words tells pairs of one line from pairs of none, rung by rung."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from commbert import tables
from commbert.known import contains, pair_keys

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
    """Scores of one rung, row by row: the positive's and its negative's."""

    item: Ints
    """Number of the positive among all."""
    first: Ints
    positive_word: Ints
    negative_word: Ints
    is_novel: NDArray[np.bool_]
    positive: Floats
    negative: Floats


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


def rung_scores(pairs: HeldOutPairs, rung: str, score: Callable[[Ints, Ints], Floats]) -> RungScores:
    """Score the positives of a rung, and the negative of each.

    Args:
        pairs: The held-out pairs.
        rung: Kind of the negatives.
        score: Of pairs of words: [n] and [n] word ids to [n] numbers.
    """
    item, negative = pairs.group[rung], pairs.negative[rung]
    first, positive = pairs.anchor[item], pairs.positive[item]
    return RungScores(
        item=item,
        first=first,
        positive_word=positive,
        negative_word=negative,
        is_novel=pairs.is_novel[item],
        positive=score(first, positive),
        negative=score(first, negative),
    )


def by_frequency(found: RungScores, n_lines: Floats) -> dict[str, NDArray[np.bool_]]:
    """Return rows of a rung by the training lines of the rarer word of the positive."""
    rarer = np.minimum(n_lines[found.first], n_lines[found.positive_word])
    edges = {"0 lines": (0, 0), "1 to 9 lines": (1, 9), "10 to 99 lines": (10, 99), "100 lines or more": (100, np.inf)}
    return {name: (rarer >= low) & (rarer <= high) for name, (low, high) in edges.items()}


def by_pieces(found: RungScores, n_pieces: Ints) -> dict[str, NDArray[np.bool_]]:
    """Return rows of a rung by the number of tokens of the longer word of the positive."""
    longer = np.maximum(n_pieces[found.first], n_pieces[found.positive_word])
    edges = {"1 token": (1, 1), "2 tokens": (2, 2), "3 or 4 tokens": (3, 4), "5 tokens or more": (5, np.inf)}
    return {name: (longer >= low) & (longer <= high) for name, (low, high) in edges.items()}
