"""What stages left of themselves, read for a report: usage, metrics, samples of the sensors."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from commbert.artifacts import read_json
from commbert.reporting.energy import of_job, of_jobs
from commbert.settings.report import CostSettings


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the step rows and the validation rows of metrics.jsonl."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [r for r in rows if r["event"] == "step"], [r for r in rows if r["event"] == "validation"]


_WHOLE = frozenset(("base", "corpus", "words", "tokenizer", "list-windows", "pairs", "texts", "acronyms", "functions"))
"""Stages of one job for all runs that share its tables."""
_OF_SHARDS = frozenset(("ingest", "lex", "windows", "draw"))
"""Stages of one job for each shard."""


def read_usage(
    folder: Path,
    run: str,
    others: Collection[str],
    shards: Collection[str],
    cost: CostSettings,
    *,
    sources: Collection[str],
    own_folder: Path | None = None,
) -> list[dict[str, Any]]:
    """Return the usage of the stages behind a run's report, in the order in which they began.

    The jobs of a stage, one for each shard, are one record: times and energy are added, memory is the most that one
    took. ``serves`` says whether the run itself needed the stage, or only what it is compared with. Files that earlier
    settings or versions left in the folder are not counted.

    Args:
        folder: Where the stages that all runs share leave their usage.
        run: Name of the run.
        others: What it is compared with.
        shards: Names of the shards.
        cost: The section ``report.cost``.
        sources: Names of the sources.
        own_folder: Where the stages of tables that this run does not share leave theirs. The shared tables are needed
            too: everything is measured on them.
    """
    found: list[dict[str, Any]] = []
    for where, mark in ((folder, ""), (own_folder, " (own tables)")):
        of_shards: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(where.glob("*.usage.json")) if where else ():
            stage, _, subject = path.name.removesuffix(".usage.json").partition(".")
            if stage in _OF_SHARDS and subject in shards:
                of_shards.setdefault(stage, []).append(read_json(path))
            elif (stage == "fetch" and subject in sources) or (not subject and stage in _WHOLE):
                found.append(_record(f"{stage} {subject}".strip() + mark, "run", [read_json(path)], cost))
            elif stage not in ("report", "fetch") and subject in {run, "base", *others}:
                serves = "run" if subject == run else "comparison"
                found.append(_record(f"{stage} {subject}", serves, [read_json(path)], cost))
        for stage, jobs in of_shards.items():
            name = stage if len(jobs) == 1 else f"{stage}, {len(jobs)} jobs"
            found.append(_record(name + mark, "run", jobs, cost))
    return sorted(found, key=lambda u: u["began_unix_s"])


def _record(name: str, serves: str, jobs: Sequence[Mapping[str, Any]], cost: CostSettings) -> dict[str, Any]:
    host = [job.get("host") or {} for job in jobs]
    gpus = [gpu for job in jobs for gpu in job.get("gpus") or []]
    return {
        "stage": name,
        "serves": serves,
        "jobs": len(jobs),
        "began_unix_s": min(job["began_unix_s"] for job in jobs),
        "ended_unix_s": max(job["began_unix_s"] + job["wall_s"] for job in jobs),
        "wall_s": round(sum(job["wall_s"] for job in jobs), 3),
        "cpu_s": round(sum(job["cpu_s"] for job in jobs), 3),
        "peak_rss_gib": _most([*(h.get("peak_tree_rss_gib") for h in host), *(job["peak_rss_gib"] for job in jobs)]),
        "peak_gpu_memory_gib": _most([gpu.get("peak_memory_gib") for gpu in gpus]),
        "mean_gpu_utilization_pct": _mean([gpu.get("mean_utilization_pct") for gpu in gpus]),
        "throttled_pct": _most([gpu.get("throttled_pct") for gpu in gpus]),
        "throttle_reasons": sorted({reason for gpu in gpus for reason in gpu.get("throttle_reasons") or []}),
        "gaps": sum((job.get("monitoring") or {}).get("gaps") or 0 for job in jobs),
        "energy": of_jobs([of_job(job, cost) for job in jobs]),
    }


def _most(values: Sequence[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None


def read_samples(path: Path) -> pa.Table | None:
    """Return the samples of the sensors of a stage: a row per time and device; None where the stage left none."""
    return pq.read_table(path) if path.is_file() else None
