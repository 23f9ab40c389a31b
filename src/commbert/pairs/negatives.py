"""Negative pairs: an anchor with a word that never shares a line with it, of kinds of different difficulty."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commbert import counters
from commbert.known import KnownPairs, pair_keys
from commbert.pairs.positives import Ids

_TRIES = 64
NO_WORD = np.uint32(0xFFFFFFFF)
"""Stands where no negative was found."""


@dataclass(frozen=True)
class Draws:
    """What random draws are functions of, so that they do not depend on what was drawn before."""

    number: NDArray[np.uint64]
    """[n] a number of each pair."""
    seed: int


def draw_from(
    pool: Ids,
    anchor: Ids,
    positive: Ids,
    known: KnownPairs,
    draws: Draws,
    *,
    kind: str,
    weight: NDArray[np.float64] | None = None,
) -> Ids:
    """Draw one word of the pool for each anchor: not the anchor, not its positive, never on a line with it.

    Args:
        pool: Words to draw from.
        anchor: [n] first words.
        positive: [n] second words.
        known: Pairs that share a line.
        draws: What the draws are functions of.
        kind: Draws of different kinds are independent.
        weight: [n_pool] what a word's chance is in proportion to, above 0; None: all are equally likely.

    Returns:
        [n] word ids; ``NO_WORD`` where 64 draws found none.
    """
    ends = None if weight is None else np.cumsum(weight)

    def draw(todo: NDArray[np.int64], attempt: int) -> Ids:
        stream, number = counters.key(draws.seed, kind, attempt), draws.number[todo]
        if ends is None:
            return np.asarray(pool[(counters.bits(stream, number) % np.uint64(len(pool))).astype(np.int64)])
        at = np.searchsorted(ends, counters.uniform(stream, number) * ends[-1], side="right")
        return np.asarray(pool[np.minimum(at, len(pool) - 1)])

    return first_valid(draw if len(pool) else _nothing, anchor, positive, known)


def _nothing(todo: NDArray[np.int64], _: int) -> Ids:
    return np.full(len(todo), NO_WORD, np.uint32)


def first_valid(
    draw: Callable[[NDArray[np.int64], int], Ids],
    anchor: Ids,
    positive: Ids,
    known: KnownPairs,
    *,
    taken: Ids | None = None,
) -> Ids:
    """Draw until each anchor has a word that is neither itself nor its positive and never on a line with it.

    Args:
        draw: Gives a word, or ``NO_WORD`` where there is none to draw, for rows and the number of the attempt.
        anchor: [n] first words.
        positive: [n] second words.
        known: Pairs that share a line.
        taken: [n, k] words that an anchor has already.

    Returns:
        [n] word ids; ``NO_WORD`` where 64 draws found none.
    """
    out = np.full(len(anchor), NO_WORD, np.uint32)
    todo = np.arange(len(anchor))
    for attempt in range(_TRIES):
        if len(todo) == 0:
            break
        word = draw(todo, attempt).astype(np.uint32)
        a = anchor[todo]
        wrong = (word == a) | (word == positive[todo]) | known.has(pair_keys(a, word))
        if taken is not None:
            wrong |= ((taken[todo] == word[:, None]) & (word != NO_WORD)[:, None]).any(1)
        out[todo[~wrong]] = word[~wrong]
        todo = todo[wrong]
    return out
