"""Trees that were made to break a reader: everything is read or named with its reason, and nothing is lost."""

import errno
import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest

import data_case
import tiny
import tiny_stages
from commbert import tables
from commbert.errors import SourceError
from commbert.settings.corpus import Cleaning, SplitSettings
from commbert.settings.pairs import PairsSettings
from commbert.settings.windows import WindowsSettings

TIB = 2**40
LONGEST = 65_536
FILES = {
    "empty.py": b"",
    "null.py": b"harq = 1\n\0\n",
    "utf16.py": "\ufeffutf16_word = rlc_word\nutf16_more = rlc_more\n".encode("utf-16-le"),
    "utf8_mark.py": b"\xef\xbb\xbfmark_word = rlc_word\n",
    "latin.py": b"latin_word = 'caf\xe9'\nlatin_more = rlc_more\n",
    "carriage.py": b"cr_one = cr_two\rcr_three = cr_four\r\rcr_five = cr_six",
    "mixed_ends.py": b"end_one = end_two\r\nend_three = end_four\rend_five = end_six\n\r\n",
    "long.py": b"long_before = 1\n" + b"x = 1; " * 750_000 + b"\nlong_after = 2\n",
    "only_long.py": b"y" * 5_000_000,
    "identifiers.py": b"ids_before = 1\n" + b" ".join(b"id_%06d" % i for i in range(100_000)) + b"\n",
    "most_allowed.py": b" ".join(b"i%04x" % i for i in range(LONGEST // 6)) + b"\n",
    "comments.py": b"# comment_one comment_two\n# comment_three\n",
    "blanks.py": b"\n  \n\t\n\x0c\n",
    "no_last_end.py": b"last_one = last_two",
    "with\nnewline.py": b"newline_word = rlc_word\n",
    "with\x1b[31mescape.py": b"escape_word = rlc_word\n",
    "control.bin": bytes(range(1, 32)) * 20 + b"\xff",
    "separators.py": "sep_one = '\u2028' + '\x85' + '\x0c'\nsep_two = sep_three\n".encode(),
}
NOT_UTF8 = b"bytes_\xff.py"
REASONS = {
    "empty.py": "empty",
    "null.py": "binary",
    "control.bin": "binary",
    "only_long.py": "no usable line",
    "blanks.py": "empty",
    "loop": "symbolic link",
    "outside.py": "symbolic link",
    "dangling.py": "symbolic link",
    "up": "symbolic link",
    "fifo.py": "not a regular file",
    "sparse.py": "too large",
}
CLEANING = {"max_file_mib": 16.0, "max_line_chars": LONGEST, "drop_generated": False}


def write_hostile(folder: Path) -> Path:
    """Write an ordinary tree with every kind of trap in one of its folders."""
    tiny.source_tree(folder)
    traps = folder / "part1"
    for name, data in FILES.items():
        (traps / name).write_bytes(data)
    Path(os.fsdecode(os.fsencode(traps) + b"/" + NOT_UTF8)).write_bytes(b"bytes_word = rlc_word\n")
    (traps / "loop").symlink_to(".")
    (traps / "up").symlink_to(folder)
    (traps / "outside.py").symlink_to("/etc/passwd")
    (traps / "dangling.py").symlink_to("nowhere")
    os.mkfifo(traps / "fifo.py")
    with (traps / "sparse.py").open("wb") as file:
        try:
            os.truncate(file.fileno(), TIB)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            os.truncate(file.fileno(), 2**33)
    return folder


@pytest.fixture(scope="module")
def hostile_tree(tmp_path_factory):
    return write_hostile(tmp_path_factory.mktemp("hostile") / "tree")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, hostile_tree, base_folder):
    """The data stages on the hostile tree, and how long they took."""
    source = data_case.path_source(hostile_tree, include=("**",), shards=2)
    settings = data_case.settings_of(source, cleaning=CLEANING)
    began = time.monotonic()
    data = tiny_stages.run_data(tmp_path_factory.mktemp("hostile_out"), settings, base_folder)
    return data_case.Chain(data), time.monotonic() - began


@pytest.fixture(scope="module")
def traps(whole):
    return {
        r["path"].removeprefix("part1/"): r for r in whole[0].rows("corpus/files") if r["path"].startswith("part1/")
    }


def on_disk(folder: Path) -> list[Path]:
    return [Path(at, name) for at, folders, names in os.walk(folder) for name in (*names, *folders)]


def lines_in(data: bytes, encoding: str) -> list[str]:
    if encoding == "binary":
        return []
    text = data.decode({"utf-16-le": "utf-16", "utf-8": "utf-8-sig"}.get(encoding, encoding))
    return re.split("\r\n|\r|\n", text)[: -1 if text[-1:] in ("\n", "\r", "") else None]


@pytest.mark.parametrize("name", sorted(REASONS))
def test_a_trap_is_left_out_with_its_reason(traps, name):
    assert (traps[name]["reason"], traps[name]["kept"], traps[name]["split"]) == (REASONS[name], False, "")


def test_all_else_is_kept(traps):
    left_out = {name for name, row in traps.items() if not row["kept"]}
    assert left_out == set(REASONS)


def test_names_that_are_no_text_are_kept_as_they_are_shown(traps):
    assert {"with\nnewline.py", "with\x1b[31mescape.py", "bytes_\\xff.py"} <= set(traps)


@pytest.mark.parametrize(
    ("name", "encoding", "n_lines"),
    [
        ("utf16.py", "utf-16-le", 2),
        ("utf8_mark.py", "utf-8", 1),
        ("latin.py", "latin-1", 2),
        ("carriage.py", "utf-8", 4),
        ("mixed_ends.py", "utf-8", 4),
        ("separators.py", "utf-8", 2),
        ("no_last_end.py", "utf-8", 1),
    ],
)
def test_text_of_every_encoding_and_line_end_is_read(traps, name, encoding, n_lines):
    assert (traps[name]["encoding"], traps[name]["n_lines"]) == (encoding, n_lines)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("utf16.py", "utf16_more"),
        ("utf8_mark.py", "mark_word"),
        ("latin.py", "latin_more"),
        ("carriage.py", "cr_six"),
        ("mixed_ends.py", "end_six"),
        ("with\nnewline.py", "newline_word"),
        ("with\x1b[31mescape.py", "escape_word"),
        ("bytes_\\xff.py", "bytes_word"),
        ("long.py", "long_after"),
        ("separators.py", "sep_three"),
    ],
)
def test_the_words_of_a_strange_file_are_words_of_the_corpus(whole, traps, name, word):
    assert word in {row["word"] for row in whole[0].rows("corpus/words")}
    assert traps[name]["n_used_lines"] > 0


def test_what_came_in_is_what_is_accounted_for(whole, hostile_tree):
    paths = [p for p in on_disk(hostile_tree) if p.is_symlink() or not p.is_dir()]
    regular = [p for p in paths if p.is_file() and not p.is_symlink()]
    account = whole[0].summary("corpus/ingest")["accounting"]
    assert sum(row["files"] for row in account.values()) == len(paths)
    assert sum(row["bytes"] for row in account.values()) == sum(p.lstat().st_size for p in regular)
    encodings = {os.fsencode(r["path"]): r["encoding"] for r in whole[0].rows("corpus/files")}
    n_lines = 0
    for path in regular:
        name = os.fsencode(path.relative_to(hostile_tree)).replace(b"\xff", b"\\xff")
        if encodings[name]:
            n_lines += len(lines_in(path.read_bytes(), encodings[name]))
    assert sum(row["lines"] for row in account.values()) == n_lines


def test_every_reason_is_counted(whole, traps):
    account = whole[0].summary("corpus/ingest")["accounting"]
    for reason, n in Counter(REASONS.values()).items():
        assert account[reason]["files"] == n
    assert account["too large"]["bytes"] == traps["sparse.py"]["n_bytes"] >= 2**33
    assert account["lines too long"] == {"files": 0, "bytes": 0, "lines": 2}
    assert account["used"]["files"] == sum(r["kept"] for r in whole[0].rows("corpus/files"))


@pytest.mark.parametrize("unit", ["n_blank_lines", "n_long_lines", "n_licence_lines"])
def test_the_lines_of_every_used_file_are_used_or_named(whole, unit):
    parts = ("n_used_lines", "n_blank_lines", "n_long_lines", "n_licence_lines")
    for row in whole[0].rows("corpus/files"):
        if row["kept"]:
            assert sum(row[part] for part in parts) == row["n_lines"]
    if unit != "n_licence_lines":
        assert any(row[unit] for row in whole[0].rows("corpus/files"))


def test_a_line_beyond_the_limit_is_dropped_and_its_neighbours_stay(traps):
    for name, used in (("long.py", 2), ("identifiers.py", 1)):
        assert (traps[name]["n_used_lines"], traps[name]["n_long_lines"]) == (used, 1)
    assert (traps["most_allowed.py"]["n_used_lines"], traps["most_allowed.py"]["n_long_lines"]) == (1, 0)


def test_ten_thousand_words_on_a_line_give_the_pairs_of_sixty_four(whole, traps):
    chain, _ = whole
    file_id = traps["most_allowed.py"]["file_id"]
    words = [row["word"] for row in chain.rows("corpus/words")]
    assert sum(bool(re.fullmatch(r"i[0-9a-f]{4}", w)) for w in words) == LONGEST // 6
    if traps["most_allowed.py"]["split"] == "train":
        of_line = {(r["word_id_a"], r["word_id_b"]) for r in chain.rows("pairs/train") if r["file_id"] == file_id}
        assert len(of_line) <= 2 * 64 * 63 // 2
    keys = sum(
        tables.read(path, tables.PAIR_KEYS).num_rows
        for shard in chain.data.shards
        for path in chain.data.drawn(shard).glob("*_keys.parquet")
    )
    assert keys < 20_000 + 256 * 255 // 2


def test_the_data_stages_on_a_hostile_tree_take_seconds(whole):
    assert whole[1] < 30


def test_a_window_of_the_longest_line_holds_its_beginning(whole, traps):
    rows = [
        r for s in tables.SPLITS for r in whole[0].windows(s) if r["file_id"] == traps["most_allowed.py"]["file_id"]
    ]
    assert [(r["line_no"], r["n_tokens"]) for r in rows] == [(1, 46)]


def test_a_file_of_comments_gives_windows_and_no_words(whole, traps):
    chain, _ = whole
    rows = [r for s in tables.SPLITS for r in chain.windows(s) if r["file_id"] == traps["comments.py"]["file_id"]]
    assert rows
    assert not {"comment_one", "comment_three"} & {row["word"] for row in chain.rows("corpus/words")}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_vanishes_during_the_walk_is_unreadable_and_the_rest_is_read(tmp_path, monkeypatch, kind):
    tree = tiny.source_tree(tmp_path / "tree")
    scandir = os.scandir

    def vanish(path):
        entries = list(scandir(path))
        if Path(path).name == "part2" and kind == "file":
            (Path(path) / "module0.py").unlink(missing_ok=True)
        if kind == "folder" and Path(path) == tree and (tree / "part2").exists():
            (tree / "part2").rename(tmp_path / "gone")
        return iter(entries)

    monkeypatch.setattr(os, "scandir", vanish)
    settings = data_case.settings_of(data_case.path_source(tree, include=("**",)))
    found = data_case.read_corpus(tmp_path / "out", settings.corpus)
    reasons = {row["path"]: row["reason"] for row in found.rows("corpus/files") if row["reason"]}
    assert (
        reasons
        == {
            "file": {"part2/module0.py": "unreadable (No such file or directory)"},
            "folder": {"part2": "unreadable folder (No such file or directory)"},
        }[kind]
    )
    assert found.summary("corpus/ingest")["accounting"][next(iter(reasons.values()))]["files"] == 1


def test_no_control_character_of_a_name_stands_in_a_gathered_json_file(whole):
    for path in whole[0].at.rglob("*.json"):
        assert b"\x1b" not in path.read_bytes(), path


def test_a_tree_of_traps_alone_is_refused_with_what_was_found(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "empty.py").touch()
    (tmp_path / "tree" / "null.py").write_bytes(b"\0")
    (tmp_path / "tree" / "link.py").symlink_to("empty.py")
    with pytest.raises(SourceError, match="found 1 binary, 1 empty, 1 symbolic link"):
        data_case.read_corpus(tmp_path / "out", data_case.settings_of(data_case.path_source(tmp_path / "tree")).corpus)


def test_lines_of_marks_alone_give_no_window_and_no_crash(tmp_path, base_folder):
    tree = tiny.source_tree(tmp_path / "tree")
    for i in range(6):
        (tree / f"part{i}" / "marks.py").write_text("\u200b\u200e\n" * 3 + f"word_{i} = other_{i}\n", encoding="utf-8")
    settings = data_case.settings_of(data_case.path_source(tree))
    chain = data_case.Chain(tiny_stages.run_data(tmp_path / "out", settings, base_folder))
    assert all(row["n_tokens"] > 0 for split in tables.SPLITS for row in chain.windows(split))


def test_the_least_corpus_of_three_files_passes_through_all_stages(tmp_path, base_folder):
    for i, text in enumerate(("alpha_one = beta_one\n", "alpha_two = beta_two\n", "alpha_six = beta_six\n")):
        (tmp_path / "tree").mkdir(exist_ok=True)
        (tmp_path / "tree" / f"f{i}.py").write_text(text * 2)
    source = data_case.path_source(tmp_path / "tree", shards=4)
    split, pairs = SplitSettings(validation=0.3, test=0.3), PairsSettings(subsample=None)
    settings = data_case.settings_of(source, split=split, pairs=pairs)
    chain = data_case.Chain(tiny_stages.run_data(tmp_path / "out", settings, base_folder))
    assert sorted(chain.split_of().values()) == ["test", "train", "validation"]
    assert [sum(r["label"] for r in chain.rows(f"pairs/{s}")) for s in tables.SPLITS] == [2, 1, 1]


def test_the_limits_of_the_settings_are_those_that_the_traps_are_made_for():
    limit = Cleaning.model_json_schema()["properties"]["max_line_chars"]["maximum"]
    assert limit == LONGEST


def test_a_limit_of_windows_is_kept_where_lines_have_no_token(tmp_path, base_folder):
    tree = tiny.source_tree(tmp_path / "tree")
    for i in range(6):
        text = "\u200b\u200e\n" * 30 + f"word_{i} = other_{i}\n"
        (tree / f"part{i}" / "marks.py").write_text(text, encoding="utf-8")
    source = data_case.path_source(tree)
    settings = data_case.settings_of(source, windows=WindowsSettings(max_length=48, max_windows=200))
    chain = data_case.Chain(tiny_stages.run_data(tmp_path / "out", settings, base_folder))
    assert len(chain.windows("train")) == 200


def test_a_file_is_too_large_beyond_the_mebibytes_of_the_setting_and_not_at_them(tmp_path):
    tree = tiny.source_tree(tmp_path / "tree")
    line = b"word_one = word_two\n"
    for name, size in (("at.py", 2**19), ("beyond.py", 2**19 + 1)):
        (tree / "part0" / name).write_bytes((line * 2**15)[: size - 1] + b"\n")
    cleaning = {"max_file_mib": 0.5, "drop_generated": False, "near_duplicates": None}
    settings = data_case.settings_of(data_case.path_source(tree), cleaning=cleaning)
    files = data_case.read_corpus(tmp_path / "out", settings.corpus).files()
    assert files["tree:part0/at.py"]["reason"] == ""
    assert (files["tree:part0/beyond.py"]["reason"], files["tree:part0/beyond.py"]["n_bytes"]) == (
        "too large",
        2**19 + 1,
    )
