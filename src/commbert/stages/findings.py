"""findings: what a fine-tuning found (JSON) to a report in Markdown, with its pictures beside it."""

import os
from pathlib import Path
from typing import Any

from commbert.artifacts import read_json, write_text
from commbert.errors import ArtifactError
from commbert.reporting.finetuned import curves_figure, outcome_figure, render_finetune_report


def run(*, evaluation: Path, report_out: Path, outcome_out: Path, curves_out: Path) -> dict[str, Any]:
    """Write the report of a fine-tuning.

    Args:
        evaluation: What the stage ``finetune`` measured.
        report_out: Becomes the report (Markdown).
        outcome_out: Becomes the picture of the test rows (SVG): a confusion table, or scores beside their truth.
        curves_out: Becomes the picture of losses and validations (SVG).

    Raises:
        ArtifactError: If the JSON is missing or of something else.
    """
    found = read_json(evaluation)
    if not isinstance(found, dict) or "test" not in found or "task" not in found:
        raise ArtifactError(f"{evaluation}: expected the figures of a fine-tuning. Rerun the stage finetune.")
    write_text(outcome_out, outcome_figure(found))
    write_text(curves_out, curves_figure(found))
    pictures = {
        name: Path(os.path.relpath(path, report_out.parent)).as_posix()
        for name, path in (("outcome", outcome_out), ("curves", curves_out))
    }
    write_text(report_out, render_finetune_report(found, pictures))
    return {"report": str(report_out)}
