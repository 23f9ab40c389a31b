"""Which windows are read side by side for next-sentence prediction."""

import numpy as np
import pytest

from commbert.sentences import IS_NEXT, IS_RANDOM, Documents


def _documents(*files):
    """Return documents of windows given as (first, last) line, file by file."""
    rows = [(number, first, last) for number, windows in enumerate(files) for first, last in windows]
    return Documents.of(*(np.array(column, np.int64) for column in zip(*rows, strict=True)))


def _slow_following(files):
    """Return for each window the number of the next one of its file that begins behind it, or -1."""
    found, before = [], 0
    for windows in files:
        for i, (_, last) in enumerate(windows):
            later = [j for j in range(i + 1, len(windows)) if all(w[0] > last for w in windows[j:])]
            found.append(before + later[0] if later else -1)
        before += len(windows)
    return found


def test_a_window_is_followed_by_the_next_one_without_a_line_of_it():
    overlapping = [(1, 3), (1, 4), (2, 5), (3, 6), (4, 7), (6, 9)]
    assert _documents(overlapping).following.tolist() == [4, 5, 5, -1, -1, -1]


def test_nothing_follows_across_files():
    assert _documents([(1, 3), (4, 6)], [(7, 9), (10, 12)]).following.tolist() == [1, -1, 3, -1]


def test_a_window_that_lost_its_first_lines_does_not_hide_a_shared_line():
    # The third window begins before the second one does.
    files = [[(1, 4), (6, 7), (3, 8), (9, 12)]]
    assert _documents(*files).following.tolist() == _slow_following(files) == [3, 3, 3, -1]


@pytest.mark.parametrize("seed", range(30))
def test_what_follows_is_what_a_plain_search_finds(seed):
    rng = np.random.default_rng(seed)
    files = []
    for _ in range(rng.integers(1, 6)):
        centres = np.sort(rng.choice(60, rng.integers(1, 12), replace=False)) + 1
        files.append([(int(max(1, c - rng.integers(0, 4))), int(c + rng.integers(0, 4))) for c in centres])
    assert _documents(*files).following.tolist() == _slow_following(files)


def _many():
    return _documents(*[[(2 * i, 2 * i + 1) for i in range(n)] for n in (1, 5, 9, 3, 40)])


def test_half_of_the_pairs_follow_each_other_and_the_labels_say_which():
    documents = _many()
    first = np.repeat(documents.firsts, 200)
    pairs = documents.pairs(first, np.tile(np.arange(200), len(documents.firsts)), seed=3)
    follows = pairs.second == documents.following[first]
    assert (follows == (pairs.label == IS_NEXT)).all()
    # 10,600 draws: three standard deviations are 1.5 %.
    assert abs((pairs.label == IS_RANDOM).mean() - 0.5) < 0.015


def test_random_sentences_come_evenly_from_all_other_files():
    documents = _many()
    file_no = np.repeat(np.arange(5), (1, 5, 9, 3, 40))
    first = np.full(40_000, documents.firsts[0])
    pairs = documents.pairs(first, np.arange(40_000), seed=3)
    drawn = pairs.second[pairs.label == IS_RANDOM]
    assert (file_no[drawn] != file_no[first[0]]).all()
    counts = np.bincount(drawn, minlength=58)[file_no != file_no[first[0]]]
    expected = len(drawn) / len(counts)
    # Chi-square of 52 degrees of freedom lies below 87 with 99.8 %.
    assert ((counts - expected) ** 2 / expected).sum() < 87


def test_every_epoch_and_seed_draws_anew_and_the_same_draw_is_the_same():
    documents = _many()
    first, zero = documents.firsts, np.zeros_like(documents.firsts)
    one = documents.pairs(first, zero, seed=3)
    again = documents.pairs(first[::-1], zero, seed=3)
    assert (again.second[::-1] == one.second).all()
    assert (again.label[::-1] == one.label).all()
    for other in (documents.pairs(first, zero + 1, seed=3), documents.pairs(first, zero, seed=4)):
        assert (other.label != one.label).any()
        assert (other.second != one.second).any()


def test_one_file_or_windows_that_nothing_follows_give_no_pairs():
    assert not _documents([(1, 2), (3, 4), (5, 6)]).gives_pairs
    assert not _documents([(1, 2)], [(1, 2)]).gives_pairs
    assert _documents([(1, 2), (3, 4)], [(1, 2)]).gives_pairs
    nothing = np.empty(0, np.int64)
    assert not Documents.of(nothing, nothing, nothing).gives_pairs


def test_rows_are_first_and_second_by_turns():
    documents = _many()
    pairs = documents.pairs(documents.firsts[:3], np.zeros(3, np.int64), seed=3)
    assert pairs.rows.tolist() == [n for both in zip(pairs.first, pairs.second, strict=True) for n in both]
