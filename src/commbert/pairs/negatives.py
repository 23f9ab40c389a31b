"""Negative pairs: an anchor with a word that never shares a line with it, of three kinds of difficulty."""

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


def draw_from(pool: Ids, anchor: Ids, positive: Ids, known: KnownPairs, draws: Draws, *, kind: str) -> Ids:
    """Draw one word of the pool for each anchor: not the anchor, not its positive, never on a line with it.

    Args:
        pool: Words to draw from.
        anchor: [n] first words.
        positive: [n] second words.
        known: Pairs that share a line.
        draws: What the draws are functions of.
        kind: Draws of different kinds are independent.

    Returns:
        [n] word ids; ``NO_WORD`` where 64 draws found none.
    """

    def draw(todo: NDArray[np.int64], attempt: int) -> Ids:
        bits = counters.bits(counters.key(draws.seed, kind, attempt), draws.number[todo])
        return np.asarray(pool[(bits % np.uint64(len(pool))).astype(np.int64)])

    return _first_valid(draw if len(pool) else _nothing, anchor, positive, known)


def draw_matched(
    anchor: Ids,
    positive: Ids,
    frequency: NDArray[np.uint64],
    known: KnownPairs,
    rng: np.random.Generator,
    *,
    reach: int = 12,
) -> Ids:
    """Draw for each anchor a word of another pair's positives, about as frequent as its own.

    The negatives are taken from the positives themselves, near in the order of their frequency, so both sides of the
    task hold the same words equally often and whoever looks at the second word only can do no better than chance.

    Args:
        anchor: [n] first words.
        positive: [n] second words.
        frequency: [n_words] training lines of each word.
        known: Pairs that share a line anywhere.
        rng: Source of the draws.
        reach: How far, in ranks, the first draws look; doubles with every 16 draws in vain.
    """
    order = np.lexsort((rng.random(len(positive)), frequency[positive]))
    ranked = positive[order]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))

    def near(todo: NDArray[np.int64], attempt: int) -> Ids:
        far = reach << (attempt // 16)
        step = rng.integers(1, far + 1, len(todo)) * rng.choice([-1, 1], len(todo))
        at = rank[todo] + step
        last = len(ranked) - 1
        return np.asarray(ranked[np.where(at < 0, -at, np.where(at > last, 2 * last - at, at)).clip(0, last)])

    return _first_valid(near, anchor, positive, known)


def _nothing(todo: NDArray[np.int64], _: int) -> Ids:
    return np.full(len(todo), NO_WORD, np.uint32)


def _first_valid(draw: Callable[[NDArray[np.int64], int], Ids], anchor: Ids, positive: Ids, known: KnownPairs) -> Ids:
    out = np.full(len(anchor), NO_WORD, np.uint32)
    todo = np.arange(len(anchor))
    for attempt in range(_TRIES):
        if len(todo) == 0:
            break
        word = draw(todo, attempt).astype(np.uint32)
        a = anchor[todo]
        wrong = (word == a) | (word == positive[todo]) | known.has(pair_keys(a, word))
        out[todo[~wrong]] = word[~wrong]
        todo = todo[wrong]
    return out
