"""lex: lines of one shard to the words and pre-tokens of each line, as numbers; text is not read again after this."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from commbert import tables
from commbert.artifacts import atomic_folder
from commbert.corpus.reading import LEXED
from commbert.provenance import digest, digest_of_files
from commbert.settings.words import WordSettings
from commbert.text.interning import Interning
from commbert.text.words import LineCodes, words_of_lines
from commbert.tokenization.encoding import load_tokenizer
from commbert.tokenization.lexing import Lexer
from commbert.tokenization.vocabulary import bert_cutter

_LINES_AT_ONCE = 40_000
"""Larger pieces leave the processor's cache."""


def run(
    settings: WordSettings, *, base: Path | None, lower_case: bool = True, lines: Path, out: Path
) -> dict[str, Any]:
    """Find words and pre-tokens.

    Args:
        settings: What a word is.
        base: Folder of the base model, whose tokenizer says what a pre-token is; None: BERT's own rule.
        lower_case: Without a base, whether letters lose their case (``tokenizer.lower_case``).
        lines: Table shard/lines.
        out: Becomes a folder with, for words and for pre-tokens: the strings by code, the codes of each line, and how
            often each file holds each.
    """
    lexer, interning = Lexer(load_tokenizer(base) if base else bert_cutter(lower_case=lower_case)), Interning()
    provenance = {
        "settings": digest(settings.as_json()) if base else digest(settings.as_json(), str(lower_case)),
        "inputs": digest_of_files([*([base / "tokenizer.json"] if base else []), lines]),
    }
    with atomic_folder(out, about=provenance) as tmp:
        with ExitStack() as stack:
            writers = {
                (kind, what): stack.enter_context(tables.writing(tmp / LEXED[kind][what], table, provenance=provenance))
                for kind in LEXED
                for what, table in (("lines", tables.LINE_CODES), ("counts", tables.FILE_COUNTS))
            }
            for piece in _pieces(lines, settings.text == "code"):
                words = words_of_lines(
                    piece["words_of"],
                    interning,
                    pattern=settings.pattern,
                    min_chars=settings.min_chars,
                    max_chars=settings.max_chars,
                )
                pretokens = lexer.lex(piece["text"])
                writers["word", "lines"].add(_line_columns(piece, words, at_least=2))
                writers["word", "counts"].add(_counts(piece, words))
                writers["pretoken", "lines"].add(_line_columns(piece, pretokens, at_least=0))
                writers["pretoken", "counts"].add(_counts(piece, pretokens))
        for kind, strings in (("word", interning.strings), ("pretoken", lexer.interning.strings)):
            columns = {"word": pa.array(strings, pa.string())}
            tables.write(tmp / LEXED[kind]["strings"], tables.SHARD_WORDS, columns, provenance=provenance)
    return {"words": len(interning.strings), "pretokens": len(lexer.interning.strings)}


def _pieces(lines: Path, of_code: bool) -> Iterable[dict[str, Any]]:
    """Yield whole files, some lines at once."""
    names = ["file_no", "line_no", "text", *(["code"] if of_code else [])]
    for table in tables.read_whole_files(lines, tables.LINES, names):
        for piece in _split_at_files(table, _LINES_AT_ONCE):
            yield {
                "file_no": piece["file_no"].to_numpy(),
                "line_no": piece["line_no"],
                "text": piece["text"],
                "words_of": piece["code" if of_code else "text"],
            }


def _split_at_files(table: pa.Table, n_lines: int) -> Iterable[pa.Table]:
    file_no = table["file_no"].to_numpy()
    at = 0
    while at < table.num_rows:
        last = file_no[min(at + n_lines, table.num_rows) - 1]
        stop = int(np.searchsorted(file_no, last, side="right"))
        yield table.slice(at, stop - at)
        at = stop


def _line_columns(piece: dict[str, Any], found: LineCodes, *, at_least: int) -> dict[str, Any]:
    n = np.diff(found.offsets)
    rows = n >= at_least
    codes = found.codes[np.repeat(rows, n)] if not rows.all() else found.codes
    offsets = np.concatenate([[0], np.cumsum(n[rows])])
    return {
        "file_no": piece["file_no"][rows],
        "line_no": piece["line_no"].to_numpy()[rows],
        "codes": tables.list_array(tables.LINE_CODES, "codes", codes, offsets),
    }


def _counts(piece: dict[str, Any], found: LineCodes) -> dict[str, Any]:
    file_no = np.repeat(piece["file_no"], np.diff(found.offsets))
    frame = pl.DataFrame({"file_no": file_no, "code": found.codes}).group_by("file_no", "code").len("n")
    frame = frame.sort("file_no", "code")
    return {name: frame[name].to_arrow() for name in ("file_no", "code", "n")}
