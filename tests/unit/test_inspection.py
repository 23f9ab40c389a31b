"""What ``commbert data`` shows of tables: ours, others', damaged ones, and hostile text."""

import io
import json
import os
import re
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

import tiny
import tiny_stages
from commbert import tables
from commbert.cli import app
from commbert.errors import CommbertError, DataError
from commbert.inspection import opening
from commbert.inspection.meanings import Companions, tell
from commbert.inspection.opening import KNOWN, open_tables
from commbert.inspection.rows import batches, row_numbers, take
from commbert.inspection.showing import as_json, print_heading, print_rows, visible
from commbert.inspection.statistics import statistics
from commbert.settings.corpus import CorpusSettings, PathSource, SplitSettings
from commbert.settings.model import PathModel
from commbert.stages import base

ESC = "\x1b"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("inspection")
    tiny.source_tree(at / "source")
    tiny.write_base_model(at / "raw", with_heads=True)
    base.run(PathModel(kind="path", path=str(at / "raw")), out=at / "base", timeout_s=1.0)
    sections = CorpusSettings(
        sources=(PathSource(name="tree", kind="path", path=str(at / "source"), shards=2, shard_by="file"),),
        split=SplitSettings(validation=0.2, test=0.2, max_shared_lines=1.0),
    )
    tiny_stages.run_data(at / "results", tiny_stages.DataSettings(sections), at / "base")
    return at / "results"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def rows_of(*arguments: object) -> list[dict]:
    return [json.loads(line) for line in run("show", *arguments, "--json").splitlines()]


def shown(path: Path, *, width: int = 100, rows: int = 5) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    for table in open_tables(path):
        numbers = row_numbers(table.n_rows, rows)
        print_heading(console, table)
        print_rows(console, tell(table, take(table, numbers), Companions()), numbers)
    return console.file.getvalue()


def parquet(path: Path, columns: dict, **options: object) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


# -- Every table of ours -----------------------------------------------------------------------------------------------


def test_every_table_of_a_run_is_shown_by_its_name_with_all_its_columns(results: Path) -> None:
    paths = sorted(results.rglob("*.parquet"))
    seen = set()
    for path in paths:
        [table] = open_tables(path)
        assert table.notes == ()
        assert table.name in shown(path)
        if table.n_rows:  # a shard may have nothing in a split
            assert table.schema.names == [n for n in rows_of(path)[0] if n in table.schema.names]
            seen.add(table.name)
    # What evaluations make, and the tree has no function and no acronym.
    elsewhere = {"evaluation/scores", "baselines/word_vectors", "corpus/acronyms", "corpus/functions", "runs/vectors"}
    elsewhere |= {name for name in KNOWN if name.startswith(("texts/", "runs/", "monitoring/"))}
    assert seen == set(KNOWN) - elsewhere


def test_every_table_of_a_run_has_figures_that_are_valid_json(results: Path) -> None:
    for path in sorted(results.rglob("*.parquet")):
        told = json.loads(run("stats", path, "--json"), parse_constant=pytest.fail)
        assert (told["rows"], told["bytes"]) == (pq.read_metadata(path).num_rows, path.stat().st_size)
        assert all(column["nulls"] == 0 for column in told["columns"].values())
        assert not told["rows"] or all(column["bytes"] > 0 for column in told["columns"].values())


def test_a_list_of_windows_is_all_its_parts(results: Path) -> None:
    path = results / "windows" / "train.json"
    parts = tables.read_parts(path, tables.WINDOWS)
    n = [pq.read_metadata(p).num_rows for p in parts]
    assert len(n) == 2
    assert f"{sum(n)} rows in 2 files, 2 row groups" in shown(path)
    [last] = rows_of(path, "--rows", 1, "--skip", sum(n) - 1)
    assert last["input_ids"] == pq.read_table(parts[1])["input_ids"].to_pylist()[-1]


def test_a_folder_of_shards_is_one_table_and_other_files_are_one_each(results: Path) -> None:
    assert [len(t.parts) for t in open_tables(results / "windows" / "train")] == [2]
    assert [t.path.name for t in open_tables(results / "pairs")] == [
        "heldout_lines.parquet", "known.parquet", "test.parquet", "train.parquet", "validation.parquet"
    ]  # fmt: skip


# -- What the ids mean -------------------------------------------------------------------------------------------------


def test_windows_show_the_text_of_their_ids_and_where_it_stands(results: Path) -> None:
    files = pq.read_table(results / "corpus" / "files.parquet").to_pylist()
    for row in rows_of(results / "windows" / "train.json"):
        at = files[row["file_id"]]
        assert row["file"] == f"tree:{at['path']}"
        source = (results.parent / "source" / at["path"]).read_text(encoding="utf-8").lower().split("\n")
        text = "".join("".join(source[row["first_line"] - 1 : row["last_line"]]).split())
        assert text.startswith("".join(row["text"].split()))
        assert row["lines"] == f"{row['first_line']}-{row['last_line']}"
    text = shown(results / "windows" / "train.json")
    assert all(field in text for field in ("input_ids: [", "text: ", "file: tree:", "lines: "))


def test_pairs_show_words_and_their_ids_are_left_to_json(results: Path) -> None:
    words = pq.read_table(results / "tokenizer" / "words.parquet")["word"].to_pylist()
    rows = rows_of(results / "pairs" / "train.parquet", "--sample", 3)
    assert len(rows) == 5
    assert all((r["word_a"], r["word_b"]) == (words[r["word_id_a"]], words[r["word_id_b"]]) for r in rows)
    text = shown(results / "pairs" / "train.parquet")
    assert "word_a" in text
    assert "word_id_a" not in text


@pytest.mark.parametrize(("name", "strings"), [("line_words", "words"), ("line_pretokens", "pretokens")])
def test_codes_are_shown_as_the_strings_of_their_shard(results: Path, name: str, strings: str) -> None:
    folder = min((results / "lex").iterdir())
    expected = pq.read_table(folder / f"{strings}.parquet")["word"].to_pylist()
    for row in rows_of(folder / f"{name}.parquet"):
        assert row["strings"] == [expected[c] for c in row["codes"]]
        assert (results.parent / "source" / row["file"]).is_file()


def test_ids_stay_where_their_meaning_is_not_found_and_options_name_other_places(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes((results / "pairs" / "train.parquet").read_bytes())
    assert "word_a" not in rows_of(path)[0]
    assert "word_id_a" in shown(path)
    options = ["--words", results / "tokenizer" / "words.parquet", "--files", results / "corpus" / "files.parquet"]
    assert rows_of(path, *options) == rows_of(results / "pairs" / "train.parquet")
    window = next((results / "windows" / "train").iterdir())
    path.write_bytes(window.read_bytes())
    assert rows_of(path, "--tokenizer", results / "tokenizer" / "tokenizer")[0]["text"] == rows_of(window)[0]["text"]


def test_a_companion_of_another_run_is_told_and_not_used(results: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "corpus").mkdir()
    path = tmp_path / "pairs" / "train.parquet"
    path.write_bytes((results / "pairs" / "train.parquet").read_bytes())
    words = pq.read_table(results / "corpus" / "words.parquet")
    tables.write(tmp_path / "corpus" / "words.parquet", tables.CORPUS_WORDS, words.slice(1), provenance={})
    assert "not of the same run" in " ".join(shown(path).split())
    assert "word_id_a" in shown(path)
    with pytest.raises(DataError, match="not of the same run"):
        run("show", path, "--words", tmp_path / "corpus" / "words.parquet")


@pytest.fixture
def text_pairs(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    texts = ["bsr", "buffer status report", f"int f()\n{ESC}[31m", "Sends it."]
    ids = tables.list_column(tables.TEXTS, "token_ids", [[i] for i in range(4)])
    columns = {"text_id": range(4), "text": texts, "token_ids": ids}
    tables.write(tmp_path / "texts" / "texts.parquet", tables.TEXTS, columns, provenance={})
    path = tmp_path / "texts" / "pairs.parquet"
    columns = {"text_id_a": [0, 3], "text_id_b": [1, 2], "kind": ["acronym", "brief"]}
    tables.write(path, tables.TEXT_PAIRS, columns, provenance={})
    return path


def test_pairs_of_texts_show_the_texts_beside_them_and_their_ids_are_left_to_json(text_pairs: Path) -> None:
    of_acronym = {"text_id_a": 0, "text_a": "bsr", "text_id_b": 1, "text_b": "buffer status report", "kind": "acronym"}
    of_brief = {"text_id_a": 3, "text_a": "Sends it.", "text_id_b": 2, "text_b": f"int f()\n{ESC}[31m", "kind": "brief"}
    assert rows_of(text_pairs) == [of_acronym, of_brief]
    text = shown(text_pairs)
    assert all(part in text for part in ("text_a", "buffer status report", r"int f()\n\x1b[31m", "texts.parquet"))
    assert "text_id" not in text


def test_ids_of_texts_stay_without_their_table_and_an_option_names_it(text_pairs: Path, tmp_path: Path) -> None:
    alone = tmp_path / "pairs.parquet"
    alone.write_bytes(text_pairs.read_bytes())
    assert rows_of(alone)[0] == {"text_id_a": 0, "text_id_b": 1, "kind": "acronym"}
    assert "text_id_a" in shown(alone)
    assert rows_of(alone, "--texts", text_pairs.with_name("texts.parquet")) == rows_of(text_pairs)
    with pytest.raises(DataError, match="expected a table texts/texts, found another file"):
        run("show", alone, "--texts", alone)


def test_texts_of_another_run_are_told_and_not_used(text_pairs: Path) -> None:
    beside = text_pairs.with_name("texts.parquet")
    whole = pq.read_table(beside)
    for some in (pa.concat_tables([whole.slice(1), whole.slice(0, 1)]), whole.slice(0, 2)):
        tables.write(beside, tables.TEXTS, some, provenance={})
        assert "not of the same run" in " ".join(shown(text_pairs).split())
        assert "text_id_a" in shown(text_pairs)
        assert "text_a" not in rows_of(text_pairs)[0]


def test_texts_show_their_tokens(text_pairs: Path, tmp_path: Path) -> None:
    tiny.write_tokenizer(tmp_path / "tokenizer" / "tokenizer")
    first, *_, last = rows_of(text_pairs.with_name("texts.parquet"))
    assert first == {"text_id": 0, "text": "bsr", "token_ids": [0], "tokens": ["[PAD]"]}
    assert (last["text"], last["tokens"]) == ("Sends it.", ["[SEP]"])


def test_the_figures_of_pairs_of_texts_tell_their_kinds(text_pairs: Path) -> None:
    told = json.loads(run("stats", text_pairs, "--json"))
    assert (told["table"], told["rows"]) == ("texts/pairs", 2)
    assert told["columns"]["kind"]["most_frequent"] == [["acronym", 1], ["brief", 1]]
    assert told["columns"]["text_id_a"]["max"] == 3
    told = json.loads(run("stats", text_pairs.with_name("texts.parquet"), "--json"))
    assert told["columns"]["text"]["length"] == {"min": 3, "mean": pytest.approx((3 + 20 + 13 + 9) / 4), "max": 20}
    assert told["columns"]["token_ids"]["length"] == {"min": 1, "mean": 1.0, "max": 1}


def test_words_that_end_before_an_id_are_of_another_run(results: Path, tmp_path: Path) -> None:
    words = pq.read_table(results / "corpus" / "words.parquet")
    tables.write(tmp_path / "words.parquet", tables.CORPUS_WORDS, words.slice(0, 1), provenance={})
    with pytest.raises(DataError, match="not of the same run"):
        run("show", results / "pairs" / "train.parquet", "--words", tmp_path / "words.parquet")


def test_a_list_that_was_written_for_other_files_says_so(results: Path, tmp_path: Path) -> None:
    part = next((results / "windows" / "train").iterdir())
    listed = {"table": "windows", "version": 2, "parts": [{"path": str(part), "rows": 1}]}
    (tmp_path / "x.json").write_text(json.dumps(listed), encoding="utf-8")
    assert f"written for other files: {part.name}" in " ".join(shown(tmp_path / "x.json").split())


def test_a_tokenizer_that_lacks_an_id_is_refused(results: Path) -> None:
    with pytest.raises(CommbertError, match="without token"):
        run("show", results / "windows" / "train.json", "--tokenizer", results.parent / "base", "--rows", 1000)


# -- Which rows --------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    return parquet(tmp_path / "n.parquet", {"n": list(range(100)), "m": [-i for i in range(100)]}, row_group_size=30)


def test_rows_are_those_that_were_asked_for(counted: Path) -> None:
    assert [r["n"] for r in rows_of(counted)] == [0, 1, 2, 3, 4]
    assert [r["n"] for r in rows_of(counted, "--skip", 58, "--rows", 4)] == [58, 59, 60, 61]
    assert [r["n"] for r in rows_of(counted, "--skip", 98)] == [98, 99]
    assert rows_of(counted, "--skip", 100) == []
    assert rows_of(counted, "--columns", "m", "--skip", 7, "--rows", 1) == [{"m": -7}]


def test_a_sample_is_drawn_from_all_rows_and_by_its_seed_alone(counted: Path) -> None:
    one, two = ([r["n"] for r in rows_of(counted, "--sample", s, "--rows", 50)] for s in (1, 2))
    assert one == sorted(set(one))
    assert len(one) == 50
    assert one != two
    assert max(one) >= 90
    assert one == [r["n"] for r in rows_of(counted, "--sample", 1, "--rows", 50)]
    assert [r["n"] for r in rows_of(counted, "--sample", 1, "--rows", 1000)] == list(range(100))


def test_rows_far_inside_of_a_large_row_group_are_found(tmp_path: Path) -> None:
    path = parquet(tmp_path / "n.parquet", {"n": list(range(10_000))})
    assert [r["n"] for r in rows_of(path, "--skip", 8_190)] == [8190, 8191, 8192, 8193, 8194]
    assert [r["n"] for r in rows_of(path, "--sample", 5, "--rows", 10_000)] == list(range(10_000))


def test_other_row_groups_are_not_read(counted: Path) -> None:
    data = bytearray(counted.read_bytes())
    column = pq.read_metadata(counted).row_group(0).column(0)
    data[column.dictionary_page_offset + 2 : column.data_page_offset] = b"\xff" * (
        column.data_page_offset - column.dictionary_page_offset - 2
    )
    counted.write_bytes(data)
    assert [r["n"] for r in rows_of(counted, "--skip", 30, "--rows", 2)] == [30, 31]
    with pytest.raises(DataError, match=re.escape("n.parquet: expected a Parquet file")):
        run("show", counted)


def test_an_unknown_column_is_refused_with_the_nearest_name(results: Path) -> None:
    with pytest.raises(DataError, match="did you mean input_ids"):
        run("show", results / "windows" / "train.json", "--columns", "inputs_ids")


# -- Text of others ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "as_shown"),
    [
        ("[red]x[/red]", "[red]x[/red]"),
        (f"a{ESC}[31mb", r"a\x1b[31mb"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\r\n\tb", r"a\r\n\tb"),
        (":smile: \\[b]", ":smile: \\[b]"),
        ("信道 估计", "信道 估计"),
        ("\x9b31m\x00", r"\x9b31m\x00"),
    ],
)
@pytest.mark.parametrize("width", [60, 400])
def test_hostile_text_is_shown_as_it_is_as_a_table_and_row_by_row(tmp_path, text, as_shown, width) -> None:
    columns = {name: [text] for name in ("x", text)} | {f"long{i}": ["y" * 9] for i in range(9)}
    path = parquet(tmp_path / "x.parquet", columns)
    out = shown(path, width=width)
    assert as_shown in out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out)
    assert rows_of(path)[0]["x"] == text
    assert run("show", path, "--json").isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", run("stats", path))


def test_metadata_and_file_names_are_shown_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / f"[bold]{ESC}[2J.parquet"
    metadata = {"commbert.table": "windows", "commbert.version": f"[red]{ESC}", "commbert.settings": f"[blink]{ESC}["}
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(metadata), path)
    out = shown(path)
    assert ESC not in out
    assert all(part in out.replace("\n", "") for part in ("[bold]\\x1b[2J", "[red]\\x1b", "[blink]\\x1b["))


def test_visible_keeps_what_can_be_printed() -> None:
    assert visible("é 信 ~ \\x1b") == "é 信 ~ \\x1b"


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_line_is_wider_than_the_terminal(results: Path, width: int) -> None:
    for path in ("windows/train.json", "corpus/files.parquet", "pairs/train.parquet"):
        assert max(map(len, shown(results / path, width=width).splitlines())) <= width


def test_a_long_value_is_cut_on_the_terminal_and_whole_in_json(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", {"x": ["y" * 10_000]})
    assert "(10,000 characters)" in shown(path)
    assert len(shown(path)) < 2000
    assert rows_of(path) == [{"x": "y" * 10_000}]


# -- What is none of ours ----------------------------------------------------------------------------------------------


def test_a_table_of_others_is_shown_as_plain_parquet_with_a_note(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", {"file_id": [1], "codes": [[1]]})
    assert "Not a table of commbert" in shown(path)
    assert rows_of(path) == [{"file_id": 1, "codes": [1]}]
    assert json.loads(run("stats", path, "--json"))["table"] is None


def test_an_older_version_and_a_wrong_number_of_rows_are_told(results: Path, tmp_path: Path) -> None:
    table = pq.read_table(results / "pairs" / "known.parquet")
    old = {b"commbert.table": b"pairs/known", b"commbert.version": b"0", b"commbert.rows": b"7"}
    pq.write_table(table.replace_schema_metadata(old), tmp_path / "x.parquet")
    out = shown(tmp_path / "x.parquet")
    assert "Version 0; this commbert reads version 1." in out
    assert "the file is damaged" in out


def test_json_is_valid_whatever_a_table_of_others_holds(tmp_path: Path) -> None:
    columns = {
        "f": [float("nan"), float("inf"), 1.5],
        "b": [b"\xff\x00", None, b""],
        "t": [datetime(2026, 1, 1, tzinfo=UTC)] * 3,
        "s": [{"a": float("nan")}, {"a": 1.0}, None],
        "u": pa.array([2**64 - 1, 0, 1], pa.uint64()),
        "c": pa.array(["x", None, "x"]).dictionary_encode(),
        "d.e": [1, 2, 3],
    }
    path = parquet(tmp_path / "x.parquet", columns)
    out = [json.loads(line, parse_constant=pytest.fail) for line in run("show", path, "--json").splitlines()]
    assert [r["f"] for r in out] == [None, None, 1.5]
    assert (out[0]["b"], out[0]["u"], out[0]["s"]) == ("ff00", 2**64 - 1, {"a": None})
    told = json.loads(run("stats", path, "--json"), parse_constant=pytest.fail)["columns"]
    assert told["c"]["most_frequent"] == [["x", 2]]
    assert (told["u"]["max"], told["b"]["nulls"]) == (2**64 - 1, 1)
    assert told["u"]["mean"] == pytest.approx((2**64) / 3)
    assert all(column["bytes"] > 0 for column in told.values())
    assert as_json((1, 2)) == [1, 2]


def test_columns_of_one_name_are_both_shown(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"])
    pq.write_table(table, tmp_path / "x.parquet")
    assert rows_of(tmp_path / "x.parquet") == [{"x": 1, "x (1)": 2}]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet " * 100, b"PAR1" + b"\0" * 50 + b"PAR1"])
def test_what_is_no_parquet_ends_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        run("show", path)
    assert str(error.value).startswith(f"{path}: expected a Parquet file")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{}", "[1]", '{"parts": []}', '{"parts": [1]}', '{"parts": [{"path": 5}]}', "{"])
def test_json_that_is_no_list_of_tables_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(CommbertError, match=re.escape("x.json: expected a")):
        run("stats", tmp_path / "x.json")


def test_a_folder_without_tables_names_the_folders_that_have_some(results: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are some in: hashes, test, train, validation"):
        run("show", results / "windows")
    with pytest.raises(DataError, match="expected a table, found nothing"):
        run("show", tmp_path / "none.parquet")


def test_the_command_ends_with_exit_code_1_and_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"x")
    command = [sys.executable, "-m", "commbert", "data", "show", str(tmp_path / "x.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert done.stderr.startswith("error: ")


# -- Figures -----------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_column_are_those_that_numpy_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers, lengths = rng.integers(-50, 1000, 70_000), rng.integers(0, 5, 70_000)
    lists = [list(range(n)) for n in lengths]
    columns = {"n": numbers, "l": lists, "s": ["é" * int(n) for n in lengths], "null": [None, 4] * 35_000}
    path = parquet(tmp_path / "x.parquet", columns, row_group_size=9_999)
    told = statistics(open_tables(path)[0])["columns"]
    assert (told["n"]["min"], told["n"]["max"]) == (numbers.min(), numbers.max())
    assert told["n"]["mean"] == pytest.approx(numbers.mean())
    assert told["l"]["length"] == {"min": 0, "mean": pytest.approx(lengths.mean()), "max": 4}
    assert told["s"]["length"] == told["l"]["length"]
    assert (told["l"]["min"], told["l"]["max"]) == (0, 3)
    assert dict(map(tuple, told["s"]["most_frequent"])) == {"é" * i: int((lengths == i).sum()) for i in range(5)}
    assert (told["null"]["nulls"], told["null"]["mean"]) == (35_000, 4.0)


def test_values_are_not_counted_without_bound(tmp_path: Path) -> None:
    columns = {"many": [str(i) for i in range(25_000)], "some": [str(i % 9000) for i in range(25_000)]}
    told = statistics(open_tables(parquet(tmp_path / "x.parquet", columns))[0])["columns"]
    assert told["many"]["distinct"] is None
    assert told["some"]["distinct"] == 9000


def test_reading_all_rows_holds_one_row_group_at_a_time(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**60, 800_000)
    path = parquet(tmp_path / "x.parquet", {"n": numbers}, row_group_size=40_000, use_dictionary=False)
    [part] = open_tables(path)[0].parts
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in batches(part)]
    assert len(held) == 20 * 10
    assert max(held) < numbers.nbytes / 4


def test_windows_have_their_quantiles(tmp_path: Path) -> None:
    n = np.arange(1, 101)
    columns = dict.fromkeys(tables.WINDOWS.schema.names, n % 100) | {"n_tokens": n, "input_ids": [[1]] * 100}
    tables.write(tmp_path / "x.parquet", tables.WINDOWS, columns, provenance={})
    told = statistics(open_tables(tmp_path / "x.parquet")[0])["tokens_per_window"]
    assert told == {"0 %": 1, "5 %": 5, "25 %": 25, "50 %": 50, "75 %": 75, "95 %": 95, "100 %": 100}


def test_pairs_are_counted_by_kind_and_label(results: Path) -> None:
    rows = pq.read_table(results / "pairs" / "test.parquet").to_pylist()
    told = statistics(open_tables(results / "pairs" / "test.parquet")[0])["pairs"]
    assert {(p["kind"], p["label"]): p["pairs"] for p in told} == {
        key: sum((r["kind"], r["label"]) == key for r in rows) for key in {(r["kind"], r["label"]) for r in rows}
    }


def test_files_have_the_accounting_of_the_report_and_its_total(results: Path) -> None:
    told = statistics(open_tables(results / "corpus" / "files.parquet")[0])["accounting"]
    total = told.pop("came in")
    assert told == json.loads((results / "corpus" / "ingest.json").read_text(encoding="utf-8"))["accounting"]
    assert total["files"] == sum(p.is_file() for p in (results.parent / "source").rglob("*"))


def test_an_empty_table_has_no_rows_and_no_figures(tmp_path: Path) -> None:
    tables.write(tmp_path / "x.parquet", tables.PAIRS, tables.PAIRS.schema.empty_table(), provenance={})
    assert "No rows." in shown(tmp_path / "x.parquet")
    assert "0 rows" in run("stats", tmp_path / "x.parquet")


def test_the_name_of_a_shard_is_known(results: Path) -> None:
    source = PathSource(name="a-1", kind="path", path="x", shards=3)
    assert all(opening._SHARD.fullmatch(name) for name in source.shard_names)


# -- Other libraries ---------------------------------------------------------------------------------------------------


def parts_of(results: Path) -> list[list[Path]]:
    return [[p.path for p in t.parts] for name in ("windows/train.json", "pairs/train.parquet", "corpus/files.parquet")
            for t in open_tables(results / name)]  # fmt: skip


def test_polars_pandas_and_duckdb_read_the_same_rows(results: Path) -> None:
    import duckdb
    import pandas as pd
    import polars as pl

    for parts in parts_of(results):
        table = pa.concat_tables([pq.read_table(p) for p in parts])
        assert pl.read_parquet(parts).to_dicts() == table.to_pylist()
        frame = pd.concat([pd.read_parquet(p) for p in parts])
        assert list(frame.columns) == table.column_names
        found = duckdb.sql(f"select * from read_parquet({[str(p) for p in parts]})")
        assert [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()] == table.to_pylist()
        for row, other in zip(frame.to_dict("records"), table.to_pylist(), strict=True):
            assert {k: list(v) if isinstance(v, np.ndarray) else v for k, v in row.items()} == other


def test_datasets_reads_the_same_rows_offline(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(dill|multiprocess|datasets)\b.*")
        import datasets

        for parts in parts_of(results):
            table = pa.concat_tables([pq.read_table(p) for p in parts])
            read = datasets.load_dataset(
                "parquet", data_files=[str(p) for p in parts], cache_dir=str(tmp_path / "cache"), split="train"
            )
            assert read.column_names == table.column_names
            assert read.to_list() == table.to_pylist()


def test_a_fifo_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "f.parquet")
    with pytest.raises(DataError, match="found something else"):
        open_tables(tmp_path / "f.parquet")
