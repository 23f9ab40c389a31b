"""Texts and pairs are read from files bit by bit; what cannot be read is named with its line."""

import io
from pathlib import Path

import polars as pl
import pytest

from commbert.errors import DataError, SourceError
from commbert.inference import texts
from commbert.inference.texts import AskedText, in_chunks, in_lists, named, pairs_of_lines, read_lines, read_texts


def lines_of(data):
    return list(read_lines(io.BytesIO(data), "f"))


def test_lines_keep_their_numbers_and_lose_their_ends():
    found = lines_of(b"\xef\xbb\xbfa b \r\n\n  \nc\n")
    assert [(t.text, t.where) for t in found] == [("a b ", "f, line 1"), ("c", "f, line 4")]
    assert [t.read_bytes for t in found] == [9, 15]


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"a\n\xff\n", "f, line 2: expected UTF-8"),
        (b"\n \n", "found none"),
        (b"a\nb\0\n", "f, line 2: expected text, found a NUL byte"),
    ],
)
def test_bytes_that_are_no_text_are_named(data, named):
    with pytest.raises(DataError, match=named):
        lines_of(data)


def test_a_line_without_an_end_does_not_fill_memory(monkeypatch):
    monkeypatch.setattr(texts, "MAX_TEXT_BYTES", 10)
    assert lines_of(b"123456789\n")[0].text == "123456789"
    with pytest.raises(DataError, match="line 2: expected a text of 1 MiB at most"):
        lines_of(b"a\n12345678901\n")


def test_only_what_is_asked_for_is_read():
    file = io.BytesIO(b"a\n" * 100_000)
    next(read_lines(file, "f"))
    assert file.tell() < 10


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_column_of_a_table_is_read_row_by_row(tmp_path, suffix):
    frame = pl.DataFrame({"n": [1, 2], "te{x}.t": ["null", 'a, "b"\tc\nd']})
    path = tmp_path / f"t.{suffix}"
    write = {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}
    write.get(suffix, lambda p: frame.write_csv(p, separator="\t"))(path)
    found = list(read_texts(path, "te{x}.t"))
    assert [t.text for t in found] == ["null", 'a, "b"\tc\nd']
    assert [t.where for t in found] == [f"{path}, row 1", f"{path}, row 2"]


@pytest.mark.parametrize(
    ("data", "column", "named"),
    [
        ("a,b\nx,\n", "b", "row 1: column 'b': expected a text, found an empty cell"),
        ("a,b\n", "b", "at least one row"),
        ("a,b\nx,y\n", "c", "expected a column 'c'"),
        ('a,b\nx,"y\n', "b", "line 2: a quote that opens in this row is never closed"),
        ("a,a\nx,y\n", "a", "'a' twice"),
        ("a,b\nx\n", "a", "line 2: expected 2 cells"),
    ],
)
def test_a_table_that_cannot_be_told_for_sure_is_refused(tmp_path, data, column, named):
    (tmp_path / "t.csv").write_text(data)
    with pytest.raises((DataError, SourceError), match=named):
        list(read_texts(tmp_path / "t.csv", column))


def test_files_that_hold_no_texts_are_refused(tmp_path):
    for name in ("t.txt", "t.csv", "t.jsonl"):
        (tmp_path / name).write_text("a\n")
    pl.DataFrame({"a": ["x"]}).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "no.parquet").write_bytes(b"PAR?")
    for path, column, named_so in [
        (tmp_path / "none.txt", None, "found nothing"),
        (tmp_path, None, "found a folder"),
        (tmp_path / "t.txt", "a", "--column expects a table"),
        (tmp_path / "t.parquet", None, "--column"),
        (tmp_path / "t.csv", None, "expected the column of a table's texts, found none named"),
        (tmp_path / "t.jsonl", None, "Name one with --column"),
        (tmp_path / "no.parquet", None, "expected a Parquet file"),
    ]:
        with pytest.raises(DataError, match=named_so):
            list(read_texts(path, column))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose first byte cannot be read")
def test_a_file_that_fails_while_it_is_read_is_named():
    with pytest.raises(DataError, match="/proc/self/mem: cannot be read: Input/output error"):
        list(read_texts(Path("/proc/self/mem")))


def test_pairs_are_split_at_a_tab_or_read_as_csv():
    lines = ["a b\tc, d", 'a,"b, ""c"""', '"x", y\t1']
    found = [(p.a.text, p.b.text) for p in pairs_of_lines(named(lines))]
    assert found == [("a b", "c, d"), ("a", 'b, "c"'), ('"x", y', "1")]


@pytest.mark.parametrize("line", ["a", "a,b,c", "a,", "a\t", "a\tb\tc", 'a,"b', " ,b"])
def test_a_line_that_is_no_pair_is_named(line):
    with pytest.raises(DataError, match="f, line 3: expected two"):
        list(pairs_of_lines([AskedText(line, "f, line 3")]))


def test_halves_of_characters_are_refused_by_number():
    with pytest.raises(DataError, match="text 2: expected UTF-8"):
        list(named(["ok ö", "b\udcff"]))


def test_chunks_are_limited_in_number_and_size_and_lose_nothing():
    some = list(named(["x" * n for n in (5, 1, 1, 9, 1, 1, 1)]))
    chunks = list(in_chunks(iter(some), at_most=3, chars=6))
    assert [[len(t.text) for t in chunk] for chunk in chunks] == [[5, 1], [1, 9], [1, 1, 1]]
    assert [len(c) for c in in_lists(range(7), 3)] == [3, 3, 1]
    assert list(in_lists([], 3)) == []
