import numpy as np
import pytest

import tiny
from commbert.errors import DataError
from commbert.known import KnownPairs, Partners, contains, pair_keys, read_known


def keys(*pairs):
    return np.unique([pair_keys(a, b) for a, b in pairs]).astype(np.uint64)


def test_a_pair_has_one_key_in_both_orders():
    assert int(pair_keys(3, 2)) == int(pair_keys(2, 3)) == 2 * 2**32 + 3


def test_no_two_pairs_share_a_key():
    a, b = np.meshgrid(np.arange(40, dtype=np.uint32), np.arange(40, dtype=np.uint32))
    below = a < b
    assert len(np.unique(pair_keys(a[below], b[below]))) == 40 * 39 // 2


def test_the_largest_ids_do_not_overflow():
    top = np.array([2**32 - 1], np.uint32)
    assert int(pair_keys(top, top - np.uint32(1))[0]) == ((2**32 - 2) << 32) + 2**32 - 1


def test_contains_equals_membership_of_a_set():
    rng = np.random.default_rng(0)
    some = np.unique(pair_keys(rng.integers(0, 30, 60), rng.integers(0, 30, 60)))
    asked = pair_keys(rng.integers(0, 30, (50, 4)), rng.integers(0, 30, (50, 4)))
    expected = [[int(k) in set(some.tolist()) for k in row] for row in asked]
    assert contains(some, asked).tolist() == expected
    assert 0 < np.mean(expected) < 1


@pytest.mark.parametrize("n", [1, 2, 3, 100])
def test_every_key_of_a_set_stands_in_it(n):
    some = keys(*((i, 3 * i + 1) for i in range(n)))
    assert contains(some, some).all()
    assert not contains(some, some + np.uint64(1)).any()


def test_nothing_stands_in_an_empty_set():
    assert contains(np.empty(0, np.uint64), keys((1, 2), (3, 4))).tolist() == [False, False]


def test_a_key_above_all_others_is_not_found():
    assert contains(keys((1, 2)), keys((8, 9))).tolist() == [False]


def test_known_pairs_come_back_from_their_table(tmp_path):
    some = keys((7, 1), (2, 5), (0, 2**32 - 1))
    tiny.write_known(tmp_path / "known", some)
    assert np.array_equal(read_known(tmp_path / "known"), some)


def test_an_empty_set_of_known_pairs_comes_back_empty(tmp_path):
    tiny.write_known(tmp_path / "known", np.empty(0, np.uint64))
    assert read_known(tmp_path / "known").tolist() == []


def test_a_missing_table_of_known_pairs_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="known"):
        read_known(tmp_path / "known")


@pytest.mark.parametrize("n", [0, 1, 7, 5000])
def test_known_pairs_are_those_of_the_set_and_no_others(n):
    rng = np.random.default_rng(n)
    keys = np.unique(rng.integers(0, 2**63, n).astype(np.uint64))
    others = rng.integers(0, 2**63, 2000).astype(np.uint64)
    asked = rng.permutation(np.concatenate([keys, others, keys[:3] + np.uint64(1)]))
    assert KnownPairs(keys).has(asked).tolist() == np.isin(asked, keys).tolist()


@pytest.mark.parametrize("n_pairs", [0, 1, 400])
def test_partners_of_a_batch_are_those_that_a_search_for_each_pair_finds(n_pairs):
    rng = np.random.default_rng(n_pairs)
    keys = np.unique(pair_keys(rng.integers(0, 60, n_pairs), rng.integers(0, 60, n_pairs)))
    partners = Partners(keys, 60)
    for n in (0, 1, 2, 30, 60):
        words = rng.permutation(60)[:n]
        expected = contains(keys, pair_keys(words[:, None], words[None, :]))
        assert partners.among(words).tolist() == expected.tolist()
