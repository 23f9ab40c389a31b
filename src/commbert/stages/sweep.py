"""sweep: the evaluations of all ablations on the validation split to one table and one picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commbert.artifacts import read_json, write_json, write_text
from commbert.evaluation.scores import Draws, draws_of, read_scores
from commbert.evaluation.seeds import SeedSpread, over_seeds, pooled_spread
from commbert.provenance import digest, environment
from commbert.reporting.rendering import render_html, render_markdown
from commbert.reporting.sweeping import FIGURES, cell, gains, pareto_figure, pareto_front
from commbert.settings.evaluation import EvaluationSettings

_KEYS = [figure.key for figure in FIGURES]


@dataclass(frozen=True)
class SweptRun:
    """A row of the table."""

    changes: dict[str, Any]
    """What the run changes, by section."""
    evaluations: list[Path]
    """validation.json of each seed, the same ones in the same order for all rows; its scores lie beside. A row may lack
    the last ones."""
    trainings: list[Path]
    """training.json of each seed; none for what is not trained."""


@dataclass(frozen=True)
class SweepOutputs:
    """Files that a sweep becomes."""

    markdown: Path
    json: Path
    html: Path
    pareto: Path


def run(
    settings: EvaluationSettings,
    *,
    reference: str,
    runs: Mapping[str, SweptRun],
    others: Mapping[str, Path],
    averages: Mapping[float, Path],
    outputs: SweepOutputs,
) -> dict[str, Any]:
    """Compare all runs with the reference.

    Args:
        settings: The section ``evaluation``: resamples and their seed.
        reference: Name of the run that others are compared with.
        runs: The rows, the reference among them.
        others: validation.json of what is not trained in seeds: ``base`` (or ``untrained``) and baselines.
        averages: validation.json of the reference averaged with its start model, by the start's share.
        outputs: What becomes of them.
    """
    draws = {name: [_draws(path, settings) for path in row.evaluations] for name, row in runs.items()}
    fixed = {name: [_draws(path, settings)] for name, path in others.items()}
    base_name = "base" if "base" in fixed else "untrained"
    base = {key: d.value for key, d in fixed[base_name][0].items()}
    own = draws[reference]
    spreads = _spreads([found for name, found in draws.items() if name != reference], own)
    # A row of fewer seeds is compared with the reference of the same seeds.
    rows = [
        _row(name, found, None if name == reference else own[: len(found)], spreads) for name, found in draws.items()
    ]
    rows += [_row(name, found, own, {}) for name, found in fixed.items()]
    for row in rows:
        swept = runs.get(row["name"])
        row["changes"] = json.dumps(swept.changes, sort_keys=True) if swept and swept.changes else ""
        row["seeds"] = len(swept.evaluations) if swept else 1
        row["trained_s"] = _mean_time(swept.trainings) if swept else None
    points = [
        {**p, "seeds": len(runs[p["name"]].evaluations) if p["name"] in runs else None} for p in _points(rows, base)
    ]
    curve = _curve(averages, base, settings)
    read = [*(p for row in runs.values() for p in row.evaluations), *others.values(), *averages.values()]
    context = {
        "reference": reference,
        "base": f"{base_name} model",
        "columns": [vars(figure) for figure in FIGURES],
        "rows": rows,
        "points": points,
        "front": pareto_front(points),
        "curve": curve,
        "settings": settings.model_dump(mode="json"),
        "inputs": digest(*(read_json(path)["inputs"] for path in read)),
        "environment": environment(),
    }
    picture = pareto_figure(points, curve, reference)
    write_text(outputs.pareto, picture)
    link = outputs.pareto.relative_to(outputs.markdown.parent).as_posix()
    write_text(outputs.markdown, render_markdown("sweep.md.j2", {**context, "figures": {"pareto": link}}))
    write_text(outputs.html, render_html("sweep.html.j2", context, {"pareto": picture}))
    write_json(outputs.json, context)
    return {"rows": len(rows)}


def _draws(evaluation: Path, settings: EvaluationSettings) -> dict[str, Draws]:
    scores = read_scores(evaluation.with_suffix(".scores.parquet"))
    return draws_of(scores, _KEYS, n_resamples=settings.bootstrap, seed=settings.seed)


def _row(
    name: str,
    found: Sequence[dict[str, Draws]],
    reference: Sequence[dict[str, Draws]] | None,
    spreads: Mapping[str, SeedSpread | None],
) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for figure in FIGURES:
        ours, theirs = _of_all_seeds(found, figure.key), _of_all_seeds(reference or [], figure.key)
        # One model against several seeds of the reference: it stands for each of them.
        same = ours * len(theirs) if len(ours) == 1 else ours
        value, change = over_seeds(ours), over_seeds(same, theirs, spread=spreads.get(figure.key))
        cells[figure.key] = cell(vars(value) if value else None, vars(change) if change else None, figure)
    return {"name": name, "cells": cells}


def _spreads(
    rows: Sequence[Sequence[dict[str, Draws]]], reference: Sequence[dict[str, Draws]]
) -> dict[str, SeedSpread | None]:
    """Return how the rows' differences to the reference vary between seeds, by figure."""
    return {
        figure.key: pooled_spread(
            [
                [
                    ours[figure.key].value - theirs[figure.key].value
                    for ours, theirs in zip(row, reference, strict=False)
                ]
                for row in rows
                if all(figure.key in draws for draws in (*row, *reference))
            ]
        )
        for figure in FIGURES
    }


def _of_all_seeds(found: Sequence[dict[str, Draws]], key: str) -> list[Draws]:
    """Return a figure of each seed; nothing if a seed lacks it, for the seeds of two runs are compared in order."""
    return [d[key] for d in found] if all(key in d for d in found) else []


def _points(rows: Sequence[dict[str, Any]], base: Mapping[str, float]) -> list[dict[str, Any]]:
    found = ((row["name"], gains({k: c["found"] for k, c in row["cells"].items()}, base)) for row in rows)
    return [{"name": name, **point} for name, point in found if point is not None]


def _curve(
    averages: Mapping[float, Path], base: Mapping[str, float], settings: EvaluationSettings
) -> list[dict[str, Any]]:
    found = (
        (share, gains({k: {"value": d.value} for k, d in _draws(path, settings).items()}, base))
        for share, path in sorted(averages.items())
    )
    return [{"share": share, **point} for share, point in found if point is not None]


def _mean_time(trainings: Sequence[Path]) -> float | None:
    times = [read_json(path)["trained_s"] for path in trainings]
    return sum(times) / len(times) if times else None
