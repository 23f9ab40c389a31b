import itertools
from collections import Counter

import numpy as np
import pytest

from commbert.corpus import duplicates
from commbert.corpus.duplicates import exact_copies, jaccard, linked_files, near_copies


def hashes(*values):
    return np.array(sorted(set(values)), np.uint64)


def share(a, b):
    a, b = set(a.tolist()), set(b.tolist())
    return len(a & b) / max(len(a | b), 1)


# -- Exact copies ------------------------------------------------------------------------------------------------------


def test_a_copy_names_the_first_file_of_its_bytes():
    assert exact_copies(["x", "y", "x", "x", "y"], [True] * 5) == {2: 0, 3: 0, 4: 1}


def test_a_file_that_is_not_usable_is_no_copy_and_has_none():
    assert exact_copies(["x", "x", "x", "x"], [False, True, False, True]) == {3: 1}


def test_no_files_have_no_copies():
    assert exact_copies([], []) == {}


# -- Near copies -------------------------------------------------------------------------------------------------------


def jittered(rng, original, wanted):
    """Return a set that shares about the wanted part of its lines with the original."""
    n = len(original)
    n_changed = round(n * (1 - wanted) / (1 + wanted))  # n - c of n + c are equal
    keep = rng.choice(original, n - n_changed, replace=False)
    return hashes(*keep.tolist(), *rng.integers(0, 2**63, n_changed).tolist())


def planted(shares, *, n_files=300, n_lines=(40, 120), seed=17):
    """Return random sets of lines, among them near copies of earlier ones."""
    rng = np.random.default_rng(seed)
    common = rng.integers(0, 2**63, 400)
    files = []
    for i in range(n_files):
        if i > 100 and i % 3 == 0:
            files.append(jittered(rng, files[int(rng.integers(0, 100))], shares[i // 3 % len(shares)]))
        else:
            size = int(rng.integers(*n_lines))
            files.append(hashes(*rng.integers(0, 2**63, size).tolist(), *rng.choice(common, 20).tolist()))
    return files


def greedy(files, threshold):
    """The plain way: each file is compared with all earlier ones that stay."""
    kept, found = [], {}
    for i, lines in enumerate(files):
        best, twin = max(((share(lines, files[j]), -j) for j in kept), default=(0.0, 0))
        if best >= threshold and len(lines) >= 5:
            found[i] = (-twin, best)
        else:
            kept.append(i)
    return found


@pytest.mark.parametrize(
    ("threshold", "shares"), [(0.9, (0.8, 0.9, 0.95, 0.99)), (0.8, (0.7, 0.8, 0.9)), (0.5, (0.4, 0.55, 0.7))]
)
def test_near_copies_are_those_that_comparing_all_pairs_finds(threshold, shares):
    # A band agrees with certainty but for one pair in ten thousand at 0.9; at 0.5 with bands of two: 1e-8.
    files = planted(shares)
    expected = greedy(files, threshold)
    found = near_copies(range(len(files)), files, threshold)
    assert found == {i: (j, pytest.approx(s)) for i, (j, s) in expected.items()}
    assert len(found) > 20


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.8, 0.85, 0.9, 1.0])
def test_no_near_copy_is_below_the_threshold(threshold):
    files = planted((0.5, 0.6, 0.8, 0.9, 0.95, 1.0), seed=18)
    found = near_copies(range(len(files)), files, threshold)
    assert found
    for i, (j, told) in found.items():
        assert j < i
        assert j not in found
        assert told == pytest.approx(share(files[i], files[j]))
        assert told >= threshold


def test_a_near_copy_names_the_file_it_is_most_like():
    base = list(range(1000, 1100))
    files = [hashes(*base[:92], *range(8)), hashes(*base[:97], *range(50, 53)), hashes(*base)]
    assert near_copies(range(3), files, 0.8)[1][0] == 0
    files[1] = hashes(*base[:97], *range(300, 400), *range(500, 600))  # no copy of file 0 any more
    assert near_copies(range(3), files, 0.8) == {2: (0, pytest.approx(92 / 108))}


def test_of_two_files_that_are_equally_like_it_the_earlier_is_named():
    base = list(range(1000, 1100))
    # The two differ from the copy in 12 lines each, and in 24 of each other.
    one, two = hashes(*base[12:], *range(12)), hashes(*base[:88], *range(20, 32))
    found = near_copies(range(3), [one, two, hashes(*base)], 0.75)
    assert found == {2: (0, pytest.approx(88 / 112))}


def test_a_chain_of_copies_names_files_that_stay():
    # Each is 0.905 like the one before and 0.82 like the one before that.
    base = list(range(100))
    chain = [hashes(*base[5 * k :], *range(1000, 1000 + 5 * k)) for k in range(4)]
    assert share(chain[0], chain[1]) > 0.9 > share(chain[0], chain[2])
    found = near_copies(range(4), chain, 0.9)
    assert {i: j for i, (j, _) in found.items()} == {1: 0, 3: 2}


def test_only_candidates_take_part():
    lines = hashes(*range(50))
    assert near_copies([1, 3], [lines] * 4, 0.9) == {3: (1, 1.0)}
    assert near_copies([], [lines] * 4, 0.9) == {}


def test_files_of_fewer_than_five_long_lines_are_no_near_copies():
    assert near_copies([0, 1], [hashes(1, 2, 3, 4)] * 2, 0.5) == {}
    assert near_copies([0, 1], [hashes(1, 2, 3, 4, 5)] * 2, 0.5) == {1: (0, 1.0)}
    assert near_copies([0, 1], [hashes()] * 2, 0.5) == {}


def test_the_share_of_equal_lines_is_jaccards():
    assert jaccard(hashes(1, 2, 3), hashes(2, 3, 4)) == 0.5
    assert jaccard(hashes(1), hashes(2)) == 0.0
    assert jaccard(hashes(), hashes()) == 0.0
    assert jaccard(hashes(1, 2), hashes(1, 2)) == 1.0


# -- Files that share many lines ---------------------------------------------------------------------------------------


def naive_links(files, max_shared):
    n_files = Counter(line for lines in files for line in lines.tolist())
    out = []
    for a, b in itertools.combinations(range(len(files)), 2):
        both = {x for x in set(files[a].tolist()) & set(files[b].tolist()) if n_files[x] <= 20}
        if both and len(both) > max_shared * min(len(files[a]), len(files[b])):
            out.append((a, b))
    return out


def random_files(rng, n_files=60, n_values=300):
    weight = 1 / np.arange(1, n_values + 1)
    sizes = rng.integers(0, 30, n_files)
    return [hashes(*rng.choice(n_values, size, p=weight / weight.sum()).tolist()) for size in sizes]


@pytest.mark.parametrize("max_shared", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("at_once", [1, 100, 2_000_000])
def test_linked_files_are_those_that_comparing_all_pairs_finds(monkeypatch, max_shared, at_once):
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", at_once)
    for seed in range(3):
        files = random_files(np.random.default_rng(seed))
        expected = naive_links(files, max_shared)
        assert linked_files(files, max_shared) == expected
        assert expected or max_shared >= 0.5


def test_half_of_the_lines_bind_nothing_and_more_than_half_do():
    one = hashes(*range(10))
    assert linked_files([one, hashes(*range(5, 15))], 0.5) == []
    assert linked_files([one, hashes(*range(4, 14))], 0.5) == [(0, 1)]
    assert linked_files([one, hashes(*range(7, 12))], 0.5) == [(0, 1)]  # three of the smaller one's five


def test_a_line_of_twenty_files_binds_and_one_of_more_does_not():
    twenty = [hashes(7, 100 + i) for i in range(20)]
    assert len(linked_files(twenty, 0.4)) == 190
    assert linked_files([*twenty, hashes(7)], 0.4) == []


@pytest.mark.parametrize("files", [[], [hashes()], [hashes(), hashes(1)], [hashes(1), hashes(2)]])
def test_files_without_common_lines_are_not_linked(files):
    assert linked_files(files, 0.0) == []
