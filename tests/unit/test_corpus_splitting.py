from collections import defaultdict
from pathlib import PurePosixPath

import numpy as np
import pytest

from commbert.corpus.splitting import SplitInput, split_files
from commbert.errors import DataError

SHARES = {"validation": 0.1, "test": 0.15, "max_shared_lines": 0.5, "seed": 17}


def files(*, n_directories=20, n_files=3, n_lines=10, source="s"):
    return [
        SplitInput(source, f"d{d}/f{f}.py", [f"this is line {i} of file {f} of {source} {d}" for i in range(n_lines)])
        for d in range(n_directories)
        for f in range(n_files)
    ]


def split(inputs, **changes):
    return split_files(inputs, **{**SHARES, **changes})


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


def shared(n_shared, *, n_lines=10):
    lines = [f"a long line that stands in both files {i}" for i in range(n_shared)]
    pair = [
        SplitInput(
            "s", f"twin{k}/f.py", lines + [f"a long line of twin {k} alone {i}" for i in range(n_lines - n_shared)]
        )
        for k in range(2)
    ]
    return [*pair, *files(n_directories=30, n_files=1)]


@pytest.mark.parametrize("seed", range(8))
def test_directories_that_share_most_lines_stay_together(seed):
    splits, _ = split(shared(6), validation=0.4, test=0.4, seed=seed)
    assert splits[0] == splits[1]


def test_directories_that_share_half_of_their_lines_may_part():
    parted = [len(set(split(shared(5), validation=0.4, test=0.4, seed=s)[0][:2])) == 2 for s in range(8)]
    assert any(parted)


def test_a_chain_of_alike_directories_stays_together():
    def lines(*numbers):
        return [f"a long line with the number {n}" for n in numbers]

    chain = [
        SplitInput("s", "x/f.py", lines(1, 2, 3)),
        SplitInput("s", "y/f.py", lines(2, 3, 4)),
        SplitInput("s", "z/f.py", lines(3, 4, 5)),
    ]
    for seed in range(8):
        splits, _ = split([*chain, *files(n_directories=30, n_files=1)], validation=0.4, test=0.4, seed=seed)
        assert len(set(splits[:3])) == 1


def test_short_lines_bind_nothing_together():
    inputs = [SplitInput("s", f"d{k}/f.py", ["else:", "return 0", "}"]) for k in range(3)]
    splits, unit = split(inputs)
    assert (unit, len(set(splits))) == ("directory", 3)


def test_a_line_of_more_than_twenty_files_binds_nothing_together():
    header = ["Licensed under the terms of nothing in particular"]
    inputs = [SplitInput("s", f"d{k}/f.py", header) for k in range(21)]
    splits, unit = split(inputs)
    assert (unit, len(set(splits))) == ("directory", 3)


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
        inputs = [SplitInput("s", f"d{k}/f.py", ["x"] * int(size)) for k, size in enumerate(sizes)]
        splits, _ = split(inputs, validation=validation, test=test, seed=int(rng.integers(1000)))
        assert set(splits) == {"train", "validation", "test"}, sizes.tolist()
