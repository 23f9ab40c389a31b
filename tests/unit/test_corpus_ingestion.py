import hashlib
import itertools

import numpy as np
import pyarrow as pa
import pytest

from commbert import tables
from commbert.corpus import ingestion
from commbert.corpus.duplicates import LONG_LINE_CHARS
from commbert.corpus.ingestion import accounting, file_columns, ingest, reason_class
from commbert.corpus.selection import SourceFile
from commbert.settings.corpus import Cleaning
from commbert.text.comments import without_comments
from commbert.text.decoding import decode

KEY = "AKIAQ3EGRTH5JWZ7XV2B"
LICENCE = "/* Copyright 2020 A. Author\n * Licensed under the MIT licence. */\n"


def settings(**changes):
    return Cleaning(max_line_chars=80, **changes)


def file(path, data):
    return SourceFile("s", path, len(data), data, "")


def read(files, **changes):
    """Return files, lines (file_no, line_no, text, code) and secrets."""
    out, table, secrets = read_table(files, **changes)
    names = ("file_no", "line_no", "text", "code")
    return out, list(zip(*(table[name].to_pylist() for name in names), strict=True)), secrets


def read_table(files, **changes):
    pieces = []
    out, secrets = ingest(files, settings(**changes), pieces.append)
    kinds = tables.LINES.schema
    return out, pa.concat_tables([kinds.empty_table(), *(pa.table(p).cast(kinds) for p in pieces)]), secrets


def indents(text):
    """Return the indents of the lines of one file that are used."""
    return read_table([file("a.c", text.encode())])[1]["indent"].to_pylist()


def one(path, data, **changes):
    [out], lines, _ = read([file(path, data)], **changes)
    assert all(number == 0 for number, *_ in lines)
    return out, [row[1:] for row in lines]


def counts(f):
    return (f.n_lines, f.n_used_lines, f.n_blank_lines, f.n_long_lines, f.n_licence_lines)


def test_lines_keep_number_text_and_code():
    _, lines = one("a.py", b"\n  x = 1  # one\n\n# all comment\ny\n")
    assert lines == [(2, "x = 1  # one", "x = 1"), (4, "# all comment", ""), (5, "y", "y")]


@pytest.mark.parametrize(
    ("line", "indent"),
    [
        ("x", 0),
        ("    x  ", 4),
        ("\tx", 8),
        ("\t\t x", 17),
        ("   \tx", 8),
        ("        \tx", 16),
        ("\t \t  x", 18),
        ("\xa0\u3000x\ty", 2),
        ("    \f  x", 2),
        (" " * 65535 + "x", 65535),
        (" " * 65536 + "x", 65535),
        ("\t" * 9000 + "x", 65535),
    ],
)
def test_the_indent_of_a_line_is_the_column_that_it_begins_in(line, indent):
    assert indents(f"a\n{line}\n  b\n{line}") == [0, indent, 2, indent]


def test_an_indent_is_counted_as_a_screen_counts_it():
    rng = np.random.default_rng(21)
    leads = ["".join(rng.choice([" ", "\t"], rng.integers(0, 9))) for _ in range(500)]
    expected = []
    for lead in leads:
        column = 0
        for sign in lead:
            column = column + 1 if sign == " " else (column // 8 + 1) * 8
        expected.append(column)
    assert indents("\n".join(lead + "x" for lead in leads)) == expected


def test_an_indent_of_a_line_whose_secret_was_redacted_is_that_of_the_line():
    assert indents(f'if x:\n\n    key = "{KEY}"\n\t\n  y') == [0, 4, 2]


def test_a_comment_over_several_lines_leaves_their_code_empty():
    _, lines = one("a.c", b"a; /* b\nc\nd */ e;\n")
    assert lines == [(1, "a; /* b", "a;"), (2, "c", ""), (3, "d */ e;", "e;")]


def test_lines_that_end_in_carriage_returns_are_lines():
    assert one("a.py", b"a\rb\r\nc")[1] == [(1, "a", "a"), (2, "b", "b"), (3, "c", "c")]


def test_a_line_of_the_limit_stays_and_one_character_more_goes():
    out, lines = one("a.py", b"x" * 80 + b"\n" + b"y" * 81 + b"\nz\n")
    assert ([n for n, _, _ in lines], counts(out)) == ([1, 3], (3, 2, 0, 1, 0))


def test_the_space_around_a_line_does_not_make_it_too_long():
    assert one("a.py", b" " * 100 + b"x" * 80 + b"\t" * 9)[1] == [(1, "x" * 80, "x" * 80)]


def test_the_digest_is_of_the_raw_bytes():
    data = b"\xef\xbb\xbfa\r\n"
    assert one("a.py", data)[0].sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t\r\n\f\n", "empty"),
        (b"a\0b", "binary"),
        (b"# @generated\nx = 1\n", "generated"),
        (b"0x1f, 0x2e, 0x3d, 0x4c,\n" * 300, "table of numbers"),
        (b"y" * 81, "no usable line"),
        (b"# Copyright 2020 A. Author\n", "no usable line"),
        (b"x = 1", ""),
    ],
)
def test_a_file_without_source_text_is_dropped_with_its_reason(data, reason):
    out, lines = one("a.py", data)
    assert (out.reason, lines == []) == (reason, bool(reason))


@pytest.mark.parametrize("data", [b"# @generated\nx = 1\n", b"0x1f, 0x2e, 0x3d, 0x4c,\n" * 300])
def test_a_generated_file_is_kept_where_the_setting_says_so(data):
    assert one("a.py", data, drop_generated=False)[0].reason == ""


def test_a_file_that_was_not_read_keeps_its_reason_and_size():
    [out], lines, _ = read([SourceFile("s", "a.py", 7, None, "too large")])
    assert (out.reason, out.n_bytes, out.n_lines, out.sha256, lines) == ("too large", 7, 0, "", [])


def test_no_files_write_nothing():
    assert read([]) == ([], [], {})


def test_a_licence_at_the_head_is_left_out_and_its_blank_lines_are_blank():
    data = f"{LICENCE}\n/* Copyright 2021 B. */\nint x;\n".encode()
    out, lines = one("a.c", data)
    assert (lines, counts(out)) == ([(5, "int x;", "int x;")], (5, 1, 1, 0, 3))


def test_a_licence_stays_where_the_setting_says_so():
    out, lines = one("a.c", f"{LICENCE}int x;\n".encode(), drop_licence_headers=False)
    assert ([n for n, _, _ in lines], counts(out)) == ([1, 2, 3], (3, 3, 0, 0, 0))


def test_a_long_line_of_a_licence_is_a_licence_line():
    data = b"// Copyright 2020 A. Author " + b"and others " * 10 + b"\nint x;\n"
    assert counts(one("a.c", data)[0]) == (2, 1, 0, 0, 1)


def test_a_secret_is_replaced_in_text_and_code_and_counted():
    data = f'a = "{KEY}"  # {KEY}\nb = 1\n'.encode()
    [out], lines, secrets = read([file("a.py", data), file("b.py", b"x\n")][:1])
    assert lines == [(0, 1, 'a = "********"  # ********', 'a = "********"'), (0, 2, "b = 1", "b = 1")]
    assert (out.n_secrets, secrets) == (2, {"AWS key": 2})


def test_a_secret_over_several_lines_leaves_their_numbers():
    body = "\n".join("MIIEpAIBAAKCAQEA7bq1cT9yLzXw0KfVhQ2uN8rPjEoSdGmA4tRkYpWvCi5xZl3B"[i:] for i in range(3))
    data = f"a\n-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\nb\n".encode()
    out, lines = one("a.txt", data)
    assert (lines[0][:2], lines[-1][:2], out.n_lines) == ((1, "a"), (7, "b"), 7)
    assert "MIIE" not in str(lines)
    assert out.n_secrets > 0


def test_secrets_stay_where_the_setting_says_so():
    [out], lines, secrets = read([file("a.py", f'a = "{KEY}"\n'.encode())], redact_secrets=False)
    assert (lines[0][2], out.n_secrets, secrets) == (f'a = "{KEY}"', 0, {})


def test_the_hashes_of_a_file_are_of_its_distinct_long_used_lines_sorted():
    long, short = "x" * LONG_LINE_CHARS, "y" * (LONG_LINE_CHARS - 1)
    one_, two, three = (
        one("a.py", "\n".join(lines).encode())[0].line_hashes.tolist()
        for lines in ([long, short, f"  {long}  ", "z" * 81], [long], [short, "q = 1"])
    )
    assert (len(one_), one_, three) == (1, two, [])
    assert [
        len(one("a", ("中" * n).encode())[0].line_hashes) for n in (LONG_LINE_CHARS // 2 - 1, LONG_LINE_CHARS // 2)
    ] == [
        0,
        1,
    ]
    many = [f"value_{i} = {i} + another_{i}" for i in range(50)]
    found = one("a.py", "\n".join([*many, *many]).encode())[0].line_hashes
    assert found.tolist() == sorted(set(found.tolist()))
    assert len(found) == 50


def test_hashes_of_one_file_are_not_those_of_its_neighbour():
    lines = [f"a line that is long enough {i}" for i in range(6)]
    files = [file(f"{i}.txt", text.encode()) for i, text in enumerate([*lines, "short", lines[0]])]
    out, _, _ = read(files)
    assert [len(f.line_hashes) for f in out] == [1] * 6 + [0, 1]
    assert out[0].line_hashes.tolist() == out[7].line_hashes.tolist()
    assert len({int(f.line_hashes[0]) for f in out[:6]}) == 6


# -- Random files ------------------------------------------------------------------------------------------------------

ENDS = ("\n", "\r\n", "\r")
PARTS = (
    "x = 1", "", "  ", "\t", "\f", "\u00a0", "\u2003", "\x1c", "\u2028 b", "\x85", "é = 2", "信道", "// comment",
    "# hash", "/* open", "close */ y", '"""', "'''doc", '"unterminated', "#define A \\", "z" * 81, " " * 90,
    "long_name = harq_process(index, 12)", "# Copyright 2020 A. Author", "// SPDX-License-Identifier: MIT",
    " * all rights reserved", f'key = "{KEY}"', 'password = "hunter2hunter2"', "}", "#!/bin/sh", "a\u200bb", "😀 = 3",
    "\ufeff", "-----BEGIN RSA PRIVATE KEY-----", "MIIEpAIBAAKCAQEA7bq1cT9yLzXw0KfVhQ2uN8rPjEoSdGmA4tRkYpWvCi5xZl3B",
    "-----END RSA PRIVATE KEY-----",
)  # fmt: skip
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1")


def random_files(n, seed=17):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        some = [PARTS[j] for j in rng.integers(0, len(PARTS), rng.integers(0, 12))]
        ends = [ENDS[j] for j in rng.integers(0, 3, len(some))]
        if rng.random() < 0.5 and ends:
            ends[-1] = ""
        text = "".join(itertools.chain.from_iterable(zip(some, ends, strict=True)))
        data = text.encode(ENCODINGS[rng.integers(len(ENCODINGS))], "replace")
        suffix = ("c", "py", "cpp", "txt", "rs", "sh", "m", "vhd")[rng.integers(8)]
        out.append(file(f"d{i % 7}/f{i}.{suffix}", data + b"\0" * int(rng.random() < 0.03)))
        if i % 40 == 9:
            out.append(SourceFile("s", f"d/{i}.bin", 12, None, "not included"))
    return out


def plain_lines(data):
    text = decode(data).text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return text[:-1] if text[-1] == "" else text


def test_every_line_of_a_file_is_used_blank_long_or_of_the_licence():
    files = random_files(600)
    out, lines, _ = read(files)
    n_rows = np.bincount([row[0] for row in lines], minlength=len(out))
    kinds = np.zeros(5, np.int64)
    for i, (source, f) in enumerate(zip(files, out, strict=True)):
        assert f.n_used_lines == n_rows[i]
        if source.data is None or f.encoding == "binary":
            assert counts(f) == (0, 0, 0, 0, 0)
            continue
        assert f.n_lines == len(plain_lines(source.data))
        if f.reason not in ("generated", "table of numbers"):
            assert f.n_lines == f.n_used_lines + f.n_blank_lines + f.n_long_lines + f.n_licence_lines, source
        assert bool(f.reason) == (f.n_used_lines == 0)
        kinds += counts(f)
    assert (kinds > 25).all()


def test_text_and_code_are_those_of_the_line_with_that_number_in_the_original():
    files = random_files(600, seed=18)
    _, lines, _ = read(files, redact_secrets=False)
    originals, codes = {}, {}
    for i, source in enumerate(files):
        if source.data is not None and decode(source.data).text is not None:
            originals[i] = plain_lines(source.data)
            language = ingestion.language_of(source.path)
            codes[i] = without_comments("\n".join(originals[i]), language).split("\n")
    assert len(lines) > 1500
    n_other = 0
    for file_no, line_no, text, code in lines:
        space = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and c not in "\x1c\x1d\x1e\x1f")
        assert text == originals[file_no][line_no - 1].strip(space)
        assert code == codes[file_no][line_no - 1].strip(space)
        n_other += text != code
    assert n_other > 100


def test_lines_come_by_file_and_number_and_each_once():
    _, lines, _ = read(random_files(300, seed=19))
    places = [row[:2] for row in lines]
    assert places == sorted(set(places))


@pytest.mark.parametrize("n_chars", [1, 50, 500])
def test_lines_are_the_same_in_small_pieces_and_in_one(monkeypatch, n_chars):
    files = random_files(200, seed=20)
    whole = read(files)
    monkeypatch.setattr(ingestion, "_CHUNK_CHARS", n_chars)
    pieces = []
    ingest(files, settings(), pieces.append)
    assert len(pieces) > 5
    out, lines, secrets = read(files)
    assert (lines, secrets) == whole[1:]
    for ours, theirs in zip(out, whole[0], strict=True):
        assert {**vars(ours), "line_hashes": ours.line_hashes.tolist()} == {
            **vars(theirs),
            "line_hashes": theirs.line_hashes.tolist(),
        }


def test_secrets_are_counted_by_file_and_in_sum():
    out, lines, secrets = read(random_files(600, seed=21))
    assert sum(secrets.values()) == sum(f.n_secrets for f in out) > 100
    assert not any(KEY in part for row in lines for part in row[2:])


# -- Accounting --------------------------------------------------------------------------------------------------------


def mixed():
    files = [
        file("a.c", LICENCE.encode() + b"x\n\n" + b"z" * 81 + b"\ny\n"),  # 2 used, 1 blank, 1 too long, 2 licence
        file("b.c", b"x\n\n" + b"z" * 81 + b"\ny\n"),  # called a duplicate below, 4 lines
        file("c.py", b"q\n"),
        file("d.bin", b"\0\1\2"),
        file("e.py", b"\n\n\n"),
        file("f.py", b"# @generated\na\n"),
        file("g.py", b"w" * 81),
        SourceFile("s", "h.py", 999, None, "too large"),
        SourceFile("s", "i.md", 5, None, "not included"),
    ]
    out, _, _ = read(files)
    out[1].reason = "near duplicate of s:a.c (90 % of their lines)"
    return file_columns(out)


def test_the_accounting_is_the_one_made_by_hand():
    assert accounting(mixed()) == {
        "used": {"files": 2, "bytes": len(LICENCE) + 87 + 2, "lines": 3},
        "blank lines": {"files": 0, "bytes": 0, "lines": 1},
        "lines too long": {"files": 0, "bytes": 0, "lines": 1},
        "licence headers": {"files": 0, "bytes": 0, "lines": 2},
        "near duplicate": {"files": 1, "bytes": 87, "lines": 4},
        "binary": {"files": 1, "bytes": 3, "lines": 0},
        "empty": {"files": 1, "bytes": 3, "lines": 3},
        "generated": {"files": 1, "bytes": 15, "lines": 2},
        "no usable line": {"files": 1, "bytes": 81, "lines": 1},
        "too large": {"files": 1, "bytes": 999, "lines": 0},
        "not included": {"files": 1, "bytes": 5, "lines": 0},
    }


def test_the_columns_of_the_accounting_add_up_to_what_came_in():
    columns = file_columns(read(random_files(600, seed=22))[0])
    rows = accounting(columns).values()
    sums = {key: sum(row[key] for row in rows) for key in ("files", "bytes", "lines")}
    assert sums == {
        "files": len(columns["path"]),
        "bytes": sum(columns["n_bytes"]),
        "lines": sum(columns["n_lines"]),
    }


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("duplicate of s:a.py", "duplicate"),
        ("near duplicate of s:a.py (93 % of their lines)", "near duplicate"),
        ("binary", "binary"),
        ("", ""),
    ],
)
def test_a_reason_is_counted_without_the_file_that_it_names(reason, kind):
    assert reason_class(reason) == kind
