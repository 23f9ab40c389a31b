"""report: the files of a run to its report in Markdown, HTML and JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commbert.artifacts import read_json, read_manifest, write_json, write_text
from commbert.evaluation.scores import Draws, between, draws_of, read_scores
from commbert.reporting.context import Sources, build_context, read_metrics, read_usage
from commbert.reporting.figures import comparison_figure, loss_figure
from commbert.reporting.measured import ROWS, SYSTEM_FIGURES
from commbert.reporting.rendering import render_html, render_markdown
from commbert.settings.corpus import CorpusSettings


@dataclass(frozen=True)
class ReportInputs:
    """Files that a report is made from."""

    ingest: Path
    words: Path
    receipts: Path
    windows: Path
    pairs: Path
    training: Path
    metrics: Path
    model: Path
    evaluation: Path
    usage_folder: Path
    others: dict[str, Path]
    """Name and evaluation.json of each further column and system; its scores lie beside."""


@dataclass(frozen=True)
class ReportOutputs:
    """Files that a report becomes."""

    markdown: Path
    json: Path
    html: Path
    loss: Path
    figures: Path


def run(name: str, *, config: str, inputs: ReportInputs, outputs: ReportOutputs) -> dict[str, Any]:
    """Render the report of one run."""
    evaluation = read_json(inputs.evaluation)
    ours = _figures(inputs.evaluation, evaluation["settings"])
    steps, validations = read_metrics(inputs.metrics)
    sources = Sources(
        run=name,
        config=json.loads(config),
        ingest=read_json(inputs.ingest),
        words=read_json(inputs.words),
        receipts=read_json(inputs.receipts),
        windows=read_json(inputs.windows),
        pairs=read_json(inputs.pairs),
        training=read_json(inputs.training),
        model=read_manifest(inputs.model)["about"],
        evaluation=evaluation,
        others={column: read_json(path) for column, path in inputs.others.items()},
        # A run that others are compared with is no column beside itself.
        columns=[column for column in json.loads(config)["report"]["compare_with"] if column in inputs.others],
        differences={
            column: _differences(ours, _figures(path, evaluation["settings"])) for column, path in inputs.others.items()
        },
        usage=read_usage(inputs.usage_folder, name, list(inputs.others), _shards(config)),
        steps=steps,
        validations=validations,
    )
    context = build_context(sources)
    loss = loss_figure(steps, validations)
    figures = comparison_figure(context["rows"], context["columns"])
    write_text(outputs.loss, loss)
    write_text(outputs.figures, figures)
    links = {
        "loss": outputs.loss.relative_to(outputs.markdown.parent).as_posix(),
        "comparison": outputs.figures.relative_to(outputs.markdown.parent).as_posix(),
    }
    write_text(outputs.markdown, render_markdown("report.md.j2", {**context, "figures": links}))
    write_text(outputs.html, render_html("report.html.j2", context, {"loss": loss, "comparison": figures}))
    write_json(outputs.json, context)
    return {"rows": len(context["rows"])}


def _shards(config: str) -> set[str]:
    corpus = json.dumps(json.loads(config)["corpus"])
    return set(CorpusSettings.model_validate_json(corpus).shards())


def _figures(evaluation: Path, settings: Mapping[str, Any]) -> dict[str, Draws]:
    keys = dict.fromkeys([*(row.key for row in ROWS), *(key for key, _ in SYSTEM_FIGURES)])
    scores = read_scores(evaluation.with_suffix(".scores.parquet"))
    return draws_of(scores, keys, n_resamples=settings["bootstrap"], seed=settings["seed"])


def _differences(ours: Mapping[str, Draws], theirs: Mapping[str, Draws]) -> dict[str, dict[str, Any] | None]:
    found = {key: between(draws, theirs.get(key)) for key, draws in ours.items()}
    return {key: value.as_dict() if value else None for key, value in found.items()}
