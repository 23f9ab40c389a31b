"""Files of multiple-choice questions: CSV, TSV or JSON lines, read row by row, each mistake named by its line.

``null``, ``NA`` and ``nan`` are words like others: nothing is taken for a missing value but an empty cell.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from commbert.corpus.delimited import delimited_cells
from commbert.corpus.jsonlines import json_objects
from commbert.errors import DataError, SourceError

AnswerAs = Literal["auto", "letter", "number", "text"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MAX_ROW_BYTES = 2**20
_NUMBERED = re.compile(r"(?:option|choice)[ _-]?(\d{1,2})", re.IGNORECASE)
_LETTERED = re.compile(r"(?:(?:option|choice)[ _-]?)?([A-Z])", re.IGNORECASE)
_LISTS = ("options", "choices")
_ANSWERS = ("answer", "correct", "correct_answer", "label")
_DOMAINS = ("domain", "category", "subject")
_SPLITS = ("split",)
_SUFFIXES = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": ""}


@dataclass(frozen=True)
class QuestionColumns:
    """Names of the columns; empty: found by their usual names (question, option_1.., A.., options, answer, domain)."""

    question: str = ""
    options: tuple[str, ...] = ()
    """One column per option, or one column that holds them all as a JSON list."""
    answer: str = ""
    domain: str = ""
    answer_as: AnswerAs = "auto"
    """How an answer names its option; ``auto`` refuses one that can be read in two ways."""


@dataclass(frozen=True)
class Question:
    """A question with its options."""

    text: str
    options: tuple[str, ...]
    answer: int | None = None
    """Place of the right option, from 0; None where nobody says."""
    domain: str = ""
    line: int = 0
    """First line of its row; 0 of the command line."""
    split: str = ""
    """What the column ``split`` says, if there is one: a model may have been trained on the questions of some."""


@dataclass(frozen=True)
class QuestionFile:
    """What was read."""

    questions: list[Question]
    skipped: dict[int, str] = field(default_factory=dict)
    """Line and mistake of the rows that were passed over."""


@dataclass(frozen=True)
class _Names:
    question: str
    options: tuple[str, ...]
    is_list: bool
    answer: str | None
    domain: str | None
    split: str | None


def read_questions(path: Path, columns: QuestionColumns | None = None, *, skips_mistakes: bool = False) -> QuestionFile:
    """Read a file of questions; its name ends in .csv, .tsv or .jsonl.

    Empty cells after a row's last option are options that it does not have.

    Args:
        path: The file.
        columns: Names of the columns.
        skips_mistakes: Pass over rows whose content is wrong, and tell their lines; a file that cannot be cut into
            rows for sure is refused all the same.

    Raises:
        DataError: If the file is missing, is no such table, lacks a column, or a row is wrong: with the line.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise DataError(f"{path}: expected a file of questions that ends in {', '.join(_SUFFIXES)}. Rename it.")
    if not path.is_file():
        raise DataError(f"{path}: expected a file of questions, found none. Name another with --file.")
    with path.open("rb") as file:
        return questions_of(file, columns, suffix=suffix, where=str(path), skips_mistakes=skips_mistakes)


def questions_of(
    file: BinaryIO,
    columns: QuestionColumns | None = None,
    *,
    suffix: str = ".jsonl",
    where: str = "standard input",
    skips_mistakes: bool = False,
) -> QuestionFile:
    """Read questions from an open file; see ``read_questions``.

    Args:
        file: Its bytes.
        columns: Names of the columns.
        suffix: What kind of file it is.
        where: What messages call it.
        skips_mistakes: Pass over rows whose content is wrong.

    Raises:
        DataError: As ``read_questions``.
    """
    columns = columns or QuestionColumns()
    questions: list[Question] = []
    skipped: dict[int, str] = {}
    names: _Names | None = None
    try:
        for line, row in _rows(file, _SUFFIXES[suffix], where):
            at = f"{where}, line {line}"
            names = names if names is not None and suffix in (".csv", ".tsv") else _names(list(row), columns, at)
            try:
                questions.append(_question(row, names, columns.answer_as, line, at))
            except DataError as error:
                if not skips_mistakes:
                    raise
                skipped[line] = str(error).removeprefix(f"{at}: ")
    except SourceError as error:
        raise DataError(str(error)) from error
    if not questions:
        raise DataError(f"{where}: expected at least one question, found none. Add rows below the header.")
    return QuestionFile(questions, skipped)


def _rows(file: BinaryIO, delimiter: str, where: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if delimiter:
        yield from cells_by_column(file, delimiter, where=where)
    else:
        yield from json_objects(file, max_bytes=_MAX_ROW_BYTES, where=where)


def cells_by_column(file: BinaryIO, delimiter: str, *, where: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the cells, by column, of each row below the header.

    Raises:
        SourceError: As ``delimited_cells``; also, with the line, if a row has more than 1 MiB.
    """
    with closing(delimited_cells(file, delimiter, max_bytes=_MAX_ROW_BYTES, where=where)) as rows:
        header = next(rows).cells or []
        for row in rows:
            if row.cells is None:
                raise SourceError(
                    f"{where}, line {row.line}: expected a row of at most {_MAX_ROW_BYTES:,} bytes, "
                    f"found {row.n_chars:,} characters. Is a quote missing?"
                )
            yield row.line, dict(zip(header, row.cells, strict=True))


def _names(found: Sequence[str], columns: QuestionColumns, at: str) -> _Names:
    """Return which column is what."""
    question = _one(found, columns.question, ("question",), at)
    if question is None:
        raise DataError(f"{at}: expected a column question, found {_listed(found)}. Name it by --question-column.")
    asked = (columns.question, columns.answer, columns.domain)
    options = columns.options or _option_columns([name for name in found if name not in asked])
    absent = [name for name in options if name not in found]
    if absent or not options:
        raise DataError(
            f"{at}: expected columns {absent[0]!a} of the options, found {_listed(found)}."
            if absent
            else f"{at}: expected columns option_1, option_2 .. or A, B .. or options, found {_listed(found)}. "
            "Name them by --option-column."
        )
    return _Names(
        question=question,
        options=options,
        is_list=len(options) == 1,
        answer=_one(found, columns.answer, _ANSWERS, at),
        domain=_one(found, columns.domain, _DOMAINS, at),
        split=_one(found, "", _SPLITS, at),
    )


def _one(found: Sequence[str], given: str, usual: Sequence[str], at: str) -> str | None:
    if given:
        if given not in found:
            raise DataError(f"{at}: expected a column {given!a}, found {_listed(found)}. Correct the name.")
        return given
    return next((name for want in usual for name in found if name.strip().lower() == want), None)


def _option_columns(found: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of options by their usual names, in the order of their numbers or letters."""
    numbered = {int(m[1]): name for name in found if (m := _NUMBERED.fullmatch(name.strip()))}
    if numbered:
        return tuple(numbered[n] for n in sorted(numbered))
    lists = [name for name in found if name.strip().lower() in _LISTS]
    if lists:
        return (lists[0],)
    lettered = {m[1].upper(): name for name in found if (m := _LETTERED.fullmatch(name.strip()))}
    run = [lettered[c] for i, c in enumerate(LETTERS) if set(LETTERS[: i + 1]) <= lettered.keys()]
    return tuple(run)


def _listed(found: Sequence[str]) -> str:
    return ", ".join(ascii(name[:40]) for name in found[:12]) or "none"


def _question(row: Mapping[str, Any], names: _Names, answer_as: AnswerAs, line: int, at: str) -> Question:
    text = _cell(row, names.question, at)
    cells = _listed_options(row, names.options[0], at) if names.is_list else [_cell(row, n, at) for n in names.options]
    while not names.is_list and cells and not cells[-1]:
        cells.pop()
    labels = [] if names.is_list else [name.strip().lower() for name in names.options]
    problem = option_problem(text, cells)
    if problem:
        raise DataError(f"{at}: {problem}")
    told = _cell(row, names.answer, at) if names.answer is not None else None
    answer = None if told is None else _answer(told, cells, labels, answer_as, at)
    domain = _cell(row, names.domain, at) if names.domain is not None else ""
    split = _cell(row, names.split, at) if names.split is not None else ""
    return Question(text, tuple(cells), answer, domain, line, split)


def option_problem(text: str, options: Sequence[str]) -> str:
    """Return what is wrong with a question, in one line; empty if nothing is."""
    if not text.strip():
        return "expected a question, found an empty text. Write one, or delete the row."
    if not 2 <= len(options) <= len(LETTERS):
        some = "at least two options" if len(options) < 2 else f"at most {len(LETTERS)} options"
        return f"expected {some}, found {len(options)}. {'Add one' if len(options) < 2 else 'Leave some out'}."
    try:
        "".join((text, *options)).encode()
    except UnicodeEncodeError:
        return "expected UTF-8 in question and options, found other bytes. Convert them."
    for number, option in enumerate(options, 1):
        if not option.strip():
            return f"expected text in every option, found none in option {number}. Fill it, or leave it out."
    seen: dict[str, int] = {}
    for number, option in enumerate(options, 1):
        before = seen.setdefault(option.strip(), number)
        if before != number:
            return f"expected different options, found {option.strip()[:60]!a} as options {before} and {number}."
    return ""


def _cell(row: Mapping[str, Any], name: str, at: str) -> str:
    value = row.get(name, "")
    if isinstance(value, dict | list):
        raise DataError(f"{at}: expected text in {name!a}, found a list or an object. Correct the row.")
    # JSON's null is a value that is not there; the word null in a CSV file is text.
    return "" if value is None else str(value).strip()


def _listed_options(row: Mapping[str, Any], name: str, at: str) -> list[str]:
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
        raise DataError(f'{at}: expected a list of texts in {name!a}, such as ["a", "b"]. Correct the row.')
    return [option.strip() for option in value]


def _answer(told: str, options: Sequence[str], labels: Sequence[str], answer_as: AnswerAs, at: str) -> int:
    """Return the place of the option that an answer names."""
    ways: dict[str, int] = {}
    if told in options:
        ways["text"] = options.index(told)
    if len(told) == 1 and 0 <= (place := LETTERS.find(told.upper())) < len(options):
        ways["letter"] = place
    if told.isascii() and told.isdigit() and 0 < int(told[:4]) <= len(options):
        ways["number"] = int(told[:4]) - 1
    # "option 2", "option 2: its text": how some files repeat the column's name.
    name = told.partition(":")[0].strip().lower()
    if answer_as in ("auto", "text") and not ways and name in labels[: len(options)]:
        return labels.index(name)
    if answer_as != "auto":
        ways = {way: place for way, place in ways.items() if way == answer_as}
    if len(set(ways.values())) > 1:
        raise DataError(
            f"{at}: the answer {told!a} is both the {' and the '.join(ways)} of different options. "
            "Say which by --answer-as."
        )
    if not ways:
        one_of = f"A to {LETTERS[len(options) - 1]}, 1 to {len(options)}, or an option's text"
        raise DataError(f"{at}: expected an answer that is an option ({one_of}), found {told[:60]!a}. Correct it.")
    return next(iter(ways.values()))
