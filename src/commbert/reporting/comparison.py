"""Figures of the run beside those of the base model and others: the table of before and after, and its headline."""

from collections.abc import Mapping, Sequence
from typing import Any

from commbert.reporting.measured import ROWS, SYSTEM_FIGURES, Row

HARD = ("auc_frequency_matched_novel", "retrieval_mrr")
"""The hard metric is the mean of these (``training.best_metric: hard``), here on the test split."""
_TOLD = {
    "auc_frequency_matched_novel": "AUC of novel pairs against frequency-matched words",
    "retrieval_mrr": "retrieval MRR",
    "mlm_top1": "MLM top-1 accuracy",
}
CHANCE = 0.5
"""AUC of guessing."""
Figures = Mapping[str, Mapping[str, Any] | None]
Differences = Mapping[str, Mapping[str, Mapping[str, Any] | None]]


def figure_rows(
    run: str, evaluations: Mapping[str, Mapping[str, Any]], differences: Differences
) -> list[dict[str, Any]]:
    """Return a row per figure with a cell per column.

    Args:
        run: Name of the run, the first of the columns.
        evaluations: Of each column, in order.
        differences: Of each column but the run: run minus column, by figure.
    """
    rows = []
    for row in ROWS:
        if row.is_optional and not any(is_there(e["figures"].get(row.key)) for e in evaluations.values()):
            continue
        cells: dict[str, Any] = {}
        for name, evaluation in evaluations.items():
            cells[name] = _cell(row, evaluation["figures"].get(row.key))
            if name != run:
                change = differences[name].get(row.key)
                cells[name] |= {"difference": change, "verdict": verdict(change, row.higher_is_better)}
        better = "higher" if row.higher_is_better else "lower"
        rows.append({"key": row.key, "label": row.label, "meaning": row.meaning, "better": better, "cells": cells})
    return rows


def _cell(row: Row, value: Mapping[str, Any] | None) -> dict[str, Any]:
    if value is None or value["value"] is None:
        return {"text": "–", "value": None}
    text = row.style.format(value["value"])
    if value["low"] is not None:
        text += f" [{row.style.format(value['low'])}, {row.style.format(value['high'])}]"
    return {"text": text, **value}


def verdict(change: Mapping[str, Any] | None, higher_is_better: bool) -> str:
    """Return what the interval of the paired difference allows to say."""
    if change is None or change["low"] is None:
        return ""
    if change["low"] <= 0 <= change["high"]:
        return "no difference shown"
    return "better" if (change["value"] > 0) == higher_is_better else "worse"


def headline(run: str, evaluations: Mapping[str, Mapping[str, Any]], differences: Differences) -> list[str]:
    """Return sentences about the hard figures against each column, whatever they say."""
    others = [name for name in evaluations if name != run]
    ours = evaluations[run]["figures"]
    sentences: list[str] = []
    for key, told in _TOLD.items():
        for name in others:
            change, theirs = differences[name].get(key), evaluations[name]["figures"].get(key)
            if change is not None and is_there(theirs) and is_there(ours.get(key)):
                said = verdict(change, True)
                sentences.append(
                    f"{told}: {ours[key]['value']:.3f} against {theirs['value']:.3f} of {name}, "
                    f"difference {change['value']:+.3f}{_interval(change, '+.3f')}{f': {said}' if said else ''}."
                )
        if not others and is_there(ours.get(key)):
            sentences.append(f"{told}: {ours[key]['value']:.3f}{_interval(ours[key])}.")
    unigram = evaluations[run]["unigram"]
    if unigram and is_there(ours.get("mlm_top1")):
        value = ours["mlm_top1"]
        sentences.append(
            f"MLM top-1 accuracy: {value['value']:.3f}{_interval(value)} against "
            f"{unigram['top1']:.3f} of always saying the most frequent token."
        )
    return sentences


def is_there(figure: Mapping[str, Any] | None) -> bool:
    """Return whether the figure was measured."""
    return figure is not None and figure["value"] is not None


def _interval(figure: Mapping[str, Any], style: str = ".3f") -> str:
    return "" if figure["low"] is None else f" [{figure['low']:{style}}, {figure['high']:{style}}]"


def lost(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what speaks against the run: systems that are better than it at something, and AUCs below chance.

    Args:
        rows: Of ``system_rows``, the run first.
    """
    ours = rows[0]["cells"]
    labels = dict(SYSTEM_FIGURES)
    sentences = []
    for row in rows[1:]:
        beaten = [
            f"{labels[key]} ({cell['value']:.3f} against {ours[key]['value']:.3f})"
            for key, cell in row["cells"].items()
            if cell["verdict"] == "run is worse" and is_there(cell) and is_there(ours[key])
        ]
        if beaten:
            sentences.append(f"{row['name']} is better than the run in {', '.join(beaten)}.")
    for key, cell in ours.items():
        if key.startswith("auc_") and (cell.get("high") if cell.get("high") is not None else CHANCE) < CHANCE:
            sentences.append(
                f"{labels[key]} is below chance: {cell['value']:.3f}{_interval(cell)}, where guessing has {CHANCE}; "
                "a difference of two models there says which is less wrong."
            )
    return sentences


def tiles(run: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the few figures that stand on top: the run's, and that of the first column that has it."""
    found = []
    for row in rows:
        ours = row["cells"][run]
        if row["key"] in _TOLD and ours["value"] is not None:
            other = next((name for name in columns if name != run and row["cells"][name]["value"] is not None), None)
            beside = row["cells"][other] if other else {"value": None}
            found.append(
                {
                    "label": _TOLD[row["key"]],
                    "value": ours["value"],
                    "low": ours["low"],
                    "high": ours["high"],
                    "beside": other,
                    "beside_value": beside["value"],
                    "verdict": beside.get("verdict", ""),
                }
            )
    return found


def hard_gain(ours: Figures, base: Figures) -> float | None:
    """Return the hard metric of the run minus the base model's; None where a part of it was not measured."""
    pairs = [(ours.get(key), base.get(key)) for key in HARD]
    found = [a["value"] - b["value"] for a, b in pairs if a and b and None not in (a["value"], b["value"])]
    return sum(found) / len(found) if len(found) == len(HARD) else None


def neighbour_rows(evaluations: Mapping[str, Mapping[str, Any]], run: str) -> list[dict[str, Any]]:
    """Return the nearest words of each telling word, a column per model."""
    return [
        {"word": w, "columns": {name: [n for n, _ in e["neighbours"].get(w, [])] for name, e in evaluations.items()}}
        for w in evaluations[run]["neighbours"]
    ]
