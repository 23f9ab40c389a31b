"""Two classifiers, or two scorers, on the same labelled texts."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from commbert.errors import DataError
from commbert.evaluation.bootstrap import spearman, spearman_resamples
from commbert.evaluation.scores import Draws
from commbert.inference.answering import wilson
from commbert.inference.classifying import Classifier, classifier_of, scores_of
from commbert.inference.comparedfiles import ComparedFile, LabelledTexts, read_labelled_texts
from commbert.inference.comparison import Case, Measured, Pair, Row, measured, row_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_NO_HEAD = "no classifier head"
_OTHERS = {
    "multi_label_classification": "gives several classes to a text",
    "regression": "gives scores, the other one classes",
}


def labelled(case: Case, file: ComparedFile) -> Iterator[Row]:
    """Yield accuracy and macro F1 of classifiers, or mean absolute error and Spearman's correlation of scorers.

    A label that a classifier does not know counts as wrong. Texts longer than the positions are cut.

    Raises:
        DataError: If the file is no such table, or a label is no number where models give scores.
        ModelError: If a classifier head does not fit its folder.
    """
    heads = [classifier_of(model) for model in case.models]
    reason = _reason(case, heads)
    problems = {head.problem for head in heads if head is not None}
    if not problems or len(problems) > 1 or "multi_label_classification" in problems:
        yield row_of(file, "labels", "", (None, None), reason)
        return
    rows = read_labelled_texts(file.path)
    if rows.note:
        case.notes.append(f"{file.shown}: {rows.note}")
    found = [None if head is None else scores_of(head, rows.texts, truncate=True) for head in heads]
    if problems == {"regression"}:
        yield from _scorers(case, file, rows, found, reason)
    else:
        yield from _classifiers(case, file, rows, heads, found, reason)


def _reason(case: Case, heads: Sequence[Classifier | None]) -> str:
    """Return why figures are missing; empty if none is."""
    if None in heads:
        without = [name for name, head in zip(case.names, heads, strict=True) if head is None]
        return f"{' and '.join(without)}: {_NO_HEAD}"
    problems = [head.problem for head in heads if head is not None]
    if len(set(problems)) == 1 and problems[0] in ("regression", "single_label_classification"):
        return ""
    told = [(name, _OTHERS[p]) for name, p in zip(case.names, problems, strict=True) if p in _OTHERS]
    return "; ".join(f"{name} {what}" for name, what in told)


def _classifiers(
    case: Case,
    file: ComparedFile,
    rows: LabelledTexts,
    heads: Sequence[Classifier | None],
    found: Sequence[NDArray[np.float32] | None],
    reason: str,
) -> Iterator[Row]:
    names = sorted({*rows.labels, *(label for head in heads if head is not None for label in head.labels)})
    place = {name: i for i, name in enumerate(names)}
    truth = np.array([place[label] for label in rows.labels], np.int64)
    called: list[Ints | None] = []
    for name, head, scores in zip(case.names, heads, found, strict=True):
        if head is None or scores is None:
            called.append(None)
            continue
        known = np.array([place[label] for label in head.labels], np.int64)
        called.append(known[scores.argmax(1)])
        n_unknown = int((~np.isin(truth, known)).sum())
        if n_unknown:
            case.notes.append(
                f"{file.shown}: {n_unknown} of {len(truth)} rows have a label that {name} does not know; wrong for it."
            )
    accuracy, macro_f1 = _class_figures(case, truth, called, len(names))
    yield row_of(file, "accuracy", "higher", accuracy, reason)
    yield row_of(file, "macro F1", "higher", macro_f1, reason)


def _class_figures(case: Case, truth: Ints, called: Sequence[Ints | None], n_classes: int) -> tuple[Pair, Pair]:
    """Return accuracy and macro F1 of each model, resampled alike.

    Rows drawn with replacement fall by a multinomial law into the cells (class, class by A, class by B), so cells are
    drawn instead of rows: the same intervals, whatever the number of rows (Efron and Tibshirani 1993, section 5.2).
    """
    n = len(truth)
    columns = np.stack([truth, *(c for c in called if c is not None)])
    cells, counts = np.unique(columns, axis=1, return_counts=True)
    drawn = np.random.default_rng([case.seed, 15]).multinomial(n, counts / n, case.n_resamples)
    weights = np.concatenate([counts[None], drawn]).astype(np.float64)
    column = iter(cells[1:])
    accuracy: list[Measured | None] = []
    macro_f1: list[Measured | None] = []
    for of_model in called:
        if of_model is None:
            accuracy.append(None)
            macro_f1.append(None)
            continue
        said = next(column)
        is_right = cells[0] == said
        shares = weights @ is_right / n
        draws = Draws(float(shares[0]), shares[1:], n)
        accuracy.append(Measured(draws, wilson(int((of_model == truth).sum()), n)))
        f1 = _macro_f1(weights, cells[0], said, n_classes)
        macro_f1.append(measured(Draws(float(f1[0]), f1[1:], n)))
    return (accuracy[0], accuracy[1]), (macro_f1[0], macro_f1[1])


def _macro_f1(weights: Floats, truth: Ints, said: Ints, n_classes: int) -> Floats:
    """Return [resamples] the mean F1 of the classes that stand in the rows or were called.

    Args:
        weights: [resamples, cells] how many rows of each cell there are.
        truth: [cells] the right class.
        said: [cells] the class that was called.
        n_classes: Of all.
    """
    is_of, is_called = (np.eye(n_classes)[labels] for labels in (truth, said))
    hits = weights @ (is_of * is_called)
    both = weights @ (is_of + is_called)
    is_there = both > 0
    return np.asarray((2 * hits / np.maximum(both, 1)).sum(1) / is_there.sum(1))


def _scorers(
    case: Case, file: ComparedFile, rows: LabelledTexts, found: Sequence[NDArray[np.float32] | None], reason: str
) -> Iterator[Row]:
    grades = _grades(rows)
    errors: list[Measured | None] = []
    correlations: list[Measured | None] = []
    for scores in found:
        if scores is None:
            errors.append(None)
            correlations.append(None)
            continue
        said = scores[:, 0].astype(np.float64)
        errors.append(case.mean(np.abs(said - grades), np.arange(len(grades))))
        value = float(spearman(said[None], grades[None])[0])
        draws = Draws(value, spearman_resamples(said, grades, **case.options), len(grades))
        correlations.append(None if np.isnan(value) else measured(draws))
    constant = "a correlation with a constant" if not reason and None in correlations else reason
    yield row_of(file, "mean absolute error", "lower", (errors[0], errors[1]), reason)
    yield row_of(file, "Spearman's correlation", "higher", (correlations[0], correlations[1]), constant)


def _grades(rows: LabelledTexts) -> Floats:
    out = np.empty(len(rows.labels))
    for i, (text, label) in enumerate(zip(rows.texts, rows.labels, strict=True)):
        try:
            out[i] = float(label)
        except ValueError:
            out[i] = np.nan
        if not np.isfinite(out[i]):
            raise DataError(f"{text.where}: expected a number, as the models give scores, found {label[:60]!a}.")
    return out
