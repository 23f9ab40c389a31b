import re
from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest

import tiny
from commbert import tables
from commbert.artifacts import write_json
from commbert.corpus.reading import ShardSplits, split_of_files, splits_of_shards, total_counts
from commbert.errors import DataError
from commbert.settings.words import WordSettings
from commbert.stages import lex

WORDS = ["harq", "HARQ", "rlc", "mac_id", "x", "信道", "the", "7", "=", "café", "a->b", "\x00"]


def write_files(path, splits):
    """Write the table corpus/files; a split of "" is a dropped file."""
    n = len(splits)
    numbers = {k: np.zeros(n, np.uint64) for k in ("n_bytes", "n_lines", "n_secrets")}
    numbers |= {f"n_{k}_lines": np.ones(n, np.uint32) for k in ("used", "blank", "long", "licence")}
    texts = {k: [k] * n for k in ("source", "path", "language", "encoding", "sha256")}
    columns = {**numbers, **texts, "file_id": np.arange(n), "split": splits, "kept": [bool(s) for s in splits]}
    tables.write(path, tables.FILES, {**columns, "reason": ["" if s else "binary" for s in splits]}, provenance={})


def write_lines(path, files):
    """Write the table shard/lines of files, each a list of lines."""
    rows = [(i, k + 1, line) for i, lines in enumerate(files) for k, line in enumerate(lines)]
    text = [line for *_, line in rows]
    columns = {"file_no": [r[0] for r in rows], "line_no": [r[1] for r in rows], "indent": [0] * len(rows)}
    columns |= {"text": text, "code": text}
    tables.write(path, tables.LINES, columns if rows else tables.LINES.schema.empty_table(), provenance={})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.write_tokenizer(folder)
    return folder


class Corpus:
    """Shards of random files, lexed, with the table of files that goes with them."""

    def __init__(self, at, base, *, seed=17, sizes=(5, 0, 9, 1)):
        rng = np.random.default_rng(seed)

        def line():
            return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), rng.integers(0, 7)))

        self.shards = {
            f"s-{i}": [[line() for _ in range(rng.integers(0, 8))] for _ in range(n)] for i, n in enumerate(sizes)
        }
        n_files = sum(sizes)
        self.splits = [["train", "validation", "test", "", "train"][i] for i in rng.integers(0, 5, n_files)]
        self.files, self.list = at / "files.parquet", at / "shards.json"
        write_files(self.files, self.splits)
        write_json(self.list, [{"shard": name, "files": len(files)} for name, files in self.shards.items()])
        self.folders = {name: at / name for name in self.shards}
        for name, files in self.shards.items():
            write_lines(at / f"{name}.parquet", files)
            lex.run(WordSettings(), base=base, lines=at / f"{name}.parquet", out=self.folders[name])

    def counts(self, kind):
        frame = total_counts(self.files, self.list, self.folders, kind)
        return {row["word"]: (row["n"], row["n_files"], row["n_heldout"]) for row in frame.to_dicts()}

    def naive(self, strings_of):
        """Count line by line what ``strings_of`` finds in each."""
        n, n_files, n_heldout = Counter(), defaultdict(set), Counter()
        every = [lines for files in self.shards.values() for lines in files]
        for file, (lines, split) in enumerate(zip(every, self.splits, strict=True)):
            for string in (s for line in lines for s in strings_of(line)):
                if split == "train":
                    n[string] += 1
                    n_files[string].add(file)
                elif split:
                    n_heldout[string] += 1
        return {s: (n[s], len(n_files[s]), n_heldout[s]) for s in {*n, *n_heldout}}


@pytest.fixture(scope="module")
def corpus(base, tmp_path_factory):
    return Corpus(tmp_path_factory.mktemp("corpus"), base)


def test_words_are_counted_by_lines_of_kept_files(corpus):
    expected = corpus.naive(
        lambda line: {w for w in re.findall(r"\b[a-zA-Z_][a-zA-Z0-9_]*\b", line.lower()) if len(w) > 1}
    )
    assert corpus.counts("word") == expected
    assert len(expected) >= 4


def test_pretokens_are_counted_by_occurrences_in_kept_files(corpus):
    cut = {
        "HARQ": ["harq"],
        "mac_id": ["mac", "_", "id"],
        "信道": ["信", "道"],
        "café": ["cafe"],
        "a->b": ["a", "-", ">", "b"],
        "\x00": [],
    }
    expected = corpus.naive(lambda line: [p for word in line.split(" ") if word for p in cut.get(word, [word])])
    assert corpus.counts("pretoken") == expected
    assert max(n for n, _, _ in expected.values()) > max(n for _, n, _ in expected.values())


def test_counts_have_the_types_that_the_tables_hold(corpus):
    frame = total_counts(corpus.files, corpus.list, corpus.folders, "word")
    assert dict(frame.schema) == {"n": pl.UInt64, "n_files": pl.UInt32, "n_heldout": pl.UInt64, "word": pl.String}


def test_a_word_of_dropped_files_only_is_not_counted(base, tmp_path):
    write_files(tmp_path / "f", ["train", "", "test"])
    write_json(tmp_path / "s", [{"shard": "a", "files": 3}])
    write_lines(tmp_path / "lines", [["kept kept kept"], ["lost kept"], ["heldout", "heldout"]])
    lex.run(WordSettings(), base=base, lines=tmp_path / "lines", out=tmp_path / "a")
    word = total_counts(tmp_path / "f", tmp_path / "s", {"a": tmp_path / "a"}, "word")
    assert {r["word"]: (r["n"], r["n_files"], r["n_heldout"]) for r in word.to_dicts()} == {
        "kept": (1, 1, 0),
        "heldout": (0, 0, 2),
    }
    pretoken = total_counts(tmp_path / "f", tmp_path / "s", {"a": tmp_path / "a"}, "pretoken")
    assert {r["word"]: (r["n"], r["n_heldout"]) for r in pretoken.to_dicts()} == {"kept": (3, 0), "heldout": (0, 2)}


@pytest.mark.parametrize("n", [1, 40])
def test_counts_do_not_depend_on_the_lines_read_at_once(base, tmp_path, monkeypatch, n):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole = Corpus(tmp_path / "one", base, seed=3)
    monkeypatch.setattr(lex, "_LINES_AT_ONCE", n)
    monkeypatch.setattr(tables, "_ROW_GROUP", 3)
    pieces = Corpus(tmp_path / "two", base, seed=3)
    assert pieces.counts("word") == whole.counts("word")
    assert pieces.counts("pretoken") == whole.counts("pretoken")


def test_a_shard_older_than_the_corpus_is_refused_with_its_folder(corpus, tmp_path):
    write_files(tmp_path / "f", corpus.splits[:-1])
    entries = [{"shard": name, "files": len(files)} for name, files in corpus.shards.items()]
    entries[2]["files"] -= 1
    write_json(tmp_path / "s", entries)
    # The last file of the shard has lines.
    assert corpus.shards["s-2"][-1]
    with pytest.raises(DataError, match=r"s-2: the files are not those of the corpus\. Rerun"):
        total_counts(tmp_path / "f", tmp_path / "s", corpus.folders, "pretoken")


def test_each_shard_knows_where_its_files_went(tmp_path):
    write_files(tmp_path / "f", ["train", "", "test", "validation", "train"])
    write_json(tmp_path / "s", [{"shard": "b", "files": 2}, {"shard": "empty", "files": 0}, {"shard": "a", "files": 3}])
    found = splits_of_shards(tmp_path / "f", tmp_path / "s")
    assert {name: (s.first_file_id, s.split.tolist()) for name, s in found.items()} == {
        "b": (0, [0, -1]),
        "empty": (2, []),
        "a": (2, [2, 1, 0]),
    }
    assert split_of_files(tmp_path / "f").tolist() == [0, -1, 2, 1, 0]


def test_the_splits_of_some_files_come_in_their_order(tmp_path):
    splits = ShardSplits(5, np.array([0, -1, 2], np.int8))
    assert splits.of(np.array([2, 0, 0, 1], np.uint32), tmp_path).tolist() == [2, 0, 0, -1]
    assert splits.of(np.empty(0, np.uint32), tmp_path).tolist() == []
    with pytest.raises(DataError, match="not those of the corpus"):
        splits.of(np.array([3], np.uint32), tmp_path)
