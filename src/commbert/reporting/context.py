"""Everything a report says, gathered from files that stages wrote. No number is typed in."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from commbert.artifacts import read_json
from commbert.provenance import digest
from commbert.reporting.measured import (
    ROWS,
    SYSTEM_FIGURES,
    Row,
    collapse_lines,
    control_rows,
    geometry_rows,
    meters,
    opposite_rows,
    stratum_rows,
    system_rows,
)


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
    columns = [sources.run, *sources.columns]
    all_evaluations = {sources.run: sources.evaluation, **sources.others}
    leakage = {
        split: {**sources.windows["leakage"][split], **sources.pairs["leakage"].get(split, {})}
        for split in sources.windows["leakage"]
    }
    training = _training(sources)
    return {
        "run": sources.run,
        "columns": columns,
        "headline": _headline(sources),
        "rows": [_row(row, sources) for row in ROWS],
        "meters": meters(leakage, sources.evaluation, training["mean_masked_out_pct"]),
        "alarms": collapse_lines(all_evaluations),
        "system_figures": [label for _, label in SYSTEM_FIGURES],
        "systems": system_rows(list(all_evaluations), all_evaluations, sources.differences, sources.usage),
        "controls": control_rows(sources.evaluation),
        "strata": stratum_rows(all_evaluations, columns),
        "geometry": geometry_rows(all_evaluations),
        "opposites": opposite_rows(all_evaluations),
        "popularity_mrr": sources.evaluation["retrieval"]["retrieval"].get("popularity_mrr"),
        "told": {name: sources.evaluation.get(name) for name in ("retrieval", "acronym", "term", "briefs")},
        "leakage": leakage,
        "corpus": _corpus(sources),
        "words": sources.words,
        "receipts": sources.receipts,
        "windows": sources.windows["splits"],
        "pairs": {"known_pairs": sources.pairs["known_pairs"], **sources.pairs["splits"]},
        "model": sources.model,
        "training": training,
        "validations": sources.validations,
        "neighbours": _neighbours(sources),
        "stages": sources.usage,
        "stages_total_s": round(sum(u["wall_s"] for u in sources.usage), 1),
        "settings": sources.config,
        "settings_digest": digest(json.dumps(sources.config, sort_keys=True)),
        "evaluation_settings": sources.evaluation["settings"],
        "environment": sources.training["environment"],
        "machine": sources.training["machine"],
        "digests": {
            "corpus": sources.ingest["corpus_digest"],
            "training data": sources.training["identity"]["data"],
            "tokenizer": sources.training["identity"]["tokenizer"],
            "start weights": sources.training["identity"]["start_weights"],
            "evaluated weights": sources.evaluation["model_sha256"][:16],
        },
    }


def _corpus(sources: Sources) -> dict[str, Any]:
    """Return the summary of the corpus with the sums of its accounting and with one form for all kinds of sources."""
    ingest = sources.ingest
    rows = ingest["accounting"].values()
    return {
        **ingest,
        "came_in": {unit: sum(row[unit] for row in rows) for unit in ("files", "bytes", "lines")},
        "sources": [_source(s) for s in ingest["sources"]],
        "secrets_looked_for": sources.config["corpus"]["redact_secrets"],
    }


def _source(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        **facts,
        "place": next((facts[k] for k in ("package", "url", "path") if k in facts), ""),
        "state": next((facts[k] for k in ("version", "commit") if k in facts), ""),
        # What came is compared with sha256 where the settings give one; digest is of the files that were read.
        "digests": [f"{k} {facts[k]}" for k in ("sha256", "digest") if k in facts],
    }


def _row(row: Row, sources: Sources) -> dict[str, Any]:
    ours = sources.evaluation["figures"].get(row.key)
    cells = {sources.run: _cell(row, ours)}
    for name in sources.columns:
        evaluation = sources.others[name]
        cell = _cell(row, evaluation["figures"].get(row.key))
        change = sources.differences[name].get(row.key)
        cells[name] = {**cell, "difference": change, "verdict": _verdict(row, change)}
    return {"key": row.key, "label": row.label, "meaning": row.meaning, "cells": cells}


def _cell(row: Row, value: dict[str, Any] | None) -> dict[str, Any]:
    if value is None or value["value"] is None:
        return {"text": "–", "value": None}
    text = row.style.format(value["value"])
    if value["low"] is not None:
        text += f" [{row.style.format(value['low'])}, {row.style.format(value['high'])}]"
    return {"text": text, **value}


def _verdict(row: Row, change: dict[str, Any] | None) -> str:
    """Return what the interval of the paired difference allows to say."""
    if change is None or change["low"] is None:
        return ""
    if change["low"] <= 0 <= change["high"]:
        return "no difference shown"
    return "better" if (change["value"] > 0) == row.higher_is_better else "worse"


def _headline(sources: Sources) -> list[str]:
    """Return sentences about the hard figures against each column, whatever they say."""
    told = [r for r in ROWS if r.key in ("auc_frequency_matched_novel", "retrieval_mrr", "mlm_top1")]
    sentences: list[str] = []
    names = {
        "auc_frequency_matched_novel": "AUC of novel pairs against frequency-matched words",
        "retrieval_mrr": "retrieval MRR",
        "mlm_top1": "MLM top-1 accuracy",
    }
    ours = sources.evaluation["figures"]
    for row in told:
        for name in sources.columns:
            evaluation = sources.others[name]
            change, theirs = sources.differences[name].get(row.key), evaluation["figures"].get(row.key)
            if change is not None and theirs is not None:
                sentences.append(
                    f"{names[row.key]}: {ours[row.key]['value']:.3f} against {theirs['value']:.3f} of {name}, "
                    f"difference {change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]: "
                    f"{_verdict(row, change)}."
                )
        if not sources.columns and ours[row.key]:
            value = ours[row.key]
            sentences.append(f"{names[row.key]}: {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}].")
    unigram = sources.evaluation["unigram"]
    if unigram and ours["mlm_top1"]:
        sentences.append(
            f"MLM top-1 accuracy: {ours['mlm_top1']['value']:.3f} "
            f"[{ours['mlm_top1']['low']:.3f}, {ours['mlm_top1']['high']:.3f}] against {unigram['top1']:.3f} "
            "of always saying the most frequent token."
        )
    return sentences


def _training(sources: Sources) -> dict[str, Any]:
    steps, training = sources.steps, sources.training
    last = steps[-max(1, len(steps) // 10) :]
    seconds = sum(s["step_s"] for s in steps)
    norms = [s["gradient_norm"] for s in steps]
    most = training["identity"]["settings"]["optimizer"]["max_gradient_norm"]
    return {
        **{k: v for k, v in training.items() if k not in ("environment", "machine", "identity")},
        "tokens": sum(s["tokens"] for s in steps),
        "tokens_per_s": sum(s["tokens"] for s in steps) / max(seconds, 1e-9),
        "first_loss": steps[0]["loss"],
        "last_loss": sum(s["loss"] for s in last) / len(last),
        "largest_gradient_norm": max(norms),
        "median_gradient_norm": median(norms),
        "clipped_steps_pct": 100.0 * sum(n > most for n in norms) / len(norms),
        "last_temperature": steps[-1]["temperature"],
        "mean_negatives_per_anchor": _mean([s["negatives_per_anchor"] for s in steps]),
        "mean_masked_out_pct": _mean([s["masked_out_pct"] for s in steps]),
    }


def _mean(values: list[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None


def _neighbours(sources: Sources) -> list[dict[str, Any]]:
    columns = {sources.run: sources.evaluation, **{name: sources.others[name] for name in sources.columns}}
    return [
        {"word": word, "columns": {name: [n for n, _ in e["neighbours"].get(word, [])] for name, e in columns.items()}}
        for word in sources.evaluation["neighbours"]
    ]


def read_usage(folder: Path, run: str, others: list[str], shards: Collection[str]) -> list[dict[str, Any]]:
    """Return the usage records of the stages behind a run's report, in the order in which they began.

    The jobs of a stage, one for each shard, are one record: times are added, memory is the most that one took.
    """
    names = {run, "base", *others}
    found: list[dict[str, Any]] = []
    of_shards: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.usage.json")):
        stage, _, subject = path.name.removesuffix(".usage.json").partition(".")
        if subject in shards:
            of_shards.setdefault(stage, []).append(read_json(path))
        elif stage != "report" and (stage == "fetch" or not subject or subject in names):
            found.append({**read_json(path), "stage": f"{stage} {subject}".strip()})
    for stage, jobs in of_shards.items():
        times = {name: round(sum(job[name] for job in jobs), 3) for name in ("wall_s", "cpu_s")}
        peak, began = max(job["peak_rss_gib"] for job in jobs), min(job["began_unix_s"] for job in jobs)
        name = stage if len(jobs) == 1 else f"{stage}, {len(jobs)} jobs"
        found.append({**times, "peak_rss_gib": peak, "began_unix_s": began, "stage": name})
    return sorted(found, key=lambda u: u["began_unix_s"])


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the step rows and the validation rows of metrics.jsonl."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [r for r in rows if r["event"] == "step"], [r for r in rows if r["event"] == "validation"]
