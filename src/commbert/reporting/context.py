"""Everything a report says, gathered from files that stages wrote. No number is typed in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commbert.provenance import digest
from commbert.reporting.asked import asked_and_done
from commbert.reporting.comparison import figure_rows, hard_gain, headline, lost, neighbour_rows, tiles
from commbert.reporting.energy import cost_section
from commbert.reporting.measured import (
    SYSTEM_FIGURES,
    collapse_lines,
    control_rows,
    geometry_rows,
    meters,
    opposite_rows,
    stratum_rows,
    system_rows,
)
from commbert.reporting.training import method_of, training_section
from commbert.settings.report import CostSettings

VERSION = 2
"""Of the JSON report; a reader of an older one must change."""


@dataclass(frozen=True)
class Sources:
    """Parsed files that a context is made of."""

    run: str
    config: dict[str, Any]
    ingest: dict[str, Any]
    words: dict[str, Any]
    receipts: dict[str, Any]
    windows: dict[str, Any]
    pairs: dict[str, Any]
    training: dict[str, Any]
    model: dict[str, Any]
    model_folder: str
    """Where the model lies, as a user names it."""
    evaluation: dict[str, Any]
    others: dict[str, dict[str, Any]]
    """Evaluation of each column, then of each further row of the table of systems."""
    columns: list[str]
    """Which of the others are columns beside the run."""
    differences: dict[str, dict[str, dict[str, Any] | None]]
    """Column, figure: run minus column with its interval."""
    usage: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]


def build_context(sources: Sources) -> dict[str, Any]:
    """Return the one context of Markdown, HTML and JSON; plain JSON values throughout."""
    run = sources.run
    shown = {run: sources.evaluation, **{name: sources.others[name] for name in sources.columns}}
    all_evaluations = {run: sources.evaluation, **sources.others}
    n_windows = sources.windows["splits"]["train"]["windows"]
    training = {
        **training_section(sources.training, sources.steps, sources.validations, n_windows=n_windows),
        **method_of(sources.config["training"]),
    }
    rows = figure_rows(run, shown, sources.differences)
    systems = system_rows(list(all_evaluations), all_evaluations, sources.differences, sources.usage)
    return {
        "version": VERSION,
        "run": run,
        "columns": list(shown),
        "tiles": tiles(run, rows, list(shown)),
        "headline": [*headline(run, shown, sources.differences), *lost(systems)],
        "rows": rows,
        "alarms": collapse_lines(all_evaluations),
        "system_figures": [label for _, label in SYSTEM_FIGURES],
        "systems": systems,
        "controls": control_rows(sources.evaluation),
        "strata": stratum_rows(all_evaluations, list(shown)),
        "geometry": geometry_rows(all_evaluations),
        "opposites": opposite_rows(all_evaluations),
        "popularity_mrr": sources.evaluation["retrieval"]["retrieval"].get("popularity_mrr"),
        "told": {name: sources.evaluation.get(name) for name in ("retrieval", "acronym", "term", "briefs")},
        "neighbours": neighbour_rows(shown, run),
        "training": training,
        "validations": sources.validations,
        "words": sources.words,
        "receipts": sources.receipts,
        "windows": sources.windows["splits"],
        "model": sources.model,
        "model_folder": sources.model_folder,
        "settings": sources.config,
        "evaluation_settings": sources.evaluation["settings"],
        **_data(sources, training),
        **_costs(sources, training),
        **_provenance(sources),
    }


def _data(sources: Sources, training: Mapping[str, Any]) -> dict[str, Any]:
    leakage = {
        split: {**found, **sources.pairs["leakage"].get(split, {})}
        for split, found in sources.windows["leakage"].items()
    }
    corpus = corpus_section(sources.ingest, is_redacted=sources.config["corpus"]["redact_secrets"])
    data = {
        "corpus": corpus,
        "receipts": sources.receipts,
        "windows": sources.windows["splits"],
        "model": sources.model,
    }
    return {
        "leakage": leakage,
        "meters": meters(leakage, sources.evaluation, training["mean_masked_out_pct"]),
        "corpus": corpus,
        "pairs": {"known_pairs": sources.pairs["known_pairs"], **sources.pairs["splits"]},
        "asked": asked_and_done(sources.config, training, sources.steps, sources.validations, data),
    }


def corpus_section(ingest: Mapping[str, Any], *, is_redacted: bool) -> dict[str, Any]:
    """Return the summary of the corpus with the sums of its accounting and with one form for all kinds of sources."""
    rows = ingest["accounting"].values()
    return {
        **ingest,
        "came_in": {unit: sum(row[unit] for row in rows) for unit in ("files", "bytes", "lines")},
        "sources": [_source(s) for s in ingest["sources"]],
        "secrets_looked_for": is_redacted,
    }


def _source(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **facts,
        "place": next((facts[k] for k in ("package", "url", "path") if k in facts), ""),
        "state": next((facts[k] for k in ("version", "commit") if k in facts), ""),
        # What came is compared with sha256 where the settings give one; digest is of the files that were read.
        "digests": [f"{k} {facts[k]}" for k in ("sha256", "digest") if k in facts],
    }


def _costs(sources: Sources, training: Mapping[str, Any]) -> dict[str, Any]:
    base = sources.others.get("base")
    gain = hard_gain(sources.evaluation["figures"], base["figures"]) if base else None
    cost = CostSettings.model_validate_json(json.dumps(sources.config["report"].get("cost", {})))
    return {
        "stages": sources.usage,
        "stages_total_s": round(sum(u["wall_s"] for u in sources.usage), 1),
        "cost": cost_section(sources.usage, cost, run=sources.run, windows=training["windows_read"], hard_gain=gain),
    }


def _provenance(sources: Sources) -> dict[str, Any]:
    environment, identity = sources.training["environment"], sources.training["identity"]
    commit = environment["commit"]
    return {
        "settings_digest": digest(json.dumps(sources.config, sort_keys=True)),
        "environment": environment,
        "machine": sources.training["machine"],
        "digests": {
            "corpus": sources.ingest["corpus_digest"],
            "training data": identity["data"],
            "tokenizer": identity["tokenizer"],
            "start weights": identity["start_weights"],
            "evaluated weights": sources.evaluation["model_sha256"][:16],
        },
        "reproduce": {
            "commit": None if commit is None else commit.removesuffix("-dirty"),
            "is_dirty": commit is not None and commit.endswith("-dirty"),
            "settings_file": f"reports/{sources.run}_settings.yaml",
            "target": f"reports/{sources.run}_training_report.md",
        },
    }


def reproducing_settings(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the run as a configuration file that is laid over ``config.yaml``."""
    name = context["run"].partition("@")[0]
    settings, model = dict(context["settings"]), context["settings"]["model"]
    starts = settings.pop("runs", {})
    if not starts:
        return {**settings, "runs": {name: {}}}
    # What belongs to this run alone must not reach the runs that come before it.
    own = {key: model[key] for key in ("start", "average_with_base")}
    settings["model"] = {**model, "start": None, "average_with_base": 0.0}
    return {**settings, "runs": {**starts, name: {"model": own}}}
