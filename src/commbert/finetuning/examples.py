"""A labelled table as training reads it: classes or scores, and which rows train, choose and measure."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from commbert.errors import DataError
from commbert.finetuning.table import MAX_CLASSES, SPLITS, Int64, LabelledTable, number
from commbert.rows import Rows
from commbert.settings.finetune import FinetuneSettings

_log = logging.getLogger(__name__)
_NAMED = 5


@dataclass(frozen=True)
class Examples:
    """The rows of one split."""

    tokens: Rows
    """Of the whole table."""
    row: Int64
    """[n] their places in the table."""
    target: NDArray[Any]
    """[n] class of each row (int64) or its score (float64)."""
    line: Int64
    """[n] where they begin in the file."""

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class Dataset:
    """A table, divided."""

    classes: tuple[str, ...]
    """Names in order; empty for scores."""
    splits: dict[str, Examples]
    """By the names of ``SPLITS``."""
    accounting: dict[str, Any]
    """What was read, skipped, cut, and what stands in several splits; JSON-ready."""


def make_dataset(table: LabelledTable, settings: FinetuneSettings, where: str) -> Dataset:
    """Order the classes, or read the scores, and divide the rows.

    Raises:
        DataError: If there is one class only, a class has too few rows to stand in every split, a score is no number,
            or a class of validation or test has no training row (unless the settings say that such rows be skipped).
    """
    is_scoring = settings.task == "scoring"
    classes = () if is_scoring else ordered(table.labels)
    target: NDArray[Any]
    if is_scoring:
        target = _scores(table, settings, where)
    else:
        _check_classes(classes, table, settings, where)
        target = np.array([classes.index(name) for name in table.labels], np.int64)[table.label]
    split, how = _divided(table, target, classes, settings, where)
    unknown = 0
    if not is_scoring:
        known = np.isin(target, target[split == 0])
        unknown = int((~known).sum())
        if unknown:
            _tell_unknown(table, known, settings, where)
            split = np.where(known, split, -1).astype(np.int8)
            classes, target = _without_unknown(classes, target, split)
        if len(np.unique(target[split == 0])) < 2:
            raise DataError(f"{where}: expected two classes or more among the training rows, found one.")
    splits = {
        name: Examples(table.tokens, rows := np.flatnonzero(split == i), target[rows], table.line[rows])
        for i, name in enumerate(SPLITS)
    }
    for name, examples in splits.items():
        if not len(examples):
            raise DataError(f"{where}: expected rows of the split {name}, found none. Give more rows or larger shares.")
    return Dataset(classes, splits, _accounting(table, target, classes, split, how, unknown))


def ordered(labels: Sequence[str]) -> tuple[str, ...]:
    """Return labels in an order that depends on nothing else: by number if all are numbers, else by character code."""
    numbers = {label: number(label) for label in labels}
    if all(value is not None for value in numbers.values()):
        return tuple(sorted(labels, key=lambda label: (numbers[label], label)))
    return tuple(sorted(labels))


def _check_classes(classes: tuple[str, ...], table: LabelledTable, settings: FinetuneSettings, where: str) -> None:
    if len(classes) == 1:
        raise DataError(
            f"{where}: expected two classes or more in the column {settings.label!a}, found only {classes[0][:60]!a} "
            f"in {len(table):,} rows. There is nothing to learn."
        )
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"{where}: expected at most {MAX_CLASSES:,} classes in the column {settings.label!a}, "
            f"found {len(classes):,}. Is it the right column? Numbers can be learnt with task scoring."
        )
    alike: dict[object, list[str]] = {}
    for name in classes:
        value = number(name)
        alike.setdefault(name.casefold() if value is None else value, []).append(name)
    for names in alike.values():
        if len(names) > 1:
            told = ", ".join(ascii(name[:60]) for name in names)
            _log.warning("%s: the classes %s are spelt alike; they stay different classes", where, told)


def _scores(table: LabelledTable, settings: FinetuneSettings, where: str) -> NDArray[np.float64]:
    values = [number(label) for label in table.labels]
    for place, value in enumerate(values):
        if value is None:
            line = int(table.line[np.argmax(table.label == place)])
            raise DataError(
                f"{where}, line {line}: expected a number in {settings.label!a}, found {table.labels[place][:60]!a}. "
                "Write a number, or use task classification."
            )
    scores = np.array(values, np.float64)[table.label]
    if np.ptp(scores) == 0:
        raise DataError(f"{where}: expected different scores, found {scores[0]:g} in every row. Nothing to learn.")
    return scores


def _divided(
    table: LabelledTable, target: NDArray[Any], classes: tuple[str, ...], settings: FinetuneSettings, where: str
) -> tuple[NDArray[np.int8], str]:
    """Return the place of each row's split in ``SPLITS``, and how it was found."""
    if table.split is None:
        chosen = np.zeros(len(table), np.int8)
        shares = {2: settings.split.test, 1: settings.split.validation}
        how = "drawn at random" if not classes else "drawn at random, of each class alike"
    else:
        chosen, shares, how = table.split.copy(), {}, f"as the column {settings.split.column} says"
        for name in ("train", "test"):
            if not (chosen == SPLITS.index(name)).any():
                raise DataError(
                    f"{where}: expected rows of the split {name} in {settings.split.column!a}, found none. "
                    "Name some, or let the rows be drawn (split.column: null)."
                )
        if not (chosen == 1).any():
            shares = {1: settings.split.validation}
            how += ", validation drawn of its training rows"
    left = len(table) if table.split is None else int((chosen == 0).sum())
    if shares:
        _check_rows_of_classes(table, target, classes, chosen == 0, 1 + len(shares), where)
    for place, share in shares.items():
        rows = np.flatnonzero(chosen == 0)
        n = max(1, len(classes), round(share * left))
        if len(rows) - n < max(1, len(classes)):
            raise DataError(
                f"{where}: expected enough rows for {len(classes) or 1} classes in every split, found {left:,}. "
                "Give more rows, or smaller shares."
            )
        _, held = train_test_split(
            rows, test_size=n, stratify=target[rows] if classes else None, random_state=settings.seed
        )
        chosen[held] = place
    return chosen, how


def _check_rows_of_classes(
    table: LabelledTable,
    target: NDArray[Any],
    classes: tuple[str, ...],
    among: NDArray[np.bool_],
    n_needed: int,
    where: str,
) -> None:
    counts = np.bincount(target[among], minlength=len(classes)) if classes else np.empty(0, np.int64)
    few = np.flatnonzero((counts < n_needed) & (counts > 0))
    if len(few):
        lines = table.line[among & (target == few[0])]
        more = f" (and {len(few) - 1} more such classes)" if len(few) > 1 else ""
        raise DataError(
            f"{where}: expected at least {n_needed} rows of every class, one for each split, found {len(lines)} of "
            f"{classes[few[0]][:60]!a} in line {', '.join(map(str, lines))}{more}. "
            "Give more rows of it, leave it out, or name a split column."
        )


def _tell_unknown(table: LabelledTable, known: NDArray[np.bool_], settings: FinetuneSettings, where: str) -> None:
    lacking = sorted({table.labels[place] for place in table.label[~known]})
    lines = ", ".join(map(str, table.line[~known][:_NAMED]))
    names = ", ".join(ascii(name[:60]) for name in lacking[:_NAMED])
    told = (
        f"{where}: {int((~known).sum()):,} rows of validation and test have classes that no training row has: "
        f"{names}{' ...' if len(lacking) > _NAMED else ''} (line {lines})"
    )
    if settings.unknown_labels == "refuse":
        raise DataError(f"{told}. Add training rows of them, or set unknown_labels to skip.")
    _log.warning("%s; they are skipped", told)


def _without_unknown(
    classes: tuple[str, ...], target: NDArray[Any], split: NDArray[np.int8]
) -> tuple[tuple[str, ...], NDArray[Any]]:
    """Return the classes that training knows, and the targets among them (0 for rows of other classes)."""
    known = np.unique(target[split == 0])
    places = np.zeros(len(classes), np.int64)
    places[known] = np.arange(len(known))
    return tuple(classes[i] for i in known), places[target]


def _accounting(
    table: LabelledTable,
    target: NDArray[Any],
    classes: tuple[str, ...],
    split: NDArray[np.int8],
    how: str,
    unknown: int,
) -> dict[str, Any]:
    train = np.unique(table.text_hash[split == 0])
    of_test = table.text_hash[split == 2]
    pairs = np.unique(np.stack([table.text_hash, table.label.astype(np.uint64)]), axis=1)
    _, labels_of_text = np.unique(pairs[0], return_counts=True)
    rows = {name: int((split == i).sum()) for i, name in enumerate(SPLITS)}
    return {
        "sha256": table.sha256,
        "rows_read": table.n_rows,
        "skipped": {reason: vars(skipped) for reason, skipped in table.skipped.items()},
        "unknown_labels_skipped": unknown,
        "cut": table.n_cut,
        "split": how,
        "rows": rows,
        "rows_of_class": {
            name: {s: int(((split == i) & (target == c)).sum()) for i, s in enumerate(SPLITS)}
            for c, name in enumerate(classes)
        },
        "test_texts_also_in_training": int(np.isin(of_test, train).sum()),
        "texts_with_several_labels": int((labels_of_text > 1).sum()),
    }
