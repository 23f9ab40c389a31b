"""Parts of a corpus by directories, and the words of each."""

import math

import numpy as np
import pytest

from commbert import tables
from commbert.corpus.areas import ELSEWHERE, areas, areas_of_words, typical

LINES = np.array([10, 10, 10, 10, 10])


def named(paths, n_lines, at_most):
    names, area = areas(paths, np.array(n_lines), at_most=at_most)
    return {path: names[a] for path, a in zip(paths, area, strict=True)}


def test_directories_above_the_first_fork_are_no_area():
    paths = ["top/src/a/x.c", "top/src/b/y.c"]
    assert named(paths, [5, 5], 4) == {"top/src/a/x.c": "top/src/a", "top/src/b/y.c": "top/src/b"}


def test_the_area_of_most_lines_is_divided_first():
    paths = ["a/x/1.c", "a/y/1.c", "b/x/1.c", "b/y/1.c"]
    found = named(paths, [1, 1, 5, 5], 3)
    assert found == {"a/x/1.c": "a", "a/y/1.c": "a", "b/x/1.c": "b/x", "b/y/1.c": "b/y"}


def test_files_in_a_divided_directory_itself_keep_its_name():
    found = named(["a/x/1.c", "a/2.c", "a/3.c"], [9, 1, 1], 8)
    assert found == {"a/x/1.c": "a/x", "a/2.c": "a", "a/3.c": "a"}


def test_files_without_a_directory_are_an_area():
    assert named(["1.c", "b/2.c"], [1, 2], 8) == {"1.c": ".", "b/2.c": "b"}


def test_what_is_too_much_goes_together_the_smallest_first():
    paths = [f"{letter}/x.c" for letter in "abcdef"]
    names, area = areas(paths, np.array([6, 1, 5, 2, 4, 3]), at_most=4)
    assert names == ["a", "c", "e", ELSEWHERE]
    assert area.tolist() == [0, 3, 1, 3, 2, 3]


@pytest.mark.parametrize("at_most", [2, 3, 5, 8])
def test_there_are_never_more_areas_than_asked_for_and_every_file_has_one(at_most):
    rng = np.random.default_rng(at_most)
    paths = ["/".join(rng.choice(list("abc"), rng.integers(0, 5))) + f"/{i}.c" for i in range(60)]
    names, area = areas(paths, rng.integers(0, 9, 60), at_most=at_most)
    assert len(names) == len(set(names)) <= at_most
    assert set(area) == set(range(len(names)))


def test_the_same_files_give_the_same_areas_in_any_order():
    paths = [f"d{i % 5}/e{i % 3}/{i}.c" for i in range(30)]
    rng = np.random.default_rng(0)
    order = rng.permutation(30)
    n_lines = rng.integers(0, 4, 30)
    straight = named(paths, n_lines, 6)
    assert named([paths[i] for i in order], n_lines[order], 6) == straight


def test_lines_of_words_are_counted_by_area_as_the_lexed_lines_say(run_shards):
    """Counted anew from the words of every line of every kept file."""
    chain = run_shards(3)
    data, words = chain.data, chain.rows("corpus/words")
    ids = np.array([w["word_id"] for w in words if w["word"].startswith(("only", "harq", "self"))])
    folders = {name: data.lexed(name) for name in data.shards}
    names, counts = areas_of_words(
        ids,
        files=data.files,
        shards=chain.at / "corpus" / "shards.json",
        folders=folders,
        corpus_words=chain.at / "corpus" / "words.parquet",
        at_most=4,
    )
    files = [row for row in chain.rows("corpus/files") if row["kept"]]
    n_lines = np.array([row["n_used_lines"] for row in files])
    expected_names, area = areas([row["path"] for row in files], n_lines, at_most=4)
    area_of = {row["file_id"]: a for row, a in zip(files, area, strict=True)}
    row_of = {words[i]["word"]: row for row, i in enumerate(ids)}
    expected = np.zeros_like(counts)
    first = 0
    for shard in chain.summary("corpus/shards"):
        lexed = folders[shard["shard"]]
        strings = tables.read(lexed / "words.parquet", tables.SHARD_WORDS)["word"].to_pylist()
        for row in tables.read(lexed / "word_counts.parquet", tables.FILE_COUNTS).to_pylist():
            file, word = first + row["file_no"], strings[row["code"]]
            if file in area_of and word in row_of:
                expected[row_of[word], area_of[file]] += row["n"]
        first += shard["files"]
    assert names == expected_names
    assert counts.tolist() == expected.tolist()
    assert counts.sum() > 0
    # A word that one directory alone has.
    assert (counts[row_of["onlyazz"]] > 0).sum() == 1


def test_the_number_of_shards_changes_no_count(run_shards):
    found = []
    for n in (1, 3):
        chain = run_shards(n)
        found.append(
            areas_of_words(
                np.arange(20),
                files=chain.data.files,
                shards=chain.at / "corpus" / "shards.json",
                folders={name: chain.data.lexed(name) for name in chain.data.shards},
                corpus_words=chain.at / "corpus" / "words.parquet",
                at_most=8,
            )
        )
    assert found[0][0] == found[1][0]
    assert found[0][1].tolist() == found[1][1].tolist()


def test_a_word_that_stands_everywhere_alike_tells_nothing_and_one_of_a_single_area_most():
    counts = np.array([[50, 50], [10, 0], [0, 0], [0, 5]])
    found = typical(counts)
    assert found[2] == 0
    # 10 lines in area 0, where 60 of all 115 lines are.
    assert found[1] == pytest.approx(10 * math.log(115 / 60))
    assert found[3] == pytest.approx(5 * math.log(115 / 55))
    assert found[0] == pytest.approx(50 * math.log(50 / (100 * 60 / 115)))
