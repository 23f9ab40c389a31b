"""acronyms: the comments of all shards to what their acronyms stand for."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from commbert import tables
from commbert.artifacts import write_json
from commbert.corpus.reading import ShardSplits, splits_of_shards
from commbert.errors import DataError
from commbert.provenance import digest_of_files
from commbert.text.acronyms import chosen_spellings, definitions, may_hold_definitions

_TRAIN = tables.SPLITS.index("train")
_MARKS = r"^(?:/\*+|\*+/?|//+[/!<]*|#+|--+|;+|%+|!+<?|\"{3}|'{3}|\(\*)\s*|\s*(?:\*+/|\"{3}|'{3}|\*\))$"
"""What begins or ends the comment on a line in one language or another."""
_LOOK_BACK = 256
"""Characters of the line before: more than a definition has."""
_MAX_MIXED = 4096
"""Characters of a line whose comment stands between code; of a longer one the comment is not looked for."""
_Counts = Counter[tuple[str, str]]
"""Lines by acronym and expansion."""


def run(
    *, files: Path, shards: Path, lines: Mapping[str, Path], acronyms_out: Path, summary_out: Path
) -> dict[str, Any]:
    """Find the definitions of acronyms in the comments of files that are kept.

    A definition belongs to the line where it ends; it may begin on the line before.

    Args:
        files: Table corpus/files.
        shards: The number of files of each shard.
        lines: Table shard/lines of each shard, by its name.
        acronyms_out: Becomes the table corpus/acronyms.
        summary_out: Becomes counts (JSON).

    Raises:
        DataError: If the tables are not those of all shards of the corpus.
    """
    splits = splits_of_shards(files, shards)
    if set(lines) != set(splits):
        wrong = ", ".join(sorted(set(lines) ^ set(splits))[:3])
        raise DataError(
            f"{shards}: expected the lines of its {len(splits)} shards, found {len(lines)} tables. Wrong or missing: "
            f"{wrong}. Name the lines of every shard."
        )
    total: _Counts = Counter()
    train: _Counts = Counter()
    for name, path in lines.items():
        _count_shard(path, splits[name], total, train)
    rows = _merged(total, train)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(tables.ACRONYMS.schema.names)}
    tables.write(acronyms_out, tables.ACRONYMS, columns, provenance={"inputs": digest_of_files([files])})
    summary = _summary(rows)
    write_json(summary_out, summary)
    return summary


def _count_shard(path: Path, splits: ShardSplits, total: _Counts, train: _Counts) -> None:
    """Add what one shard defines, and on how many lines."""
    for piece in tables.read_whole_files(path, tables.LINES, tables.LINES.schema.names):
        split = splits.of(piece["file_no"].to_numpy(), path)
        comments = _comments(pl.DataFrame(piece).with_columns(split=split).filter(pl.col("split") >= 0))
        text = pl.col("before") + pl.col("own")
        read = comments.select("split", text=text, n_before=pl.col("before").str.len_chars())
        for number, text, n_before in read.filter(may_hold_definitions(read["text"])).iter_rows():
            # What ends before the line's own text was found with the line before.
            found = {(d.acronym, d.expansion) for d in definitions(text) if d.end > n_before}
            total.update(found)
            if number == _TRAIN:
                train.update(found)


def _comments(lines: pl.DataFrame) -> pl.DataFrame:
    """Return the comment of each line that has one, without its marks, and what it goes on from.

    Args:
        lines: Columns file_no, line_no, text, code and split, by file and line.

    Returns:
        Columns own, before (the end of the line before, and a space, if both hold nothing but comment) and split.
    """
    after = pl.col("text").str.strip_prefix(pl.col("code"))
    mixed = (lines["code"] != "") & ~lines.select(pl.col("text").str.starts_with(pl.col("code"))).to_series()
    own = lines.select(pl.when(mixed).then(pl.lit("")).otherwise(after)).to_series()
    rows = (mixed & may_hold_definitions(lines["text"])).arg_true()
    between = [_between(text, code) for text, code in lines[rows].select("text", "code").iter_rows()]
    own = own.scatter(rows, pl.Series(between, dtype=pl.String))
    own = own.str.strip_chars().str.replace_all(_MARKS, "").str.strip_chars()
    is_whole = pl.col("code") == ""
    follows = (pl.col("file_no").diff() == 0) & (pl.col("line_no").diff() == 1)
    goes_on = (is_whole & is_whole.shift(1) & follows).fill_null(value=False)
    before = pl.when(goes_on).then(pl.col("own").shift(1).str.tail(_LOOK_BACK) + pl.lit(" ")).otherwise(pl.lit(""))
    return lines.with_columns(own=own).select("own", "split", before=before).filter(pl.col("own") != "")


def _between(text: str, code: str) -> str:
    """Return what a line has and its code has not, from the first such place to the last."""
    if len(text) > _MAX_MIXED:
        return ""
    n_before = _n_alike(text, code)
    n_after = _n_alike(text[n_before:][::-1], code[n_before:][::-1])
    return text[n_before : len(text) - n_after]


def _n_alike(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _merged(total: _Counts, train: _Counts) -> list[tuple[str, str, int, int]]:
    """Return the rows of the table; a line that spells one expansion in two ways counts twice."""
    spelling = chosen_spellings(total)
    n_lines: _Counts = Counter()
    n_train: _Counts = Counter()
    for (acronym, expansion), n in total.items():
        merged = acronym, spelling[acronym, expansion]
        n_lines[merged] += n
        n_train[merged] += train[acronym, expansion]
    return [(*pair, n_lines[pair], n_train[pair]) for pair in sorted(n_lines)]


def _summary(rows: list[tuple[str, str, int, int]]) -> dict[str, Any]:
    of_acronym = Counter(row[0] for row in rows)
    frequent = sorted(rows, key=lambda row: (-row[2], row))[:20]
    return {
        "pairs": len(rows),
        "pairs_in_training": sum(row[3] > 0 for row in rows),
        "acronyms": len(of_acronym),
        "acronyms_of_several_meanings": sum(n > 1 for n in of_acronym.values()),
        "definitions": sum(row[2] for row in rows),
        "most_frequent": [list(row[:3]) for row in frequent],
    }
