import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commbert import tables
from commbert.errors import DataError

WINDOW = {
    "file_id": [0, 0, 4],
    "line_no": [1, 3, 1],
    "first_line": [1, 1, 1],
    "last_line": [3, 3, 2],
    "input_ids": [[5, 6], [], [7]],
    "n_tokens": [2, 0, 1],
    "n_dropped_lines": [0, 1, 0],
}
ALL_TABLES = [t for t in vars(tables).values() if isinstance(t, tables.Table)]


def write_known(path, **provenance):
    ids = {"word_id_a": [1, 2, 3], "word_id_b": [4, 5, 6]}
    tables.write(path, tables.KNOWN_PAIRS, ids, provenance=provenance)
    return ids


def test_what_is_written_is_read_back(tmp_path):
    assert tables.write(tmp_path / "t", tables.WINDOWS, WINDOW, provenance={}) == 3
    assert tables.read(tmp_path / "t", tables.WINDOWS).to_pydict() == WINDOW


def test_the_schema_read_is_the_schema_declared(tmp_path):
    tables.write(tmp_path / "t", tables.WINDOWS, WINDOW, provenance={})
    assert tables.read(tmp_path / "t", tables.WINDOWS).schema == tables.WINDOWS.schema


def test_only_the_named_columns_are_read(tmp_path):
    tables.write(tmp_path / "t", tables.WINDOWS, WINDOW, provenance={})
    assert tables.read(tmp_path / "t", tables.WINDOWS, ["n_tokens"]).to_pydict() == {"n_tokens": [2, 0, 1]}


def test_token_lists_are_stored_without_a_dictionary_and_kinds_with_one(tmp_path):
    tables.write(tmp_path / "w", tables.WINDOWS, WINDOW, provenance={})
    pair = {"word_id_a": [1], "word_id_b": [2], "label": [1], "kind": ["same_line"], "file_id": [0], "line_no": [1]}
    tables.write(tmp_path / "p", tables.PAIRS, pair, provenance={})

    def with_dictionary(path):
        group = pq.ParquetFile(path).metadata.row_group(0)
        columns = [group.column(i) for i in range(group.num_columns)]
        return [c.path_in_schema for c in columns if "RLE_DICTIONARY" in c.encodings]

    assert with_dictionary(tmp_path / "w") == []
    assert with_dictionary(tmp_path / "p") == ["kind"]


def test_equal_columns_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        tables.write(tmp_path / name, tables.WINDOWS, WINDOW, provenance={"settings": "x"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_two_tables_share_their_name_and_all_columns_are_required():
    assert len({t.name for t in ALL_TABLES}) == len(ALL_TABLES) >= 9
    assert not any(field.nullable for t in ALL_TABLES for field in t.schema)


def test_provenance_comes_back_with_rows_table_and_version(tmp_path):
    write_known(tmp_path / "t", settings="abc", inputs="dé")
    expected = {"settings": "abc", "inputs": "dé", "table": "pairs/known", "version": "1", "rows": "3"}
    assert tables.provenance_of(tmp_path / "t") == expected


def test_another_table_is_refused_with_both_names_and_the_file(tmp_path):
    write_known(tmp_path / "known.parquet")
    with pytest.raises(DataError, match=r"known\.parquet: expected commbert\.table = pairs, found pairs/known"):
        tables.read(tmp_path / "known.parquet", tables.PAIRS)


def test_another_version_is_refused_with_both_numbers_and_the_file(tmp_path):
    write_known(tmp_path / "known.parquet")
    newer = tables.Table("pairs/known", 2, tables.KNOWN_PAIRS.schema)
    with pytest.raises(DataError, match=r"known\.parquet: expected commbert\.version = 2, found 1"):
        tables.read(tmp_path / "known.parquet", newer)


def test_a_parquet_file_of_another_writer_is_refused(tmp_path):
    pq.write_table(pa.table({"word_id_a": [1]}), tmp_path / "t")
    with pytest.raises(DataError, match="found nothing"):
        tables.read(tmp_path / "t", tables.KNOWN_PAIRS)


def test_a_table_whose_columns_are_not_the_declared_ones_is_refused(tmp_path):
    renamed = tables.Table("pairs/known", 1, pa.schema([pa.field("other", pa.uint32(), nullable=False)]))
    tables.write(tmp_path / "t", renamed, {"other": [1]}, provenance={})
    with pytest.raises(DataError, match="t: "):
        tables.read(tmp_path / "t", tables.KNOWN_PAIRS)


@pytest.mark.parametrize("content", [None, b"", b"PAR1", b"no parquet at all, but long enough to look for a footer"])
def test_a_missing_or_foreign_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"t\.parquet"):
        tables.read(tmp_path / "t.parquet", tables.KNOWN_PAIRS)


def test_a_cut_file_is_refused(tmp_path):
    write_known(tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[:-20])
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read"):
        tables.read(tmp_path / "t.parquet", tables.KNOWN_PAIRS)


def test_a_flipped_byte_anywhere_gives_a_data_error_or_the_same_rows(tmp_path):
    path = tmp_path / "t.parquet"
    expected = write_known(path, settings="x")
    whole = path.read_bytes()
    refused = 0
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        try:
            assert tables.read(path, tables.KNOWN_PAIRS).to_pydict() == expected, f"byte {at}"
        except DataError as error:
            refused += str(path) in str(error)
    assert refused > 100


def test_a_flipped_byte_in_the_data_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    ids = np.random.default_rng(0).integers(0, 2**32, 10_000).astype(np.uint32)
    tables.write(path, tables.KNOWN_PAIRS, {"word_id_a": ids, "word_id_b": ids}, provenance={})
    data = bytearray(path.read_bytes())
    data[20_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read as pairs/known"):
        tables.read(path, tables.KNOWN_PAIRS)


@pytest.mark.parametrize(
    "columns",
    [
        {"word_id_a": [1]},
        {"word_id_a": [1], "word_id_b": [-1]},
        {"word_id_a": [1], "word_id_b": [2**32]},
        {"word_id_a": [1], "word_id_b": [2**70]},
        {"word_id_a": [1], "word_id_b": ["x"]},
        {"word_id_a": [1], "word_id_b": [None]},
        {"word_id_a": [1], "word_id_b": [1, 2]},
        {"word_id_a": [1], "word_id_b": [[1]]},
    ],
    ids=["missing", "negative", "too large", "far too large", "text", "null", "other length", "list"],
)
def test_columns_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, columns):
    with pytest.raises(DataError, match="do not fit pairs/known version 1"):
        tables.write(tmp_path / "t", tables.KNOWN_PAIRS, columns, provenance={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [[], [[1, 2], [], [3]], [[], []]])
def test_a_list_column_gives_its_rows_back(tmp_path, rows):
    column = tables.list_column(tables.LINE_WORDS, "word_ids", [np.array(r, np.uint32) for r in rows])
    columns = {"file_id": [0] * len(rows), "line_no": list(range(len(rows))), "word_ids": column}
    tables.write(tmp_path / "t", tables.LINE_WORDS, columns, provenance={})
    values, offsets = tables.list_values(tables.read(tmp_path / "t", tables.LINE_WORDS)["word_ids"])
    assert [values[a:b].tolist() for a, b in itertools.pairwise(offsets)] == rows


def test_list_values_cross_the_bounds_of_row_groups(tmp_path):
    n = 70_000  # a row group holds 65,536
    ids = np.arange(2 * n, dtype=np.uint32)
    column = tables.list_column(tables.LINE_WORDS, "word_ids", list(ids.reshape(n, 2)))
    columns = {"file_id": np.zeros(n, np.uint32), "line_no": np.arange(n, dtype=np.uint32), "word_ids": column}
    tables.write(tmp_path / "t", tables.LINE_WORDS, columns, provenance={})
    values, offsets = tables.list_values(tables.read(tmp_path / "t", tables.LINE_WORDS)["word_ids"])
    assert np.array_equal(values, ids)
    assert np.array_equal(offsets, np.arange(0, 2 * n + 1, 2))
