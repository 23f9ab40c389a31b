"""What the numbers of a row stand for: files, words and text instead of ids."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from commbert import tables
from commbert.corpus.reading import LEXED
from commbert.errors import CommbertError, DataError, ModelError
from commbert.inspection.opening import KNOWN, Opened, open_tables
from commbert.inspection.rows import Row, take

_LEVELS = 4
"""How many folders up the other tables of a run are looked for: ``results/lex/SHARD/x.parquet`` is the deepest."""


@dataclass(frozen=True)
class Companions:
    """Where the meanings stand; None: look for it in the folders above the table."""

    tokenizer: Path | None = None
    words: Path | None = None
    files: Path | None = None
    texts: Path | None = None


@dataclass
class Told:
    """Rows with their meanings."""

    rows: list[Row]
    """Each with further keys beside the columns of the table."""
    replaced: set[str]
    """Columns that a reader need not see, because their meaning stands beside them."""
    read_with: list[Path]
    notes: list[str]


@dataclass(frozen=True)
class _Meaning:
    """One column of ids."""

    column: str
    meaning: str
    given: Path | None
    find: Callable[[Opened], Path | None]
    read: Callable[[Path, list[Any]], list[Any]]
    """From a place and the values of the column to the meanings."""
    replaces: bool = True


def tell(opened: Opened, rows: list[Row], companions: Companions) -> Told:
    """Add to rows of one of our tables what their ids mean, where that is found.

    Raises:
        CommbertError: If a companion that was given cannot serve. One that was only found is left out, with a note.
    """
    told = Told(rows, set(), [], [])
    if not rows or not opened.name:
        return told
    for meaning in _meanings(companions):
        if meaning.column not in rows[0] or "path" in rows[0]:
            continue
        place = meaning.given or meaning.find(opened)
        if place is not None:
            _tell(told, meaning, place)
    if {"first_line", "last_line"} <= rows[0].keys():
        told.rows = [_placed(row, "lines", f"{row['first_line']}-{row['last_line']}", "last_line") for row in told.rows]
        told.replaced |= {"first_line", "last_line"}
    return told


def _tell(told: Told, meaning: _Meaning, place: Path) -> None:
    try:
        found = meaning.read(place, [row[meaning.column] for row in told.rows])
    except CommbertError as error:
        if meaning.given is not None:
            raise
        told.notes.append(f"{meaning.meaning} is not shown: {error}")
        return
    told.rows = [
        _placed(row, meaning.meaning, value, meaning.column) for row, value in zip(told.rows, found, strict=True)
    ]
    if meaning.replaces:
        told.replaced.add(meaning.column)
    if place not in told.read_with:
        told.read_with.append(place)


def _placed(row: Row, name: str, value: Any, after: str) -> Row:
    """Return the row with one more entry after another one."""
    out: Row = {}
    for key, old in row.items():
        out[key] = old
        if key == after:
            out[name] = value
    return out


def _meanings(given: Companions) -> list[_Meaning]:
    def up(*names: str) -> Callable[[Opened], Path | None]:
        return lambda opened: _above(opened.path, names)

    files, words = up("corpus/files.parquet"), up("tokenizer/words.parquet", "corpus/words.parquet")
    tokenizer = up("tokenizer/tokenizer/tokenizer.json")
    return [
        _Meaning("file_id", "file", given.files, files, _files),
        _Meaning("file_no", "file", given.files, _shard_files, _files),
        _Meaning("word_id_a", "word_a", given.words, words, _words),
        _Meaning("word_id_b", "word_b", given.words, words, _words),
        _Meaning("word_ids", "words", given.words, words, _words),
        _Meaning("text_id_a", "text_a", given.texts, _texts_beside, _paired_texts),
        _Meaning("text_id_b", "text_b", given.texts, _texts_beside, _paired_texts),
        _Meaning("code", "string", None, _strings, _words),
        _Meaning("codes", "strings", None, _strings, _words),
        _Meaning("input_ids", "text", given.tokenizer, tokenizer, _texts, replaces=False),
        _Meaning("token_ids", "tokens", given.tokenizer, tokenizer, _tokens, replaces=False),
    ]


# -- Where it stands ---------------------------------------------------------------------------------------------------


def _above(path: Path, names: Sequence[str]) -> Path | None:
    for folder in list(path.absolute().parents)[:_LEVELS]:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None


def _shard_files(opened: Opened) -> Path | None:
    """Return the files of the shard that the table is of; file numbers count anew in each shard."""
    if len(opened.parts) > 1:
        return None
    path = opened.parts[0].path.absolute()
    beside = path.with_name("files.parquet")
    return beside if beside.is_file() else _above(path.parent, [f"shards/{path.parent.name}/files.parquet"])


def _texts_beside(opened: Opened) -> Path | None:
    """Return the texts that a table of pairs was written with."""
    beside = opened.path.absolute().with_name("texts.parquet")
    return beside if beside.is_file() else None


def _strings(opened: Opened) -> Path | None:
    """Return the strings that the codes of a table in a folder of the stage ``lex`` are row numbers of."""
    path = opened.parts[0].path
    for names in LEXED.values():
        beside = path.with_name(names["strings"])
        if path.name in (names["lines"], names["counts"]) and len(opened.parts) == 1 and beside.is_file():
            return beside
    return None


# -- What it says ------------------------------------------------------------------------------------------------------


def _files(path: Path, values: list[Any]) -> list[Any]:
    def name(row: Row) -> str:
        return f"{row['source']}:{row['path']}" if "source" in row else str(row["path"])

    return _by_row_number(path, values, {tables.FILES.name: "file_id", tables.SHARD_FILES.name: None}, name)


def _words(path: Path, values: list[Any]) -> list[Any]:
    kinds = {tables.WORDS.name: "word_id", tables.CORPUS_WORDS.name: "word_id", tables.SHARD_WORDS.name: None}
    return _by_row_number(path, values, kinds, lambda row: str(row["word"]))


def _paired_texts(path: Path, values: list[Any]) -> list[Any]:
    return _by_row_number(path, values, {tables.TEXTS.name: "text_id"}, lambda row: str(row["text"]))


def _by_row_number(
    path: Path, values: list[Any], kinds: dict[str, str | None], name: Callable[[Row], str]
) -> list[Any]:
    """Return names in place of ids (or of lists of ids), which are row numbers of a table: few row groups are read."""
    [table] = open_tables(path) if path.is_file() else [None]
    if table is None or table.name not in kinds or table.schema != KNOWN[table.name].schema:
        raise DataError(f"{path}: expected a table {' or '.join(kinds)}, found another file. Name one that fits.")
    ids = sorted({i for value in values for i in (value if isinstance(value, list) else [value])})
    there = [i for i in ids if i < table.n_rows]
    key = kinds[table.name]
    columns = [c for c in table.schema.names if c in (key, "source", "path", "word", "text")]
    names = dict(zip(there, take(table, there, columns), strict=True))
    if len(there) < len(ids) or (key and any(row[key] != i for i, row in names.items())):
        raise DataError(
            f"{path}: it is not of the same run, the ids are others. Rerun the stages, or name one that fits."
        )
    texts = {i: name(row) for i, row in names.items()}
    return [[texts[i] for i in value] if isinstance(value, list) else texts[value] for value in values]


def _texts(path: Path, values: list[Any]) -> list[Any]:
    tokenizer = _tokenizer(path, values)
    return [tokenizer.decode(ids, skip_special_tokens=False) for ids in values]


def _tokens(path: Path, values: list[Any]) -> list[Any]:
    tokenizer = _tokenizer(path, values)
    return [[tokenizer.id_to_token(i) for i in ids] for ids in values]


def _tokenizer(path: Path, values: Iterable[list[int]]) -> Tokenizer:
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises Exception itself
        raise ModelError(f"{file}: expected a tokenizer, found: {str(error).splitlines()[0]}") from error
    lacking = sorted({i for ids in values for i in ids if tokenizer.id_to_token(i) is None})
    if lacking:
        raise ModelError(f"{file}: expected the tokenizer of these rows, found one without token {lacking[0]}.")
    return tokenizer
