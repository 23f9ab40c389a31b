"""What stages left of themselves, read for a report: usage, metrics, samples of the sensors."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from commbert.artifacts import read_json
from commbert.errors import ArtifactError
from commbert.provenance import digest
from commbert.reporting.energy import of_job, of_jobs
from commbert.settings.report import CostSettings


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the step rows and the validation rows of metrics.jsonl.

    Raises:
        ArtifactError: If a line is no row.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ArtifactError(
                f"{path} line {number}: expected a JSON row, found {line[:40]!r}. The file is damaged; train anew."
            ) from error
    return [r for r in rows if r["event"] == "step"], [r for r in rows if r["event"] == "validation"]


_WHOLE = frozenset(("base", "corpus", "words", "tokenizer", "list-windows", "pairs", "texts", "acronyms", "functions"))
"""Stages of one job for all runs that share its tables."""
_OF_MODEL = frozenset(("model", "train", "average"))
"""Stages that make the model of a run."""
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
    starts: Collection[str] = (),
    own_folder: Path | None = None,
) -> list[dict[str, Any]]:
    """Return the usage of the stages behind a run's report, in the order in which they began.

    The jobs of a stage, one for each shard, are one record: times and energy are added, memory is the most that one
    took. So it is with the attempts of a training that went on after a stop. Of the other machines of a training only
    the time is not added: they worked meanwhile. ``serves`` says whether the run itself needed the stage, or only what
    it is compared with. Files that earlier settings or versions left in the folder are not counted.

    Args:
        folder: Where the stages that all runs share leave their usage.
        run: Name of the run.
        others: What it is compared with.
        shards: Names of the shards.
        cost: The section ``report.cost``.
        sources: Names of the sources.
        starts: Runs that this one starts from: making their models served this one.
        own_folder: Where the stages of tables that this run does not share leave theirs. The shared tables are needed
            too: everything is measured on them.
    """
    found: list[dict[str, Any]] = []
    for where, mark in ((folder, ""), (own_folder, " (own tables)")):
        of_shards: dict[str, list[Path]] = {}
        for path in sorted(where.glob("*.usage.json")) if where else ():
            stage, _, subject = path.name.removesuffix(".usage.json").partition(".")
            subject, _, node = subject.partition(".node")
            if node:
                continue  # read with the record of the first machine
            made_it = subject == run or (subject in starts and stage in _OF_MODEL)
            if stage in _OF_SHARDS and subject in shards:
                of_shards.setdefault(stage, []).append(path)
            elif (stage == "fetch" and subject in sources) or (not subject and stage in _WHOLE):
                name = f"{stage} {subject}".strip() + _cached([path]) + mark
                found.append(_record(name, "run", [read_json(path)], cost))
            elif stage not in ("report", "release", "compare", "fetch") and (
                made_it or subject in {run, "base", *others}
            ):
                serves = "run" if made_it else "comparison"
                nodes = sorted(path.parent.glob(f"{stage}.{subject}.node*.usage.json"))
                found.append(_record(f"{stage} {subject}", serves, [read_json(path)], cost, nodes=nodes))
        for stage, jobs in of_shards.items():
            name = (stage if len(jobs) == 1 else f"{stage}, {len(jobs)} jobs") + _cached(jobs)
            found.append(_record(name + mark, "run", [read_json(path) for path in jobs], cost))
    return sorted(found, key=lambda u: u["began_unix_s"])


def _cached(records: Sequence[Path]) -> str:
    """Return the words for records, and so tables, that a workflow in another folder made: they came from the cache."""
    here = digest(str(Path.cwd()))
    n = sum(path.is_symlink() and read_json(path).get("folder_digest") != here for path in records)
    return "" if not n else " (from the cache)" if n == len(records) else f" ({n} from the cache)"


def _record(
    name: str, serves: str, jobs: Sequence[Mapping[str, Any]], cost: CostSettings, *, nodes: Sequence[Path] = ()
) -> dict[str, Any]:
    attempts = [attempt for job in jobs for attempt in _attempts(job)]
    everywhere = [*attempts, *(attempt for node in nodes for attempt in _attempts(read_json(node)))]
    there = [attempt for attempt in everywhere if "wall_s" in attempt]
    host = [attempt.get("host") or {} for attempt in there]
    gpus = [gpu for attempt in there for gpu in attempt.get("gpus") or []]
    energy = of_jobs([of_job(attempt, cost) for attempt in there])
    n_killed = len(everywhere) - len(there)
    if n_killed:
        told = f"{n_killed} earlier attempt(s) were killed before they could write what they took: not counted"
        energy["reason"] = "; ".join(filter(None, (told, energy["reason"])))
    return {
        "stage": name,
        "serves": serves,
        "jobs": len(jobs),
        "began_unix_s": min(attempt["began_unix_s"] for attempt in attempts),
        "ended_unix_s": max(job["began_unix_s"] + job["wall_s"] for job in jobs),
        "wall_s": round(sum(attempt.get("wall_s", 0.0) for attempt in attempts), 3),
        "cpu_s": round(sum(attempt["cpu_s"] for attempt in there), 3),
        "peak_rss_gib": _most([*(h.get("peak_tree_rss_gib") for h in host), *(a["peak_rss_gib"] for a in there)]),
        "peak_gpu_memory_gib": _most([gpu.get("peak_memory_gib") for gpu in gpus]),
        "mean_gpu_utilization_pct": _mean([gpu.get("mean_utilization_pct") for gpu in gpus]),
        "throttled_pct": _most([gpu.get("throttled_pct") for gpu in gpus]),
        "throttle_reasons": sorted({reason for gpu in gpus for reason in gpu.get("throttle_reasons") or []}),
        "gaps": sum((attempt.get("monitoring") or {}).get("gaps") or 0 for attempt in there),
        "energy": energy,
    }


def _attempts(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return all attempts of a job; one that was killed left no more than when it began."""
    return [*(job.get("earlier_attempts") or []), job]


def _most(values: Sequence[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None


def read_samples(path: Path) -> pa.Table | None:
    """Return the samples of the sensors of a stage: a row per time and device; None where the stage left none."""
    return pq.read_table(path) if path.is_file() else None
