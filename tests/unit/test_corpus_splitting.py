from collections import defaultdict
from pathlib import PurePosixPath

import numpy as np
import pytest

from commbert.corpus.splitting import SplitInput, split_files
from commbert.errors import DataError

SHARES = {"validation": 0.1, "test": 0.15, "seed": 17}


def files(*, n_directories=20, n_files=3, n_lines=10, source="s"):
    return [SplitInput(source, f"d{d}/f{f}.py", n_lines) for d in range(n_directories) for f in range(n_files)]


def split(inputs, links=(), **changes):
    return split_files(inputs, links, **{**SHARES, **changes})


def test_a_directory_is_never_divided():
    inputs = files()
    splits, unit = split(inputs)
    of = defaultdict(set)
    for file, name in zip(inputs, splits, strict=True):
        of[PurePosixPath(file.path).parent].add(name)
    assert unit == "directory"
    assert all(len(names) == 1 for names in of.values())


def test_directories_of_one_path_in_two_sources_are_two_directories():
    inputs = [*files(n_directories=1, source="a"), *files(n_directories=1, source="b"), *files(n_directories=1)]
    splits, unit = split(inputs)
    assert unit == "directory"
    assert len({splits[0], splits[3], splits[6]}) == 3


def test_each_split_gets_about_its_share_of_the_lines():
    splits, _ = split(files(n_directories=100))
    shares = {name: splits.count(name) / len(splits) for name in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.75, "validation": 0.1, "test": 0.15}, abs=0.02)


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    inputs = files(n_directories=40)
    assert split(inputs) == split(inputs)
    assert split(inputs) != split(inputs, seed=18)


def test_the_order_of_the_files_does_not_matter():
    inputs = files(n_directories=40)
    order = np.random.default_rng(0).permutation(len(inputs))
    splits, _ = split(inputs)
    shuffled, _ = split([inputs[i] for i in order])
    assert shuffled == [splits[i] for i in order]


def pair_and_others():
    return [SplitInput("s", f"twin{k}/f.py", 10) for k in range(3)] + files(n_directories=30, n_files=1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("link", [(0, 1), (1, 0)])
def test_directories_of_linked_files_stay_together(seed, link):
    splits, unit = split(pair_and_others(), [link], validation=0.4, test=0.4, seed=seed)
    assert (unit, splits[0]) == ("directory", splits[1])


def test_directories_of_files_that_are_not_linked_may_part():
    parted = [len(set(split(pair_and_others(), validation=0.4, test=0.4, seed=s)[0][:2])) == 2 for s in range(8)]
    assert any(parted)


@pytest.mark.parametrize("links", [[(0, 1), (1, 2)], [(1, 2), (0, 1)], [(0, 2), (1, 2)], [(2, 1), (2, 0), (0, 1)]])
def test_a_chain_of_linked_directories_stays_together(links):
    for seed in range(8):
        splits, _ = split(pair_and_others(), links, validation=0.4, test=0.4, seed=seed)
        assert len(set(splits[:3])) == 1


def test_all_files_of_linked_directories_stay_together():
    inputs = files(n_directories=20, n_files=4)  # file i stands in directory i // 4
    for seed in range(8):
        splits, _ = split(inputs, [(1, 6), (7, 9)], validation=0.4, test=0.4, seed=seed)
        assert len(set(splits[:12])) == 1


def test_random_links_never_cross_a_split():
    rng = np.random.default_rng(5)
    for seed in range(20):
        inputs = files(n_directories=40, n_files=2)
        links = rng.integers(0, len(inputs), (15, 2)).tolist()
        splits, unit = split(inputs, links, validation=0.3, test=0.3, seed=seed)
        assert unit == "directory"
        assert all(splits[a] == splits[b] for a, b in links)


def test_a_link_within_a_directory_changes_nothing():
    inputs = files()
    assert split(inputs, [(0, 1), (2, 2)]) == split(inputs)


def test_files_are_dealt_where_links_bind_all_directories_together():
    inputs = files(n_directories=4, n_files=2)
    splits, unit = split(inputs, [(0, 2), (2, 4), (4, 6)])
    assert (unit, set(splits)) == ("file", {"train", "validation", "test"})


def test_files_are_dealt_where_there_are_fewer_than_three_directories():
    splits, unit = split(files(n_directories=2, n_files=10))
    assert (unit, set(splits)) == ("file", {"train", "validation", "test"})


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_files_are_refused_with_their_number(n):
    with pytest.raises(DataError, match=f"expected at least 3 usable files, one per split, found {n}"):
        split(files(n_directories=1, n_files=n))


@pytest.mark.parametrize("seed", range(5))
def test_three_files_give_one_to_each_split(seed):
    splits, _ = split(files(n_directories=1, n_files=3), seed=seed)
    assert sorted(splits) == ["test", "train", "validation"]


@pytest.mark.parametrize(
    ("validation", "test"), [(0.1, 0.15), (0.0, 0.0), (0.04, 0.85), (0.85, 0.04), (0.44, 0.45), (0.0, 0.89)]
)
def test_no_split_is_empty_whatever_the_sizes_and_shares(validation, test):
    rng = np.random.default_rng(3)
    for n in [3, 4, 5, 8, 30] * 20:
        sizes = rng.integers(1, 100, n)
        inputs = [SplitInput("s", f"d{k}/f.py", int(size)) for k, size in enumerate(sizes)]
        splits, _ = split(inputs, validation=validation, test=test, seed=int(rng.integers(1000)))
        assert set(splits) == {"train", "validation", "test"}, sizes.tolist()


# -- Rows of tables, and splits that are said --------------------------------------------------------------------------


def rows(n, *, said=None, source="t"):
    given = said or [""] * n
    return [SplitInput(source, f"t.csv/000000/{i:09d}", 1, given[i], is_row=True) for i in range(n)]


def test_rows_of_a_table_are_dealt_one_by_one():
    splits, unit = split(rows(400))
    shares = {name: splits.count(name) / len(splits) for name in ("train", "validation", "test")}
    assert unit == "row"
    assert shares == pytest.approx({"train": 0.75, "validation": 0.1, "test": 0.15}, abs=0.01)


def test_rows_that_are_linked_stay_in_one_split():
    for seed in range(10):
        splits, _ = split(rows(60), [(0, 9), (9, 33), (1, 2)], seed=seed)
        assert len({splits[i] for i in (0, 9, 33)}) == len({splits[i] for i in (1, 2)}) == 1


def test_files_beside_a_table_are_still_dealt_by_directory():
    inputs = [*files(n_directories=10), *rows(50)]
    splits, unit = split(inputs)
    of = defaultdict(set)
    for file, name in zip(inputs[:30], splits, strict=False):
        of[PurePosixPath(file.path).parent].add(name)
    assert unit == "directory and row"
    assert all(len(names) == 1 for names in of.values())
    assert set(splits[30:]) == {"train", "validation", "test"}


def test_rows_stay_where_their_table_says_whatever_links_and_shares_say():
    said = ["train", "test", "validation", "train", "test"]
    assert split(rows(5, said=said), [(0, 1), (0, 2)]) == (said, "column")


def test_what_is_linked_to_rows_of_said_splits_is_not_trained_on_if_one_is_held_out():
    said = rows(3, said=["train", "validation", "test"])
    free = files(n_directories=40, n_files=1)
    inputs = [*said, *free]
    for seed in range(5):
        # File 3 is like the training row, 4 like the training and the validation row, 5 like all.
        links = [(0, 3), (0, 4), (1, 4)] if seed % 2 else [(0, 5), (1, 5), (2, 5)]
        splits, unit = split(inputs, links, seed=seed)
        assert splits[:3] == ["train", "validation", "test"]
        assert unit == "column and directory"
        assert splits[4 if seed % 2 else 5] == ("validation" if seed % 2 else "test")


@pytest.mark.parametrize("lacking", ["train", "validation", "test"])
def test_a_table_that_says_splits_and_has_none_of_one_is_refused(lacking):
    said = [name for name in ("train", "validation", "test") if name != lacking] * 3
    with pytest.raises(DataError, match=f"expected rows of all splits where tables say them, found none for {lacking}"):
        split(rows(6, said=said))
