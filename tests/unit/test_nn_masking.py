import numpy as np
import pytest

from commbert import counters
from commbert.nn.masking import mask_tokens

MASK, REGULAR = 4, np.arange(5, 1005)
STREAM = counters.key(17, "mask")


def _mask(windows, identity=None, **changes):
    options = {
        "stream": STREAM,
        "rate": 0.15,
        "mask_share": 0.8,
        "random_share": 0.1,
        "mask_id": MASK,
        "regular_ids": REGULAR,
    }
    lengths = np.array([len(w) for w in windows], np.int64)
    identity = np.arange(len(windows)) if identity is None else np.asarray(identity)
    ids = np.concatenate(windows) if windows else np.empty(0, np.int64)
    return mask_tokens(ids.astype(np.int64), lengths, identity.astype(np.uint64), **{**options, **changes})


@pytest.fixture(scope="module")
def many():
    """4,000 windows of 100 tokens: 400,000 places."""
    rng = np.random.default_rng(0)
    ids = rng.choice(REGULAR, (4000, 100))
    return ids.ravel(), _mask(list(ids))


def _within(count, n, rate, sigma=4):
    return abs(count - n * rate) < sigma * np.sqrt(n * rate * (1 - rate))


def test_labels_are_the_tokens_that_stood_there(many):
    ids, masked = many
    assert (masked.labels == ids[masked.positions]).all()


def test_what_is_not_predicted_is_unchanged(many):
    ids, masked = many
    others = np.setdiff1d(np.arange(len(ids)), masked.positions)
    assert (masked.input_ids[others] == ids[others]).all()


def test_the_input_is_left_alone():
    ids = np.arange(10, 60)
    lengths, identity = np.array([50]), np.array([0], np.uint64)
    mask_tokens(
        ids, lengths, identity, stream=1, rate=0.9, mask_share=1.0, random_share=0.0, mask_id=MASK, regular_ids=REGULAR
    )
    assert (ids == np.arange(10, 60)).all()


def test_the_rate_is_15_percent(many):
    ids, masked = many
    # At least one per window adds 0.85^100 windows' worth: nothing.
    assert _within(len(masked.positions), len(ids), 0.15)


def test_80_percent_become_the_mask_token(many):
    _, masked = many
    n = len(masked.positions)
    assert _within(int((masked.input_ids[masked.positions] == MASK).sum()), n, 0.8)


def test_10_percent_stay_and_10_percent_become_another_token(many):
    _, masked = many
    n = len(masked.positions)
    seen = masked.input_ids[masked.positions]
    # A random token is the right one once in 1,000 draws.
    assert _within(int((seen == masked.labels).sum()), n, 0.1 + 0.1 / 1000)
    assert _within(int(((seen != masked.labels) & (seen != MASK)).sum()), n, 0.1 * 0.999)


def test_a_random_token_is_any_regular_one_and_never_a_special(many):
    _, masked = many
    seen = masked.input_ids[masked.positions]
    random = seen[(seen != masked.labels) & (seen != MASK)]
    assert set(random.tolist()) <= set(REGULAR.tolist())
    # About 6,000 draws of 1,000 tokens leave 0.25 % of them out.
    assert len(set(random.tolist())) > 950


def test_places_and_kinds_of_replacement_are_independent(many):
    _, masked = many
    is_early = masked.positions % 100 < 50
    seen = masked.input_ids[masked.positions] == MASK
    assert _within(int(seen[is_early].sum()), int(is_early.sum()), 0.8)


def test_every_place_of_a_window_is_hidden_equally_often(many):
    _, masked = many
    counts = np.bincount(masked.positions % 100, minlength=100)
    assert np.abs(counts - 600).max() < 4.5 * np.sqrt(4000 * 0.15 * 0.85)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_every_window_has_a_predicted_token(length):
    masked = _mask([np.full(length, 9)] * 500)
    assert (np.bincount(masked.positions // length, minlength=500) >= 1).all()


def test_a_tiny_rate_predicts_exactly_one_token_per_window():
    masked = _mask([np.full(20, 9)] * 100, rate=1e-9)
    assert (masked.positions // 20).tolist() == [*range(100)]


def test_another_epoch_hides_other_tokens():
    window = [np.full(400, 9)]
    first, second = (set(_mask(window, [(e << 40) + 7]).positions.tolist()) for e in (0, 1))
    # Of 60 places about 9 agree by chance.
    assert len(first & second) < 30


def test_two_windows_of_equal_text_are_hidden_differently():
    masked = _mask([np.full(400, 9)] * 2)
    assert set(masked.positions[masked.positions < 400]) != set(masked.positions[masked.positions >= 400] - 400)


def test_a_windows_mask_does_not_depend_on_its_batch():
    rng = np.random.default_rng(0)
    windows = [rng.choice(REGULAR, n) for n in (7, 30, 12, 1)]
    together = _mask(windows, [4, 9, 2, 3])
    ends = np.cumsum([0, 7, 30, 12, 1])
    for i, (window, name) in enumerate(zip(windows, [4, 9, 2, 3], strict=True)):
        alone = _mask([window], [name])
        here = (together.positions >= ends[i]) & (together.positions < ends[i + 1])
        assert (together.input_ids[ends[i] : ends[i + 1]] == alone.input_ids).all()
        assert (together.positions[here] - ends[i]).tolist() == alone.positions.tolist()


def test_no_window_gives_no_label():
    assert len(_mask([]).labels) == 0
