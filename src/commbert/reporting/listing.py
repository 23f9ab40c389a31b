"""Tables of a report as CSV, for spreadsheets and for Snakemake's own report."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from commbert.reporting.escaping import visible


def figures_table(context: Mapping[str, Any]) -> str:
    """Return the table of before and after: a row per figure and column, with the run's difference to that column."""
    heads = (
        "figure",
        "model",
        "value",
        "low",
        "high",
        "run_minus_model",
        "difference_low",
        "difference_high",
        "verdict",
    )
    rows = []
    for row in context["rows"]:
        for name, cell in row["cells"].items():
            change = cell.get("difference") or {}
            values = [cell["value"], cell.get("low"), cell.get("high")]
            changes = [change.get("value"), change.get("low"), change.get("high")]
            rows.append([row["key"], name, *values, *changes, cell.get("verdict", "")])
    return _csv(heads, rows)


def stages_table(context: Mapping[str, Any]) -> str:
    """Return the table of stages: time, memory, energy, cost; what was not measured is empty."""
    currency = context["cost"]["settings"]["currency"]
    heads = ("stage", "serves", "wall_s", "cpu_s", "peak_rss_gib", "peak_gpu_memory_gib", "gpu_j", "cpu_j", "kwh")
    rows = [
        [
            *(stage[key] for key in ("stage", "serves", "wall_s", "cpu_s", "peak_rss_gib", "peak_gpu_memory_gib")),
            *(cost[key] for key in ("gpu_j", "cpu_j", "kwh", "money", "co2_g")),
        ]
        for stage, cost in zip(context["stages"], context["cost"]["stages"], strict=True)
    ]
    return _csv((*heads, f"cost_{currency}", "co2_g"), rows)


def _csv(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([visible(v) if isinstance(v, str) else v for v in row] for row in rows)
    return buffer.getvalue()
