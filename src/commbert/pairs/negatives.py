"""Negative pairs: an anchor with a word that never shares a line with it, of three kinds of difficulty."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from commbert.known import Keys, contains, pair_keys
from commbert.pairs.positives import Ids

_TRIES = 64
NO_WORD = np.uint32(0xFFFFFFFF)
"""Stands where no negative was found."""


def draw_from(pool: Ids, anchor: Ids, positive: Ids, known: Keys, rng: np.random.Generator) -> Ids:
    """Draw one word of the pool for each anchor: not the anchor, not its positive, never on a line with it.

    Returns:
        [n] word ids; ``NO_WORD`` where 64 draws found none.
    """
    return _first_valid(lambda todo: rng.choice(pool, len(todo)), anchor, positive, known)


def draw_matched(
    anchor: Ids, positive: Ids, frequency: NDArray[np.uint64], known: Keys, rng: np.random.Generator, *, reach: int = 12
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
    tries = iter(range(_TRIES))

    def near(todo: NDArray[np.int64]) -> Ids:
        far = reach << (next(tries) // 16)
        step = rng.integers(1, far + 1, len(todo)) * rng.choice([-1, 1], len(todo))
        at = rank[todo] + step
        last = len(ranked) - 1
        return np.asarray(ranked[np.where(at < 0, -at, np.where(at > last, 2 * last - at, at)).clip(0, last)])

    return _first_valid(near, anchor, positive, known)


def _first_valid(draw: Callable[[NDArray[np.int64]], Ids], anchor: Ids, positive: Ids, known: Keys) -> Ids:
    out = np.full(len(anchor), NO_WORD, np.uint32)
    todo = np.arange(len(anchor))
    for _ in range(_TRIES):
        if len(todo) == 0:
            break
        word = draw(todo).astype(np.uint32)
        a = anchor[todo]
        wrong = (word == a) | (word == positive[todo]) | contains(known, pair_keys(a, word))
        out[todo[~wrong]] = word[~wrong]
        todo = todo[wrong]
    return out
