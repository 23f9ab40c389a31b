import numpy as np
import pytest

from commbert import counters

N = 200_000


def test_splitmix64_gives_the_published_first_numbers():
    # State 0: the generator adds the golden gamma before each output; numbers from the reference implementation.
    gamma = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        states = np.arange(3, dtype=np.uint64) * gamma
    assert counters.mixed(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_uniform_numbers_have_mean_a_half_and_variance_a_twelfth():
    u = counters.uniform(counters.key(1, "x"), np.arange(N))
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / N)
    # The variance of the squared deviation of a uniform number is 1/180.
    assert abs(u.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / N)


def test_neighbouring_indices_are_uncorrelated():
    u = counters.uniform(counters.key(1, "x"), np.arange(N))
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 4 / np.sqrt(N)


def test_streams_are_uncorrelated():
    a, b = (counters.uniform(counters.key(seed, "x"), np.arange(N)) for seed in (1, 2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(N)


def test_every_bit_is_set_half_of_the_time():
    found = counters.bits(7, np.arange(N))
    shares = np.array([float(((found >> np.uint64(b)) & np.uint64(1)).mean()) for b in range(64)])
    assert np.abs(shares - 0.5).max() < 5 * 0.5 / np.sqrt(N)


def test_a_number_depends_on_its_index_and_not_on_its_place():
    index = np.array([5, 900, 3])
    stream = counters.key(3, "x")
    assert counters.bits(stream, index).tolist() == [int(counters.bits(stream, np.array([i]))[0]) for i in index]


def test_a_number_does_not_depend_on_how_wide_its_index_is_held():
    stream = counters.key(3, "x")
    expected = counters.bits(stream, np.arange(5, dtype=np.int64)).tolist()
    for kind in (np.uint8, np.int32, np.uint32, np.uint64):
        assert counters.bits(stream, np.arange(5, dtype=kind)).tolist() == expected


def test_mixing_is_one_to_one_on_what_was_looked_at():
    index = np.concatenate([np.arange(N), np.arange(N) << 32, 2**63 + np.arange(N, dtype=np.uint64)]).astype(np.uint64)
    assert len(np.unique(counters.mixed(index))) == len(np.unique(index))


def test_parts_of_a_key_do_not_run_into_each_other():
    assert len({counters.key(1, 23), counters.key(12, 3), counters.key("123"), counters.key(1, 2, 3)}) == 4


def test_a_key_is_the_same_in_every_process():
    # Python's own hash is not; the number stands for scheme 1 and must change only with it.
    assert counters.SCHEME == 1
    assert counters.key(17, "mask") == int.from_bytes(
        __import__("hashlib").blake2b(b"1\x0017\x00mask", digest_size=8).digest(), "little"
    )


def test_a_permutation_holds_every_row_once():
    assert sorted(counters.permutation(1000, 1, "order", 0)) == [*range(1000)]


@pytest.mark.parametrize("other", [(1, "order", 1), (2, "order", 0), (1, "pairs", 0)])
def test_a_permutation_differs_by_epoch_seed_and_stream(other):
    first, second = counters.permutation(1000, 1, "order", 0), counters.permutation(1000, *other)
    # Two random orders agree in one place on average.
    assert (first == second).sum() < 10


def test_a_permutation_is_repeatable():
    assert counters.permutation(50, 1, "order", 0).tolist() == counters.permutation(50, 1, "order", 0).tolist()


def test_every_row_comes_first_equally_often():
    first = np.bincount([counters.permutation(4, 1, "order", e)[0] for e in range(2000)], minlength=4)
    assert np.abs(first - 500).max() < 4 * np.sqrt(2000 * 0.25 * 0.75)
