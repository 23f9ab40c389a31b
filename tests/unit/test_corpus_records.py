import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commbert.corpus import parquet as parquet_module
from commbert.corpus import records
from commbert.corpus.sources import files_of, selection_of
from commbert.errors import CommbertError, SourceError
from commbert.settings.corpus import TableSource
from corpus_case import found, read, table


def put(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(path, template="{text}", **options):
    return [f.data.decode() if f.data is not None else f.reason for f in read(table(path, template), **options)]


def refused(path, message, template="{text}", **options):
    with pytest.raises(SourceError, match=message) as caught:
        read(table(path, template), **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("source s: ")


def parquet(tmp_path, columns, **options):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", **options)
    return tmp_path / "t.parquet"


SAME = {
    "t.csv": 'id,text\n1,"a ""b"", c"\n2,"two\nlines"\n3,\n',
    "t.tsv": 'id\ttext\n1\t"a ""b"", c"\n2\t"two\nlines"\n3\t\n',
    "t.jsonl": '{"id": 1, "text": "a \\"b\\", c"}\n{"id": 2, "text": "two\\nlines"}\n{"id": 3, "text": null}\n',
}


@pytest.mark.parametrize("kind", [*SAME, "t.parquet", "T.CSV"])
def test_every_kind_of_table_gives_the_same_rows(tmp_path, kind):
    if kind == "t.parquet":
        path = parquet(tmp_path, {"id": [1, 2, 3], "text": ['a "b", c', "two\nlines", None]}, row_group_size=2)
    else:
        path = put(tmp_path, SAME[kind.lower()], kind)
    assert texts(path, "{id}: {text}{{{id}}}") == ['1: a "b", c{1}', "2: two\nlines{2}", "3: {3}"]


def test_a_row_is_named_by_its_number_in_the_folder_of_its_thousand(tmp_path):
    path = put(tmp_path, "text\n" + "x\n" * 1001)
    names = [f.path for f in read(table(path))]
    assert names[0] == "t.csv/000000/000000001"
    assert names[998:] == ["t.csv/000000/000000999", "t.csv/000001/000001000", "t.csv/000001/000001001"]


def test_the_shards_hold_each_row_once(tmp_path):
    source = table(put(tmp_path, "text\n" + "".join(f"{i}\n" for i in range(9000))), shards=3)
    shards = [found(source, shard=shard) for shard in range(3)]
    assert sum(map(len, shards)) == 9000
    assert sorted(v for shard in shards for v in shard.values()) == sorted(b"%d" % i for i in range(9000))
    assert all(shards)


def test_patterns_choose_rows_by_their_names(tmp_path):
    source = table(put(tmp_path, "text\na\nb\n"), include=("*2",))
    assert found(source) == {"t.csv/000000/000000001": "not included", "t.csv/000000/000000002": b"b"}


# Templates


@pytest.mark.parametrize(
    "template",
    [
        "{text.__class__}",
        "{text[0]}",
        "{text!r}",
        "{text:>9}",
        "{text:{id}}",
        "{}",
        "{text",
        "text}",
        "{te{xt}",
        "{text!}",
    ],
)
def test_a_template_that_asks_for_more_than_a_column_is_refused(tmp_path, template):
    refused(put(tmp_path, "id,text\n1,a\n"), "template: expected columns as {name}", template)


def test_a_template_without_a_column_is_refused(tmp_path):
    refused(put(tmp_path, "text\na\n"), "template: expected a column", "text {{text}}")


def test_braces_in_a_cell_are_text(tmp_path):
    assert texts(put(tmp_path, "id,text\n{text},{id}\n"), "{id} {text} {{id}}") == ["{text} {id} {id}"]


@pytest.mark.parametrize("kind", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_missing_column_is_named_with_the_nearest(tmp_path, kind):
    path = parquet(tmp_path, {"text": ["a"]}) if kind == "t.parquet" else put(tmp_path, SAME[kind], kind)
    refused(path, r"t\..*expected a column 'txet', found none. Did you mean 'text'", "{txet}")
    refused(path, r"expected a column 'zzz', found none. There are .*'text'", "{zzz}")


# The file


def test_a_table_of_another_digest_or_kind_or_none_is_refused(tmp_path):
    path = put(tmp_path, "text\na\n")
    source = table(path)
    put(tmp_path, "text\nb\n")
    with pytest.raises(SourceError, match="source s: expected sha256"):
        read(source)
    refused(put(tmp_path, "text\n", "t.xlsx"), r"expected a table that ends in \.csv, \.tsv, \.jsonl, \.parquet")
    with pytest.raises(SourceError, match=r"source s: expected a file at .*No such file"):
        read(source.model_copy(update={"path": str(tmp_path / "none.csv")}))
    with pytest.raises(SourceError, match=r"nobody-of-that-name"):
        read(TableSource(kind="table", name="s", path="~nobody-of-that-name/x.csv", template="{a}", sha256="0" * 64))


def test_a_table_that_gives_out_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FREE_EXPANSION_BYTES", 2**20)
    path = parquet(tmp_path, {"text": ["x" * 900] * 3000})
    refused(path, "200 times its size or more: made to fill a machine")


# CSV


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_are_read_and_kept_inside_of_cells(tmp_path, end):
    assert texts(put(tmp_path, f'text{end}a{end}"b{end}c"{end}d')) == ["a", f"b{end}c", "d"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    assert texts(put(tmp_path, b"\xef\xbb\xbftext\na\n")) == ["a"]
    assert texts(put(tmp_path, b'\xef\xbb\xbf{"text": "a"}\n', "t.jsonl")) == ["a"]


def test_words_that_others_take_for_missing_values_and_numbers_are_text(tmp_path):
    words = ["null", "NA", "nan", "None", "007", "1e5", " a ", "=1+1", "#N/A", "True"]
    assert texts(put(tmp_path, "text\n" + "\n".join(words) + "\n")) == words


def test_a_quote_that_is_not_closed_is_refused_with_the_line_where_it_opens(tmp_path):
    refused(
        put(tmp_path, 'id,text\n1,a\n2,"b\n3,c\n4,d\n'),
        r"'t.csv', line 3: a quote that opens in this row is never closed",
    )


def test_a_quote_that_swallows_rows_up_to_the_next_quote_is_refused(tmp_path):
    refused(put(tmp_path, 'id,text\n1,"a\n2,b\n3,"c"\n'), "line 2: expected a row of cells")


def test_a_quote_inside_of_a_cell_without_quotes_is_text(tmp_path):
    assert texts(put(tmp_path, 'id,text\n1,5" pipe\n2,b\n')) == ['5" pipe', "b"]


@pytest.mark.parametrize(("row", "n"), [("1", 1), ("1,2,3", 3), ("1,a,", 3)])
def test_a_short_or_long_row_is_refused_with_its_line(tmp_path, row, n):
    refused(put(tmp_path, f'id,text\n0,"a\nb"\n{row}\n'), f"line 4: expected 2 cells as in the header, found {n}")


def test_a_blank_line_is_no_row_and_an_empty_cell_in_quotes_is_one(tmp_path):
    assert texts(put(tmp_path, 'text\n\na\n""\n\n')) == ["a", ""]


def test_a_column_that_stands_twice_is_refused(tmp_path):
    refused(
        put(tmp_path, "text,id,text\na,1,b\n"), "line 1: expected each column once in the header, found 'text' twice"
    )
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    refused(path, "expected each column once, found 'text' twice")


def test_a_byte_that_is_nul_or_no_utf8_is_refused_with_its_line(tmp_path):
    refused(put(tmp_path, b"text\na\nb\0c\n"), "line 3: expected text, found a NUL byte")
    refused(put(tmp_path, b"text\na\nb\n\xe9t\xe9\n"), "line 4: expected UTF-8, found other bytes")
    refused(put(tmp_path, "text\na\n".encode("utf-16")), "line 1: expected")
    refused(put(tmp_path, b'{"text": "a"}\n{"text": "\xe9"}\n', "t.jsonl"), "line 2: expected a JSON object")


def test_an_empty_table_is_refused_and_one_with_a_header_only_has_no_rows(tmp_path):
    refused(put(tmp_path, ""), "expected a header, found an empty file")
    assert texts(put(tmp_path, "text\n")) == []
    assert texts(put(tmp_path, "", "t.jsonl")) == []


def test_a_row_of_the_limit_is_read_and_a_larger_one_is_passed_over(tmp_path):
    rows = ["a" * 9, "b" * 10, '"c\nc\nccccccccc"', "d"]
    expected = ["a" * 9, "too large", "too large", "d"]
    assert texts(put(tmp_path, "text\n" + "\n".join(rows) + "\n"), max_bytes=10) == expected


def test_a_text_that_grows_too_large_by_its_template_or_encoding_is_passed_over(tmp_path):
    path = put(tmp_path, "text\nabcd\néééééé\n")
    assert texts(path, "{text}{text}{text}", max_bytes=10) == ["too large", "too large"]
    assert texts(path, max_bytes=10) == ["abcd", "too large"]


@pytest.mark.parametrize(
    "cell", [b"x" * 2**25, b'"' + (b'""' * 999 + b"\n") * 2**14 + b'"'], ids=["one line", "quotes and lines"]
)
def test_a_cell_of_32_mib_takes_no_memory_of_that_size(tmp_path, cell):
    source = table(put(tmp_path, b"text\na\n" + cell + b"\nb\n"))
    tracemalloc.start()
    files = read(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(f.data, f.reason) for f in files] == [(b"a", ""), (None, "too large"), (b"b", "")]
    assert files[1].n_bytes == pytest.approx(len(cell), abs=2)
    assert peak < 2**24


def test_cells_longer_than_the_limit_of_pythons_module_are_read(tmp_path):
    assert [len(t) for t in texts(put(tmp_path, "text\n" + "x" * 200_000), max_bytes=2**20)] == [200_000]


@pytest.mark.parametrize("n", [2**20 - 2, 2**20 - 1, 2**20, 2**20 + 1])
def test_a_quote_at_the_edge_of_a_piece_is_followed(tmp_path, n):
    cell = "x" * n + '""' + "y\n,"
    assert texts(put(tmp_path, f'text\n"{cell}"\nb\n'), max_bytes=2**22) == [cell.replace('""', '"'), "b"]


@pytest.mark.parametrize("n", [2**20 - 2, 2**20 - 1, 2**20])
def test_a_cell_whose_quote_opens_at_the_edge_of_a_piece_is_followed(tmp_path, n):
    path = put(tmp_path, f'a,b\n{"x" * n},"y\nz"\n1,2\n')
    assert texts(path, "{b}", max_bytes=2**22) == ["y\nz", "2"]


# JSON lines


def test_numbers_keep_their_spelling(tmp_path):
    lines = "".join(f'{{"text": {v}}}\n' for v in ("1.50", "1e999", "9" * 5000, "true", "null", "-0"))
    assert texts(put(tmp_path, lines, "t.jsonl"), max_bytes=9000) == ["1.50", "1e999", "9" * 5000, "true", "", "-0"]


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '"a"', '{"text": NaN}', '{"text": -Infinity}', '{"text": "a"} x', "{'text': 'a'}", "[" * 900, "\x00",
     '{"text": 1, "text": 2}'],
)  # fmt: skip
def test_a_line_that_is_no_json_object_is_refused_with_its_number(tmp_path, line):
    refused(put(tmp_path, '{"text": "a"}\n\n' + line + "\n", "t.jsonl"), "'t.jsonl', line 3: expected a JSON object")


def test_json_nested_beyond_pythons_stack_is_refused(tmp_path):
    line = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"
    refused(put(tmp_path, line, "t.jsonl"), "line 1: expected a JSON object", max_bytes=2**20)


@pytest.mark.parametrize("value", ["[1]", '{"a": 1}', "[]"])
def test_a_nested_value_is_refused_where_the_template_asks_for_it(tmp_path, value):
    path = put(tmp_path, f'{{"text": {value}, "id": 1}}\n', "t.jsonl")
    refused(path, "line 1: expected text or a number in 'text', found a list or an object")
    assert texts(path, "{id}") == ["1"]


def test_half_a_character_is_passed_over_as_no_utf8(tmp_path):
    assert texts(put(tmp_path, '{"text": "\\ud800"}\n{"text": "a"}\n', "t.jsonl")) == ["not UTF-8", "a"]


def test_a_json_line_of_32_mib_takes_no_memory_of_that_size(tmp_path):
    line = b'{"text": "' + b"x" * 2**25 + b'"}'
    source = table(put(tmp_path, line + b'\n{"text": "a"}', "t.jsonl"))
    tracemalloc.start()
    files = read(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(f.n_bytes, f.data, f.reason) for f in files] == [(len(line) + 1, None, "too large"), (1, b"a", "")]
    assert peak < 2**23


# Parquet


def test_parquet_columns_of_other_types_are_written_out_and_nested_ones_refused(tmp_path):
    columns = {
        "i": [7],
        "f": [0.5],
        "b": [True],
        "t": pa.array([0], pa.timestamp("s")),
        "d": pa.array(["x"]).dictionary_encode(),
        "l": [[1]],
        "y": [b"x"],
    }
    path = parquet(tmp_path, columns)
    assert texts(path, "{i} {f} {b} {t} {d}") == ["7 0.5 true 1970-01-01 00:00:00.000 x"]
    for column in "ly":
        refused(path, f"expected text, numbers, times or booleans in '{column}'", f"{{{column}}}")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 9, b"text\na\n"])
def test_what_is_no_parquet_is_refused(tmp_path, data):
    refused(put(tmp_path, data, "t.parquet"), "expected a Parquet file")


def test_a_parquet_text_that_is_no_utf8_is_refused(tmp_path):
    array = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    refused(parquet(tmp_path, {"text": array}), "expected a Parquet file")


def test_a_long_text_that_stands_many_times_is_not_held_once_per_row(tmp_path):
    path = parquet(tmp_path, {"text": ["x" * 2**19] * 300}, dictionary_pagesize_limit=2**21)
    before = pa.total_allocated_bytes()
    files = files_of(table(path), None, selection_of(table(path), 0), max_bytes=2**21)
    held = [pa.total_allocated_bytes() - before for _ in files]
    assert len(held) == 300
    assert max(held) < 2**26


def test_wide_rows_are_read_a_few_at_a_time(tmp_path):
    table_of = {100: [100], 2**20: [2**20], 2**27: [2**20, 2**27]}
    expected = {100: 1000, 2**20: 64, 2**27: 1}
    for size, sizes in table_of.items():
        groups = [SimpleNamespace(total_byte_size=n * 10, num_rows=10) for n in sizes]
        metadata = SimpleNamespace(num_row_groups=len(groups), row_group=groups.__getitem__)
        assert parquet_module._rows_at_once(SimpleNamespace(metadata=metadata)) == expected[size]


# Splits


def split_rows(kind):
    cells = ["train", "valid", "test", "dev", "validation", "train"]
    if kind == "t.parquet":
        return {"text": [f"t{i}" for i in range(6)], "where": cells}
    if kind == "t.jsonl":
        return "".join(f'{{"text": "t{i}", "where": "{cell}"}}\n' for i, cell in enumerate(cells))
    end = "\t" if kind == "t.tsv" else ","
    return f"text{end}where\n" + "".join(f"t{i}{end}{cell}\n" for i, cell in enumerate(cells))


@pytest.mark.parametrize("kind", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_a_column_of_splits_says_where_each_row_belongs(tmp_path, kind):
    content = split_rows(kind)
    path = parquet(tmp_path, content) if kind == "t.parquet" else put(tmp_path, content, kind)
    rows = read(table(path, split_column="where"))
    assert [row.split for row in rows] == ["train", "validation", "test", "validation", "validation", "train"]
    assert [row.data for row in rows] == [b"t%d" % i for i in range(6)]
    assert {row.split for row in read(table(path))} == {""}


@pytest.mark.parametrize("cell", ["", "Train", "tset", " test", "null"])
def test_a_cell_that_says_no_split_is_refused_with_its_line(tmp_path, cell):
    message = rf"expected train, validation, valid, dev, test in the column 's', found {cell!a}\."
    for content, kind, at in (
        (f'text,s\n"a\nb",train\nc,{cell}\n', "t.csv", "line 4"),
        (f'{{"text": "a", "s": "test"}}\n{{"text": "a", "s": "{cell}"}}\n', "t.jsonl", "line 2"),
    ):
        with pytest.raises(SourceError, match=f"{at}: {message}"):
            read(table(put(tmp_path, content, kind), split_column="s"))
    path = parquet(tmp_path, {"text": ["a", "b"], "s": ["train", cell or None]})
    with pytest.raises(SourceError, match=f"row 2: {message}"):
        read(table(path, split_column="s"))


@pytest.mark.parametrize("kind", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_column_of_splits_that_is_missing_is_named(tmp_path, kind):
    path = parquet(tmp_path, {"text": ["a"]}) if kind == "t.parquet" else put(tmp_path, SAME[kind], kind)
    with pytest.raises(SourceError, match=r"expected a column 'txt', found none\. Did you mean 'text'"):
        read(table(path, split_column="txt"))


# Any damage at all


def damaged_tables(tmp_path, kind, n):
    if kind == "parquet":
        rows = {"id": list(range(50)), "text": [f"text {i % 7}" for i in range(50)]}
        data = parquet(tmp_path, rows, row_group_size=20).read_bytes()
    else:
        data = (SAME[f"t.{kind}"] * 3).encode()
    rng = np.random.default_rng(17)
    n_refused = n_lines = 0
    for _ in range(n):
        out = bytearray(data)
        if not rng.integers(5):
            del out[int(rng.integers(len(out))) :]
        for _ in range(int(rng.integers(1, 4))):
            if out:
                out[int(rng.integers(len(out)))] = (
                    int(rng.integers(256)) if rng.integers(2) else b'",\n\r\t\0{'[rng.integers(7)]
                )
        path = put(tmp_path, bytes(out), f"x.{kind}")
        try:
            read(table(path, "{id} {text}"))
        except CommbertError as error:
            n_refused += 1
            n_lines = max(n_lines, len(str(error).splitlines()))
    assert n_lines == 1
    return n_refused


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_three_hundred_damaged_tables_give_rows_or_one_line(tmp_path, kind):
    assert damaged_tables(tmp_path, kind, 300) > 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_ten_thousand_damaged_tables_give_rows_or_one_line(tmp_path, kind):
    assert damaged_tables(tmp_path, kind, 10_000) > 1000


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_rows_of_random_cells_are_those_that_pythons_writer_wrote(tmp_path, delimiter):
    import csv
    import random

    draw = random.Random(3)
    rows = [["".join(draw.choices('ab",\t\n\r é', k=draw.randrange(6))) for _ in range(3)] for _ in range(500)]
    path = tmp_path / ("t.csv" if delimiter == "," else "t.tsv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows([["a", "b", "c"], *rows])
    expected = [json.dumps(row) for row in rows]
    got = texts(path, "{a}\x01{b}\x01{c}")
    assert [json.dumps(t.split("\x01")) for t in got] == expected
