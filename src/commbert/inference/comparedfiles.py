"""Files that models are compared on: what kind each is, and how texts and pairs are read."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from commbert.errors import DataError, SourceError
from commbert.inference.questions import cells_by_column
from commbert.inference.texts import AskedText, read_lines

KINDS = ("text", "code", "questions", "similarity", "pairs", "terms", "labelled")
MOST_TEXTS = 2000
"""Texts of a file that are measured; of more, so many are taken evenly."""
MOST_LABELLED = 20_000
"""Labelled texts of a file that are measured; of more, so many are taken evenly."""
_CODE_CHARS = 600
"""Characters of lines of code that are one text."""
_HEADERS = {
    "terms": {"acronym", "expansion"},
    "similarity": {"a", "b", "relation"},
    "pairs": {"a", "b", "label"},
    "questions": {"question"},
    "labelled": {"text", "label"},
}
_MAX_ROW_BYTES = 2**20


@dataclass(frozen=True)
class ComparedFile:
    """A file and what it holds."""

    kind: str
    """One of ``KINDS``: ``text`` is one text a line, ``code`` a file of lines that belong together."""
    path: Path

    @property
    def shown(self) -> str:
        """What results call it: as it was named, but never where a machine has it."""
        return self.path.name if self.path.is_absolute() else str(self.path)


def told_file(given: str) -> ComparedFile:
    """Return a file of the command line: ``kind:path``, or a path whose header or name tells the kind.

    Raises:
        DataError: If there is no such file, or a table whose kind its columns do not tell.
    """
    prefix, colon, rest = given.partition(":")
    if colon and prefix in KINDS:
        _there(Path(rest))
        return ComparedFile(prefix, Path(rest))
    path = Path(given)
    _there(path)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return ComparedFile("questions", path)
    if suffix not in (".csv", ".tsv"):
        return ComparedFile("text" if suffix in (".txt", ".md", "") else "code", path)
    columns = _header(path, "," if suffix == ".csv" else "\t")
    for kind, wanted in _HEADERS.items():
        if wanted <= columns:
            return ComparedFile(kind, path)
    told = "; ".join(f"{kind}: {', '.join(sorted(wanted))}" for kind, wanted in _HEADERS.items())
    raise DataError(
        f"{path}: expected columns that tell what the table is ({told}), found {', '.join(sorted(columns))[:200]!a}. "
        f"Say it, as in questions:{path.name}."
    )


def _there(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: expected a file to compare on, found none. Kinds before a path: {', '.join(KINDS)}.")


def _header(path: Path, delimiter: str) -> set[str]:
    with path.open("rb") as file:
        first = file.readline(_MAX_ROW_BYTES)
    text = first.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    return {name.strip().lower() for row in csv.reader([text], delimiter=delimiter) for name in row}


def read_texts(file: ComparedFile) -> list[str]:
    """Read the texts of a file: its lines, or for code pieces of some lines each; blank ones are none.

    Of more than ``MOST_TEXTS``, so many are taken at even distances.

    Raises:
        DataError: With the line, if it is no UTF-8, has a NUL byte or is larger than 1 MiB; also if there is no text.
    """
    with file.path.open("rb") as opened:
        lines = [line.text.rstrip() for line in read_lines(opened, str(file.path))]
    texts = _pieces(lines) if file.kind == "code" else lines
    if len(texts) <= MOST_TEXTS:
        return texts
    return [texts[i] for i in np.linspace(0, len(texts) - 1, MOST_TEXTS).astype(np.int64)]


def _pieces(lines: list[str]) -> list[str]:
    """Return lines laid together as long as they are short enough together."""
    out: list[str] = []
    piece: list[str] = []
    n_chars = 0
    for line in lines:
        if piece and n_chars + len(line) > _CODE_CHARS:
            out.append("\n".join(piece))
            piece, n_chars = [], 0
        if line:
            piece.append(line)
            n_chars += len(line) + 1
    return [*out, "\n".join(piece)] if piece else out


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with what is said of them."""

    texts: list[AskedText]
    labels: list[str]
    note: str = ""
    """Which rows were taken, where it is not all of them."""


def read_labelled_texts(path: Path) -> LabelledTexts:
    """Read a table with the columns text and label, as ``commbert finetune`` does; further columns may be.

    Where it has a column ``split``, its rows ``test`` are taken: on others a model may have been trained. Rows without
    text or label are left out.

    Raises:
        DataError: With the line, for what cannot be read without guessing; if a column or all rows are missing.
    """
    texts: list[AskedText] = []
    labels: list[str] = []
    n_rows = n_other = 0
    try:
        with path.open("rb") as file:
            for line, row in cells_by_column(file, "\t" if path.suffix.lower() == ".tsv" else ",", where=str(path)):
                missing = sorted({"text", "label"} - row.keys())
                if missing:
                    raise DataError(f"{path}: expected the columns text, label, found no {missing[0]}. Rename them.")
                n_rows += 1
                n_other += (is_other := row.get("split", "test") != "test")
                if not is_other and row["text"].strip() and row["label"].strip():
                    texts.append(AskedText(row["text"], f"{path}, line {line}"))
                    labels.append(row["label"].strip())
    except SourceError as error:
        raise DataError(str(error)) from error
    if not texts:
        rows = "rows of the split test with text and label" if n_other else "rows with text and label"
        raise DataError(f"{path}: expected {rows}, found none among {n_rows:,} rows. Add some.")
    empty = n_rows - n_other - len(texts)
    told = [f"{n_other:,} of other splits than test"] * bool(n_other) + [f"{empty:,} without text or label"] * bool(
        empty
    )
    if len(texts) > MOST_LABELLED:
        told.append(f"{len(texts) - MOST_LABELLED:,} of the others, evenly,")
        kept = np.linspace(0, len(texts) - 1, MOST_LABELLED).astype(np.int64)
        texts, labels = [texts[i] for i in kept], [labels[i] for i in kept]
    note = f"of {n_rows:,} rows {' and '.join(told)} are left out." if told else ""
    return LabelledTexts(texts, labels, note)


def read_labelled_pairs(path: Path) -> tuple[list[str], list[str], NDArray[np.bool_]]:
    """Read a table with the columns a, b (texts) and label: 1 for related pairs, 0 for others; further columns may be.

    Raises:
        DataError: With the line, if a text is empty or a label neither 1 nor 0, or all pairs are of one kind.
    """
    first: list[str] = []
    second: list[str] = []
    labels: list[bool] = []
    try:
        with path.open("rb") as file:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            for line, row in cells_by_column(file, delimiter, where=str(path)):
                missing = sorted({"a", "b", "label"} - row.keys())
                if missing:
                    raise DataError(f"{path}: expected the columns a, b, label, found no {missing[0]}. Add it.")
                a, b, label = (row[name].strip() for name in ("a", "b", "label"))
                if not a or not b or label not in ("0", "1"):
                    raise DataError(f"{path}, line {line}: expected two texts and a label of 0 or 1, found {label!a}.")
                first.append(a)
                second.append(b)
                labels.append(label == "1")
    except SourceError as error:
        raise DataError(str(error)) from error
    if len(set(labels)) < 2:
        raise DataError(f"{path}: expected pairs of both labels, found {len(set(labels))}. Add the other ones.")
    return first, second, np.array(labels, np.bool_)
