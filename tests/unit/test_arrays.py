import numpy as np
import pytest

from commbert.arrays import distinct


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, np.uint64])
def test_distinct_values_are_those_of_a_set_sorted(kind):
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 50, 1000):
        values = rng.integers(0, 100, n).astype(kind)
        found = distinct(values)
        assert found.tolist() == sorted(set(values.tolist()))
        assert found.dtype == kind


def test_the_largest_and_smallest_numbers_stay_what_they_are():
    ends = np.array([2**64 - 1, 0, 2**63, 2**64 - 1], np.uint64)
    assert distinct(ends).tolist() == [0, 2**63, 2**64 - 1]
    assert distinct(np.array([-(2**63), 2**63 - 1, -(2**63)])).tolist() == [-(2**63), 2**63 - 1]


def test_no_values_are_no_distinct_values():
    assert distinct(np.empty(0, np.uint64)).tolist() == []


def test_the_values_given_are_left_as_they_are():
    values = np.array([3, 1, 3, 2])
    distinct(values)
    assert values.tolist() == [3, 1, 3, 2]
