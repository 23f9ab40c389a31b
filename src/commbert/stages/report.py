"""report: the files of a run to its report in Markdown, HTML and JSON, its model card, and how to make it again."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commbert.artifacts import read_json, read_manifest, write_json, write_text
from commbert.evaluation.scores import Draws, between, draws_of, read_scores
from commbert.reporting.context import Sources, build_context, reproducing_settings
from commbert.reporting.curves import loss_figure, optimizer_figure
from commbert.reporting.figures import comparison_figure, empty_figure
from commbert.reporting.listing import figures_table, stages_table
from commbert.reporting.measured import ROWS, SYSTEM_FIGURES
from commbert.reporting.reading import read_metrics, read_samples, read_usage
from commbert.reporting.rendering import as_yaml, render_html, render_markdown
from commbert.reporting.timeline import timeline_figure
from commbert.settings.corpus import CorpusSettings
from commbert.settings.report import CostSettings


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
    embedding_map: Path | None = None
    """The picture of the words on a plane (SVG), where the stage that draws it ran."""
    own_usage_folder: Path | None = None
    """Usage of the stages whose tables are this run's alone; None: it shares all tables."""


@dataclass(frozen=True)
class ReportOutputs:
    """Files that a report becomes."""

    markdown: Path
    json: Path
    html: Path
    card: Path
    """The model card with the figures; the card in the model's folder is older than they are."""
    settings: Path
    """Settings that make the same run again."""
    loss: Path
    figures: Path
    optimizer: Path
    timeline: Path
    figures_table: Path
    stages_table: Path


def run(name: str, *, config: str, inputs: ReportInputs, outputs: ReportOutputs) -> dict[str, Any]:
    """Render the report of one run."""
    sources = _sources(name, config, inputs)
    context = build_context(sources)
    pictures = _pictures(sources, context, inputs)
    for key, path in _picture_paths(outputs).items():
        write_text(path, pictures.get(key) or empty_figure("No sensor was sampled while this run was trained."))
    beside = outputs.markdown.parent
    links = {key: _link(path, beside) for key, path in _picture_paths(outputs).items() if key in pictures}
    if inputs.embedding_map is not None:
        links["map"] = _link(inputs.embedding_map, beside)
    write_text(outputs.markdown, render_markdown("report.md.j2", {**context, "figures": links}))
    write_text(outputs.html, render_html("report.html.j2", context, pictures))
    write_text(outputs.card, render_markdown("evaluated_card.md.j2", context))
    write_text(outputs.settings, as_yaml(reproducing_settings(context)))
    write_text(outputs.figures_table, figures_table(context))
    write_text(outputs.stages_table, stages_table(context))
    write_json(outputs.json, context)
    return {"rows": len(context["rows"])}


def _sources(name: str, config: str, inputs: ReportInputs) -> Sources:
    evaluation, settings = read_json(inputs.evaluation), json.loads(config)
    ours = _figures(inputs.evaluation, evaluation["settings"])
    steps, validations = read_metrics(inputs.metrics)
    corpus = CorpusSettings.model_validate_json(json.dumps(settings["corpus"]))
    cost = CostSettings.model_validate_json(json.dumps(settings["report"]["cost"]))
    return Sources(
        run=name,
        config=settings,
        ingest=read_json(inputs.ingest),
        words=read_json(inputs.words),
        receipts=read_json(inputs.receipts),
        windows=read_json(inputs.windows),
        pairs=read_json(inputs.pairs),
        training=read_json(inputs.training),
        model=read_manifest(inputs.model)["about"],
        model_folder=inputs.model.as_posix(),
        evaluation=evaluation,
        others={column: read_json(path) for column, path in inputs.others.items()},
        # A run that others are compared with is no column beside itself.
        columns=[column for column in settings["report"]["compare_with"] if column in inputs.others],
        differences={
            column: _differences(ours, _figures(path, evaluation["settings"])) for column, path in inputs.others.items()
        },
        usage=read_usage(
            inputs.usage_folder,
            name,
            list(inputs.others),
            set(corpus.shards()),
            cost,
            sources={source.name for source in corpus.sources},
            starts=list(settings.get("runs", {})),
            own_folder=inputs.own_usage_folder,
        ),
        steps=steps,
        validations=validations,
    )


def _pictures(sources: Sources, context: Mapping[str, Any], inputs: ReportInputs) -> dict[str, str]:
    """Return the pictures that there is something to show in, by name."""
    limit = sources.config["training"]["optimizer"]["max_gradient_norm"]
    samples = read_samples(inputs.usage_folder / f"train.{sources.run}.samples.parquet")
    found = {
        "loss": loss_figure(sources.steps, sources.validations),
        "comparison": comparison_figure(context["rows"], context["columns"]),
        "optimizer": optimizer_figure(sources.steps, max_gradient_norm=limit),
        "timeline": timeline_figure(samples, stage=f"train {sources.run}"),
        "map": None if inputs.embedding_map is None else inputs.embedding_map.read_text(encoding="utf-8"),
    }
    return {name: picture for name, picture in found.items() if picture is not None}


def _picture_paths(outputs: ReportOutputs) -> dict[str, Path]:
    return {
        "loss": outputs.loss,
        "comparison": outputs.figures,
        "optimizer": outputs.optimizer,
        "timeline": outputs.timeline,
    }


def _link(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _figures(evaluation: Path, settings: Mapping[str, Any]) -> dict[str, Draws]:
    keys = dict.fromkeys([*(row.key for row in ROWS), *(key for key, _ in SYSTEM_FIGURES)])
    scores = read_scores(evaluation.with_suffix(".scores.parquet"))
    return draws_of(scores, keys, n_resamples=settings["bootstrap"], seed=settings["seed"])


def _differences(ours: Mapping[str, Draws], theirs: Mapping[str, Draws]) -> dict[str, dict[str, Any] | None]:
    found = {key: between(draws, theirs.get(key)) for key, draws in ours.items()}
    return {key: value.as_dict() if value else None for key, value in found.items()}
