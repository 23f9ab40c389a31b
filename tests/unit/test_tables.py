import errno
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commbert import tables
from commbert.artifacts import read_json, write_json
from commbert.errors import ArtifactError, DataError

WINDOW = {
    "file_id": [0, 0, 4],
    "line_no": [1, 3, 1],
    "first_line": [1, 1, 1],
    "last_line": [3, 3, 2],
    "first_token": [0, 0, 4],
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


def test_no_two_tables_share_their_name_and_all_columns_but_those_of_sensors_are_required():
    assert len({t.name for t in ALL_TABLES}) == len(ALL_TABLES) >= 9
    assert not any(field.nullable for t in ALL_TABLES if t != tables.SAMPLES for field in t.schema)


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


def lines_of_files(n, seed=0, longest=40):
    """Return the columns of shard/lines: files of random sizes, text long enough for several pages."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest, n)
    files = np.repeat(np.cumsum(rng.integers(1, 3, n)).astype(np.uint32), sizes)
    text = [f"value_{i} = harq_process({i * 7919 % 10007}, index[{i}])  # of the grant" for i in range(len(files))]
    line_no = np.arange(len(files), dtype=np.uint32)
    indent = np.zeros(len(files), np.uint16)
    return pa.table({"file_no": files, "line_no": line_no, "indent": indent, "text": text, "code": text})


def write_in_pieces(path, table, data, sizes):
    with tables.writing(path, table, provenance={}) as out:
        at = 0
        for size in itertools.cycle(sizes):
            if at >= data.num_rows:
                break
            out.add(data.slice(at, size))
            at += size
    return out.n_rows


def group_sizes(path):
    metadata = pq.read_metadata(path)
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


PIECES = {"one": [10**9], "lines": [1], "mixed": [3, 0, 11, 64, 1, 200], "groups": [50], "off by one": [51, 49]}


@pytest.mark.parametrize("sizes", PIECES.values(), ids=PIECES)
def test_row_groups_are_of_one_size_however_the_rows_come(tmp_path, monkeypatch, sizes):
    monkeypatch.setattr(tables, "_ROW_GROUP", 50)
    data = lines_of_files(30)
    assert write_in_pieces(tmp_path / "t", tables.LINES, data, sizes) == data.num_rows
    expected = [50] * (data.num_rows // 50) + [data.num_rows % 50] * (data.num_rows % 50 > 0)
    assert group_sizes(tmp_path / "t") == expected
    assert tables.read(tmp_path / "t", tables.LINES).equals(data.cast(tables.LINES.schema))


@pytest.mark.parametrize("sizes", PIECES.values(), ids=PIECES)
def test_the_bytes_of_a_small_table_do_not_depend_on_the_pieces_it_came_in(tmp_path, monkeypatch, sizes):
    monkeypatch.setattr(tables, "_ROW_GROUP", 50)
    data = lines_of_files(30)
    write_in_pieces(tmp_path / "a", tables.LINES, data, [10**9])
    write_in_pieces(tmp_path / "b", tables.LINES, data, sizes)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_writer_holds_less_than_a_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROW_GROUP", 50)
    data = lines_of_files(30)
    with tables.writing(tmp_path / "t", tables.LINES, provenance={}) as out:
        for at in range(0, data.num_rows, 20):
            out.add(data.slice(at, 20))
            assert sum(part.num_rows for part in out._waiting) < 50


@pytest.mark.parametrize("size", [777, 5000, 65_536, 100_000])
def test_the_bytes_of_a_table_of_many_pages_do_not_depend_on_the_pieces_it_came_in(tmp_path, size):
    data = lines_of_files(1000, longest=200)
    assert data.num_rows > 65_536
    write_in_pieces(tmp_path / "a", tables.LINES, data, [10**9])
    write_in_pieces(tmp_path / "b", tables.LINES, data, [size])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("n", [0, 49, 50, 51, 100])
def test_a_table_at_the_edge_of_a_row_group_keeps_its_rows(tmp_path, monkeypatch, n):
    monkeypatch.setattr(tables, "_ROW_GROUP", 50)
    data = lines_of_files(30).slice(0, n)
    assert tables.write(tmp_path / "t", tables.LINES, data, provenance={}) == n
    assert tables.read(tmp_path / "t", tables.LINES).num_rows == n
    assert tables.provenance_of(tmp_path / "t")["rows"] == str(n)
    assert 0 not in group_sizes(tmp_path / "t")


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda t: t.name)
def test_a_table_without_rows_is_read_back_with_its_schema(tmp_path, table):
    with tables.writing(tmp_path / "t", table, provenance={}):
        pass
    assert tables.read(tmp_path / "t", table).equals(table.schema.empty_table())
    assert sum(piece.num_rows for piece in tables.read_groups(tmp_path / "t", table, table.schema.names)) == 0


def test_row_groups_are_read_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROW_GROUP", 50)
    data = lines_of_files(10)
    tables.write(tmp_path / "t", tables.LINES, data, provenance={})
    groups = list(tables.read_groups(tmp_path / "t", tables.LINES, ["line_no", "file_no"]))
    assert [g.num_rows for g in groups] == group_sizes(tmp_path / "t")
    assert pa.concat_tables(groups).equals(data.select(["line_no", "file_no"]).cast(groups[0].schema))


def test_an_error_in_a_block_that_writes_leaves_nothing_and_keeps_the_old_table(tmp_path):
    write_known(tmp_path / "t")
    before = (tmp_path / "t").read_bytes()

    def stopped():
        with tables.writing(tmp_path / "t", tables.KNOWN_PAIRS, provenance={}) as out:
            out.add({"word_id_a": [1], "word_id_b": [2]})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert (tmp_path / "t").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_a_full_disk_leaves_the_old_table_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "known.parquet"
    write_known(path)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(ArtifactError, match=r"known\.parquet: the disk is full"):
        write_known(path, settings="newer")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("row_group", [1, 2, 7, 50, 1000])
def test_whole_files_are_read_without_a_split_or_a_lost_row(tmp_path, monkeypatch, row_group):
    monkeypatch.setattr(tables, "_ROW_GROUP", row_group)
    for seed in range(6):
        data = lines_of_files(20, seed, longest=[2, 4, 60][seed % 3])
        tables.write(tmp_path / "t", tables.LINES, data, provenance={})
        pieces = list(tables.read_whole_files(tmp_path / "t", tables.LINES, ["file_no", "line_no"]))
        files = [set(p["file_no"].to_pylist()) for p in pieces]
        assert all(files)
        assert sum(map(len, files)) == len(set.union(*files))
        rows = pa.concat_tables(pieces)
        assert rows["line_no"].to_pylist() == data["line_no"].to_pylist()
        assert rows["file_no"].to_pylist() == data["file_no"].to_pylist()


def test_whole_files_are_read_in_pieces_of_about_a_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROW_GROUP", 50)
    data = lines_of_files(200, longest=10)
    tables.write(tmp_path / "t", tables.LINES, data, provenance={})
    pieces = list(tables.read_whole_files(tmp_path / "t", tables.LINES, ["file_no"]))
    assert len(pieces) > 10
    assert max(p.num_rows for p in pieces) < 50 + 10


def test_a_table_without_rows_has_no_whole_files(tmp_path):
    tables.write(tmp_path / "t", tables.LINES, tables.LINES.schema.empty_table(), provenance={})
    assert sum(p.num_rows for p in tables.read_whole_files(tmp_path / "t", tables.LINES, ["file_no"])) == 0


def write_list(folder, *parts, names="abcdef", **about):
    """Write tables of known pairs and the list that names them."""
    (folder / "parts").mkdir(exist_ok=True)
    paths = []
    for name, (start, stop) in zip(names, parts, strict=False):
        ids = np.arange(start, stop, dtype=np.uint32)
        paths.append(folder / "parts" / f"{name}.parquet")
        tables.write(paths[-1], tables.KNOWN_PAIRS, {"word_id_a": ids, "word_id_b": ids}, provenance={})
    tables.write_parts(folder / "list.json", tables.KNOWN_PAIRS, paths, **about)
    return folder / "list.json"


def test_parts_come_back_in_the_order_of_their_list(tmp_path):
    listed = write_list(tmp_path, (0, 3), (3, 3), (3, 9), names="cab")
    parts = tables.read_parts(listed, tables.KNOWN_PAIRS)
    assert [p.name for p in parts] == ["c.parquet", "a.parquet", "b.parquet"]
    assert [tables.read(p, tables.KNOWN_PAIRS).num_rows for p in parts] == [3, 0, 6]
    assert [part["rows"] for part in read_json(listed)["parts"]] == [3, 0, 6]


def test_a_list_and_its_parts_may_move_together(tmp_path):
    (tmp_path / "one").mkdir()
    write_list(tmp_path / "one", (0, 3))
    (tmp_path / "one").rename(tmp_path / "two")
    [part] = tables.read_parts(tmp_path / "two" / "list.json", tables.KNOWN_PAIRS)
    assert part.is_relative_to(tmp_path / "two")


def test_parts_of_an_older_list_are_removed_and_other_files_stay(tmp_path):
    write_list(tmp_path, (0, 3), (3, 4), (4, 5))
    (tmp_path / "parts" / "notes.txt").write_text("mine")
    write_list(tmp_path, (0, 3), names="b")
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == ["b.parquet", "notes.txt"]


def test_a_changed_or_missing_part_is_refused_with_its_name(tmp_path):
    listed = write_list(tmp_path, (0, 3), (3, 9))
    part = tmp_path / "parts" / "b.parquet"
    tables.write(part, tables.KNOWN_PAIRS, {"word_id_a": [1], "word_id_b": [2]}, provenance={})
    with pytest.raises(DataError, match=r"b\.parquet: missing, or not the file"):
        tables.read_parts(listed, tables.KNOWN_PAIRS)
    part.unlink()
    with pytest.raises(DataError, match=r"b\.parquet: missing, or not the file"):
        tables.read_parts(listed, tables.KNOWN_PAIRS)


@pytest.mark.parametrize("change", [{"table": "pairs"}, {"version": 2}, {"version": "1"}])
def test_a_list_of_another_table_or_version_is_refused(tmp_path, change):
    listed = write_list(tmp_path, (0, 3))
    write_json(listed, {**read_json(listed), **change})
    with pytest.raises(DataError, match=r"list\.json: expected a list of pairs/known version 1"):
        tables.read_parts(listed, tables.KNOWN_PAIRS)


@pytest.mark.parametrize("content", ["[]", '"x"', "3"])
def test_what_is_no_list_of_parts_is_refused(tmp_path, content):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(DataError, match="expected a list of pairs/known"):
        tables.read_parts(tmp_path / "list.json", tables.KNOWN_PAIRS)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"list\.json"):
        tables.read_parts(tmp_path / "list.json", tables.KNOWN_PAIRS)


def test_the_digest_of_a_list_does_not_change_with_the_number_of_parts(tmp_path):
    about = {"settings": "x", "inputs": "y", "content": "z"}
    digests = []
    for i, parts in enumerate([[(0, 9)], [(0, 3), (3, 9)], [(0, 0), (0, 1), (1, 9)]]):
        (tmp_path / str(i)).mkdir()
        digests.append(tables.content_digest(write_list(tmp_path / str(i), *parts, **about)))
    assert len(set(digests)) == 1


def test_the_digest_of_a_list_changes_with_its_content_rows_settings_and_inputs(tmp_path):
    about = {"settings": "x", "inputs": "y", "content": "z"}
    digests = {tables.content_digest(write_list(tmp_path, (0, 9), **about))}
    for changes in ({"settings": "q"}, {"inputs": "q"}, {"content": "q"}):
        digests.add(tables.content_digest(write_list(tmp_path, (0, 9), **{**about, **changes})))
    digests.add(tables.content_digest(write_list(tmp_path, (0, 8), **about)))
    assert len(digests) == 5


def test_the_digest_of_a_table_is_of_its_bytes(tmp_path):
    write_known(tmp_path / "a.parquet", settings="x")
    write_known(tmp_path / "b.parquet", settings="x")
    write_known(tmp_path / "c.parquet", settings="y")
    a, b, c = (tables.content_digest(tmp_path / f"{name}.parquet") for name in "abc")
    assert a == b != c
