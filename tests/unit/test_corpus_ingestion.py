import hashlib

import pytest

from commbert.corpus.ingestion import accounting, corpus_digest, ingest
from commbert.corpus.sources import SourceFile
from commbert.settings.corpus import CorpusSettings, PathSource

SOURCES = (PathSource(kind="path", name="s", path="."),)


def settings(**changes):
    return CorpusSettings(sources=SOURCES, max_line_chars=80, **changes)


def file(path, data, source="s"):
    return SourceFile(source, path, len(data), data, "")


def one(path, data, **changes):
    [out] = ingest([file(path, data)], settings(**changes))
    return out


def test_lines_keep_number_text_and_code():
    out = one("a.py", b"\n  x = 1  # one\n\n# all comment\ny\n")
    assert out.lines == [(2, "x = 1  # one", "x = 1"), (4, "# all comment", ""), (5, "y", "y")]


def test_a_comment_over_several_lines_leaves_their_code_empty():
    assert one("a.c", b"a; /* b\nc\nd */ e;\n").lines == [(1, "a; /* b", "a;"), (2, "c", ""), (3, "d */ e;", "e;")]


def test_lines_that_end_in_carriage_returns_are_lines():
    assert one("a.py", b"a\rb\r\nc").lines == [(1, "a", "a"), (2, "b", "b"), (3, "c", "c")]


def test_a_line_of_the_limit_stays_and_one_character_more_goes():
    out = one("a.py", b"x" * 80 + b"\n" + b"y" * 81 + b"\nz\n")
    assert ([n for n, _, _ in out.lines], out.n_long_lines) == ([1, 3], 1)


def test_the_digest_is_of_the_raw_bytes():
    data = b"\xef\xbb\xbfa\r\n"
    assert one("a.py", data).sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t\r\n\f\n", "empty"),
        (b"a\0b", "binary"),
        (b"# @generated\nx = 1\n", "generated"),
        (b"y" * 81, "no usable line"),
        (b"x = 1", ""),
    ],
)
def test_a_file_without_source_text_is_dropped_with_its_reason(data, reason):
    out = one("a.py", data)
    assert (out.reason, out.kept, out.lines == []) == (reason, not reason, bool(reason))


def test_a_generated_file_is_kept_where_the_setting_says_so():
    assert one("a.py", b"# @generated\nx = 1\n", drop_generated=False).kept


def test_a_duplicate_names_its_twin():
    files = [file("a.py", b"x"), file("b.py", b"x", "other"), file("c.py", b"y"), file("d.py", b"x")]
    out = ingest(files, settings())
    assert [f.reason for f in out] == ["", "duplicate of s:a.py", "", "duplicate of s:a.py"]


def test_duplicates_are_kept_where_the_setting_says_so():
    assert all(f.kept for f in ingest([file("a.py", b"x"), file("b.py", b"x")], settings(drop_duplicates=False)))


def test_a_twin_of_a_dropped_file_is_dropped_for_the_same_reason():
    out = ingest([file("a.py", b"a\0"), file("b.py", b"a\0"), file("c", b""), file("d", b"")], settings())
    assert [f.reason for f in out] == ["binary", "binary", "empty", "empty"]


def test_a_file_that_was_not_read_keeps_its_reason_and_size():
    [out] = ingest([SourceFile("s", "a.py", 7, None, "too large")], settings())
    assert (out.reason, out.n_bytes, out.n_lines, out.sha256) == ("too large", 7, 0, "")


def mixed():
    return ingest(
        [
            file("a.py", b"x\n\n" + b"z" * 81 + b"\ny\n"),  # 2 used, 1 blank, 1 too long
            file("b.py", b"x\n\n" + b"z" * 81 + b"\ny\n"),  # duplicate, 4 lines
            file("c.py", b"q\n"),
            file("d.bin", b"\0\1\2"),
            file("e.py", b"\n\n\n"),
            file("f.py", b"# @generated\na\n"),
            file("g.py", b"w" * 81),
            SourceFile("s", "h.py", 999, None, "too large"),
            SourceFile("s", "i.md", 5, None, "not included"),
        ],
        settings(),
    )


def test_the_accounting_is_the_one_made_by_hand():
    assert accounting(mixed()) == {
        "used": {"files": 2, "bytes": 87 + 2, "lines": 3},
        "blank lines": {"files": 0, "bytes": 0, "lines": 1},
        "lines too long": {"files": 0, "bytes": 0, "lines": 1},
        "duplicate": {"files": 1, "bytes": 87, "lines": 4},
        "binary": {"files": 1, "bytes": 3, "lines": 0},
        "empty": {"files": 1, "bytes": 3, "lines": 3},
        "generated": {"files": 1, "bytes": 15, "lines": 2},
        "no usable line": {"files": 1, "bytes": 81, "lines": 1},
        "too large": {"files": 1, "bytes": 999, "lines": 0},
        "not included": {"files": 1, "bytes": 5, "lines": 0},
    }


def test_the_columns_of_the_accounting_add_up_to_what_came_in():
    files = mixed()
    rows = accounting(files).values()
    sums = {key: sum(row[key] for row in rows) for key in ("files", "bytes", "lines")}
    assert sums == {
        "files": len(files),
        "bytes": sum(f.n_bytes for f in files),
        "lines": sum(f.n_lines for f in files),
    }


def test_the_corpus_digest_ignores_dropped_files_and_follows_kept_ones():
    kept, dropped = file("a.py", b"x"), file("b.py", b"")
    digests = [
        corpus_digest(ingest(files, settings()))
        for files in ([kept], [kept, dropped], [file("a.py", b"y")], [file("c.py", b"x")])
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
