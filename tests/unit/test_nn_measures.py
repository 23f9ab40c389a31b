import math

import numpy as np
import pytest
import torch

from commbert.nn import measures
from commbert.nn.measures import auc, cosines, mlm_scores, packed_places
from equivalence.training_case import REGULAR, SPECIALS, network

torch.set_num_threads(1)
CPU = torch.device("cpu")


def test_auc_by_hand_with_ties():
    # 3 beats both, 1 ties with 1 and loses to 2: (2 + 0.5) of 4.
    assert auc(np.array([3.0, 1.0]), np.array([1.0, 2.0])) == 0.625


@pytest.mark.parametrize(
    ("positive", "negative", "expected"), [([2, 3], [0, 1], 1.0), ([0], [1, 2], 0.0), ([1], [1], 0.5)]
)
def test_auc_at_its_ends(positive, negative, expected):
    assert auc(np.array(positive, float), np.array(negative, float)) == expected


def test_auc_is_the_share_of_won_comparisons():
    rng = np.random.default_rng(0)
    p, n = rng.integers(0, 9, 60).astype(float), rng.integers(0, 9, 80).astype(float)
    won = (p[:, None] > n).mean() + 0.5 * (p[:, None] == n).mean()
    assert auc(p, n) == pytest.approx(won, rel=1e-12)


def test_auc_without_negatives_is_no_number():
    assert math.isnan(auc(np.array([1.0]), np.array([])))


def test_cosines_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    assert cosines(vectors, np.array([0, 0, 1]), np.array([1, 2, 2])) == pytest.approx([0.6, 0.0, 0.8], abs=1e-7)


def test_places_by_hand():
    # Lengths 2, 3, 1: position 0 is the first token after [CLS] of sequence 0; 5 the only one of sequence 2.
    place, sequence = packed_places(np.array([2, 3, 1]), np.array([0, 1, 2, 4, 5]))
    assert sequence.tolist() == [0, 0, 1, 1, 2]
    assert place.tolist() == [1, 2, 5, 7, 10]


@pytest.fixture(scope="module")
def windows():
    rng = np.random.default_rng(0)
    return [rng.choice(REGULAR, n) for n in (30, 3, 17, 1, 9, 9, 25)]


def _scores(windows, model=None, **changes):
    options = {"seed": 3, "rate": 0.15, "device": CPU, **changes}
    return mlm_scores(model or network(), windows, SPECIALS, **options)


def test_scores_do_not_depend_on_the_batch_size(windows):
    one, all_ = _scores(windows, batch_size=1), _scores(windows, batch_size=100)
    assert one.window.tolist() == all_.window.tolist()
    assert one.label.tolist() == all_.label.tolist()
    assert np.abs(one.loss - all_.loss).max() < 1e-4
    assert (one.rank == all_.rank).mean() > 0.9


def test_scores_come_in_the_order_of_the_windows_each_at_least_once(windows):
    found = _scores(windows).window
    assert (np.diff(found) >= 0).all()
    assert set(found.tolist()) == set(range(len(windows)))


def test_labels_are_tokens_of_their_window(windows):
    found = _scores(windows)
    assert all(label in windows[w] for w, label in zip(found.window, found.label, strict=True))


def test_places_are_those_of_the_labels_in_their_window(windows):
    for found in (_scores(windows), _scores(windows, batch_size=2)):
        rows = zip(found.window, found.place, found.label, strict=True)
        assert all(windows[window][place] == label for window, place, label in rows)
        assert len({*zip(found.window.tolist(), found.place.tolist(), strict=True)}) == len(found.place)


def test_scoring_is_repeatable_and_another_seed_hides_other_tokens(windows):
    first, again, other = _scores(windows), _scores(windows), _scores(windows, seed=4)
    assert np.array_equal(first.loss, again.loss)
    assert first.label.tolist() != other.label.tolist()


def test_scoring_leaves_the_model_in_training_mode_and_without_gradient(windows):
    model = network()
    _scores(windows, model)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_loss_and_rank_by_hand():
    logits = torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]).log()
    loss, rank = measures.loss_and_rank(logits, torch.tensor([2, 0]))
    assert loss == pytest.approx([math.log(8 / 5), math.log(8)], rel=1e-6)
    assert rank.tolist() == [0, 2]
