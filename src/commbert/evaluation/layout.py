"""Word vectors in two dimensions, the same words under two models side by side."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE, trustworthiness
from threadpoolctl import threadpool_limits

from commbert.errors import DataError

Floats = NDArray[np.float64]

LEAST_WORDS = 5
_PERPLEXITY = 30.0
"""Neighbours that a word keeps its distance to, about; van der Maaten & Hinton 2008 advise 5 to 50 (section 2)."""
_START_SPREAD = 1.0e-4
"""Standard deviation of the positions that t-SNE starts from, along the first axis (ibid., algorithm 1)."""
_NEAR = 10


@dataclass(frozen=True)
class Layout:
    """Positions of words, and how far they are to be trusted."""

    positions: Floats
    """[n, 2], without unit; a turned or mirrored picture says the same."""
    trustworthiness: float
    """0 to 1, the less the more of a word's 10 nearest in the picture are not near in truth; chance is about 0.5."""


def lay_out(first: NDArray[np.float32], second: NDArray[np.float32], *, seed: int) -> tuple[Layout, Layout]:
    """Lay two models' vectors of the same words out by t-SNE; the second starts where the first one ended.

    So a word stands where it stood before unless its neighbours have changed. Runs in one thread: the same vectors give
    the same picture on one machine with the same libraries. On another machine last bits may differ, and t-SNE turns
    them into other places: compare trustworthiness there (within 0.01), not positions.

    Args:
        first: [n, h] unit vectors.
        second: [n, h2] unit vectors of the same words.
        seed: Of scikit-learn's generator; the layout itself starts from principal components.

    Raises:
        DataError: If there are fewer than 5 words.

    References: van der Maaten & Hinton 2008, JMLR 9:2579-2605 (t-SNE); Kobak & Berens 2019,
        doi:10.1038/s41467-019-13056-x (principal components as a start, one layout as the start of another); Venna &
        Kaski 2001, doi:10.1007/3-540-44668-0_68 (trustworthiness).
    """
    if len(first) < LEAST_WORDS:
        raise DataError(
            f"explore: expected at least {LEAST_WORDS} words to draw, found {len(first)}. Widen the sources."
        )
    with threadpool_limits(1):
        placed = _placed(first, _principal(first), seed)
        return _told(first, placed), _told(second, _placed(second, placed, seed))


def _principal(vectors: NDArray[np.float32]) -> Floats:
    """Return [n, 2] the first two principal components; signs such that each column's largest entry is positive."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    found = centred @ axes[:, -1:-3:-1]
    largest = found[np.abs(found).argmax(axis=0), [0, 1]]
    return np.asarray(found * np.where(largest < 0, -1.0, 1.0))


def _placed(vectors: NDArray[np.float32], start: Floats, seed: int) -> Floats:
    spread = float(start[:, 0].std()) or 1.0
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    start = (start - start.mean(axis=0)) / spread * _START_SPREAD
    model = TSNE(2, perplexity=perplexity, init=start.astype(np.float32), random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(vectors), np.float64)


def _told(vectors: NDArray[np.float32], positions: Floats) -> Layout:
    near = min(_NEAR, (len(vectors) - 1) // 2)
    return Layout(positions, float(trustworthiness(vectors, positions, n_neighbors=near)))
