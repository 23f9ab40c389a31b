"""A labelled table: CSV or TSV, read once, checked, held as token ids and codes; nothing of a row is guessed."""

import hashlib
import re
from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from commbert.artifacts import sha256_file
from commbert.corpus.delimited import CellRow, delimited_cells
from commbert.corpus.pinned import pinned_file
from commbert.errors import DataError
from commbert.rows import Rows
from commbert.settings.finetune import FinetuneSettings
from commbert.tokenization.encoding import encode_words

SPLITS = ("train", "validation", "test")
MAX_ROW_BYTES = 2**20
MAX_CLASSES = 1000
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_CHUNK_ROWS = 8192
_LINES_NAMED = 5

Int64 = NDArray[np.int64]


@dataclass
class Skipped:
    """Rows that were left out for one reason."""

    n: int = 0
    lines: list[int] = field(default_factory=list)
    """Of the first of them."""

    def add(self, line: int) -> None:
        """Count a row."""
        self.n += 1
        if len(self.lines) < _LINES_NAMED:
            self.lines.append(line)


@dataclass(frozen=True)
class LabelledTable:
    """Rows with a text and a label, in the order of the file."""

    tokens: Rows
    """Token ids of each text without [CLS] and [SEP], cut to the longest that is read."""
    labels: list[str]
    """The distinct labels, in the order in which they were met."""
    label: NDArray[np.int32]
    """[n] place of each row's label in ``labels``."""
    split: NDArray[np.int8] | None
    """[n] place of each row's split in ``SPLITS``; None where no column says it."""
    line: Int64
    """[n] where each row begins in the file."""
    text_hash: NDArray[np.uint64]
    """[n] equal for equal texts."""
    sha256: str
    n_rows: int
    """Of the file, with those that were skipped."""
    n_cut: int
    """Texts that were longer."""
    skipped: dict[str, Skipped]
    """``empty text``, ``empty label``."""

    def __len__(self) -> int:
        return len(self.line)


def read_table(path: Path, settings: FinetuneSettings, tokenizer: Tokenizer) -> LabelledTable:
    """Read a table of texts and labels.

    White space around a label is no part of it. A row whose text is empty (or has no character that the tokenizer
    reads), or whose label is empty, is skipped and counted.

    Raises:
        SourceError: With the line, for what cannot be read without guessing, or if the file is missing or not pinned.
        DataError: If a column is missing, a split is misspelt, a row is larger than a MiB, or no row is left.
    """
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise DataError(f"{str(path)!a}: expected a table that ends in .csv or .tsv. Save it as one of them.")
    digest = settings.sha256 or (sha256_file(path) if path.is_file() else "0" * 64)
    with pinned_file(path, digest, str(path)) as file:
        reader = _Reader(settings, tokenizer)
        for row in _rows(file, delimiter, settings, str(path)):
            reader.add(*row)
        table = reader.table(digest)
    if not len(table):
        raise DataError(
            f"{path}: expected rows with a text and a label, found none among {table.n_rows:,} rows. "
            f"Are {settings.text!a} and {settings.label!a} the right columns?"
        )
    return table


def _rows(
    file: BinaryIO, delimiter: str, settings: FinetuneSettings, where: str
) -> Iterator[tuple[int, str, str, int | None]]:
    """Yield line, text, label and place of the split of each row."""
    with closing(delimited_cells(file, delimiter, max_bytes=MAX_ROW_BYTES, where=where)) as rows:
        header = next(rows)
        at = {name: i for i, name in enumerate(header.cells or [])}
        columns = [settings.text, settings.label, *([settings.split.column] if settings.split.column else [])]
        for column in columns:
            if column not in at:
                found = ", ".join(ascii(name[:40]) for name in list(at)[:20])
                raise DataError(
                    f"{where}, line {header.line}: expected a column {column!a}, found {found}. "
                    "Name them by --text-column, --label-column, --split-column, or in the section finetune."
                )
        places = [at[column] for column in columns]
        for row in rows:
            text, label, *split = (_cells(row, where)[place] for place in places)
            yield row.line, text, label.strip(), _split(split[0], row.line, where) if split else None


def _cells(row: CellRow, where: str) -> list[str]:
    if row.cells is None:
        raise DataError(
            f"{where}, line {row.line}: expected a row of at most {MAX_ROW_BYTES:,} characters, "
            f"found {row.n_chars:,}. Shorten its text."
        )
    return row.cells


def _split(cell: str, line: int, where: str) -> int:
    if cell not in SPLITS:
        raise DataError(f"{where}, line {line}: expected the split {', '.join(SPLITS)}, found {cell[:40]!a}.")
    return SPLITS.index(cell)


class _Reader:
    """Collects rows; texts are held only until their chunk is tokenized."""

    def __init__(self, settings: FinetuneSettings, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._longest = settings.max_length - 2
        self._has_split = settings.split.column is not None
        self._labels: dict[str, int] = {}
        self._waiting: list[tuple[int, str, int, int | None]] = []
        self._ids, self._sizes, self._label, self._split = array("i"), array("q"), array("i"), array("b")
        self._line, self._hash = array("q"), array("Q")
        self._n_rows = self._n_cut = 0
        self._skipped = {"empty text": Skipped(), "empty label": Skipped()}

    def add(self, line: int, text: str, label: str, split: int | None) -> None:
        self._n_rows += 1
        if not text.strip():
            self._skipped["empty text"].add(line)
        elif not label:
            self._skipped["empty label"].add(line)
        else:
            self._waiting.append((line, text, self._labels.setdefault(label, len(self._labels)), split))
            if len(self._waiting) == _CHUNK_ROWS:
                self._tokenize()

    def _tokenize(self) -> None:
        encoded = encode_words(self._tokenizer, [text for _, text, _, _ in self._waiting])
        for ids, (line, text, label, split) in zip(encoded, self._waiting, strict=True):
            if not ids:
                self._skipped["empty text"].add(line)
                continue
            self._n_cut += len(ids) > self._longest
            self._ids.extend(ids[: self._longest])
            self._sizes.append(min(len(ids), self._longest))
            self._label.append(label)
            self._line.append(line)
            self._hash.append(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))
            if split is not None:
                self._split.append(split)
        self._waiting = []

    def table(self, sha256: str) -> LabelledTable:
        self._tokenize()
        offsets = np.concatenate([[0], np.cumsum(_array(self._sizes, np.int64))])
        return LabelledTable(
            tokens=Rows.end_to_end(_array(self._ids, np.int32), offsets),
            labels=list(self._labels),
            label=_array(self._label, np.int32),
            split=_array(self._split, np.int8) if self._has_split else None,
            line=_array(self._line, np.int64),
            text_hash=_array(self._hash, np.uint64),
            sha256=sha256,
            n_rows=self._n_rows,
            n_cut=self._n_cut,
            skipped=self._skipped,
        )


def _array(values: "array[Any]", dtype: Any) -> NDArray[Any]:
    return np.frombuffer(values, dtype) if len(values) else np.empty(0, dtype)


def number(text: str) -> float | None:
    """Return the finite number that a text spells in decimal digits; None for any other text (``nan``, ``1_000``)."""
    value = float(text) if _NUMBER.fullmatch(text) else None
    return value if value is not None and np.isfinite(value) else None
