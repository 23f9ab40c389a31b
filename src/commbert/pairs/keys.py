"""Sorted sets of pair keys, larger than one would hold twice."""

from collections.abc import Iterator, Sequence

import numpy as np

from commbert.arrays import distinct
from commbert.known import Keys

_WAITING = 4_000_000


class KeySet:
    """Collects keys; each stands there once."""

    def __init__(self) -> None:
        self._parts: list[Keys] = []
        self._n = 0
        self._n_at_last = 0

    def add(self, keys: Keys) -> None:
        """Add keys, in any order."""
        self._parts.append(distinct(keys))
        self._n += len(self._parts[-1])
        if self._n > 2 * self._n_at_last + _WAITING:
            self._parts = [self.sorted()]
            self._n = self._n_at_last = len(self._parts[0])

    def sorted(self) -> Keys:
        """Return all keys, sorted."""
        return distinct(np.concatenate([np.empty(0, np.uint64), *self._parts]))


def merged(streams: Sequence[Iterator[Keys]]) -> Iterator[Keys]:
    """Merge sorted streams of distinct keys into one, holding one piece of each."""
    heads = [(next(s, None), s) for s in streams]
    live = [(head, s) for head, s in heads if head is not None and len(head)]
    while live:
        bound = min(head[-1] for head, _ in live)
        taken: list[Keys] = []
        rest: list[tuple[Keys, Iterator[Keys]]] = []
        for head, stream in live:
            cut = int(np.searchsorted(head, bound, side="right"))
            taken.append(head[:cut])
            left = head[cut:] if cut < len(head) else next(stream, None)
            if left is not None and len(left):
                rest.append((left, stream))
        yield distinct(np.concatenate(taken))
        live = rest
