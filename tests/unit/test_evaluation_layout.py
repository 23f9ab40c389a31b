"""Words in two dimensions."""

import numpy as np
import pytest

from commbert.errors import DataError
from commbert.evaluation.layout import lay_out

N = 60


def clusters(seed, order=None):
    """Return unit vectors in three bundles of 20."""
    rng = np.random.default_rng(seed)
    centres = np.eye(16)[:3] * 3
    found = (np.repeat(centres, N // 3, axis=0) + 0.2 * rng.normal(size=(N, 16))).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_words_of_one_bundle_stand_together_under_both_models():
    bundle = np.repeat(np.arange(3), N // 3)
    for layout in lay_out(clusters(0), clusters(1), seed=5):
        apart = np.linalg.norm(layout.positions[:, None] - layout.positions[None], axis=2)
        np.fill_diagonal(apart, np.inf)
        assert (bundle[apart.argmin(axis=1)] == bundle).all()
        assert layout.trustworthiness > 0.9


def test_a_second_model_that_is_the_first_one_keeps_the_picture():
    first, second = lay_out(clusters(0), clusters(0), seed=5)
    for axis in (0, 1):
        assert np.corrcoef(first.positions[:, axis], second.positions[:, axis])[0, 1] > 0.95


def test_a_second_model_is_turned_to_lie_like_the_first():
    """No rotation of its own by more than rounding brings it nearer."""
    first, second = (found.positions for found in lay_out(clusters(0), clusters(3), seed=5))
    angles = np.linspace(-np.pi, np.pi, 73)
    far = []
    for mirrored in (1, -1):
        for a in angles:
            turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) * [1, mirrored]
            far.append(np.square(second @ turn - first).sum())
    assert np.square(second - first).sum() <= min(far) * (1 + 1e-9)


def test_the_same_vectors_give_the_same_picture():
    one, two = (lay_out(clusters(0), clusters(1), seed=5) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert a.positions.tobytes() == b.positions.tobytes()


def test_trust_is_low_where_the_picture_shows_chance():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(N, 400)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    told, noisy = lay_out(clusters(0), noise, seed=5)
    assert noisy.trustworthiness < told.trustworthiness - 0.1


@pytest.mark.parametrize("n", [5, 6, 12])
def test_few_words_are_enough(n):
    for layout in lay_out(clusters(0)[:n], clusters(1)[:n], seed=5):
        assert layout.positions.shape == (n, 2)
        assert np.isfinite(layout.positions).all()
        assert 0 <= layout.trustworthiness <= 1


def test_words_whose_vectors_are_all_one_are_drawn_too():
    same = np.tile(clusters(0)[:1], (20, 1))
    for layout in lay_out(same, same, seed=5):
        assert np.isfinite(layout.positions).all()


def test_fewer_than_five_words_are_refused():
    with pytest.raises(DataError, match="at least 5 words to draw, found 4"):
        lay_out(clusters(0)[:4], clusters(1)[:4], seed=5)
