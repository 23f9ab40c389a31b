"""The target finetune: what it makes, and what runs again when what changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import finetune_case
from commbert.artifacts import read_json
from workflow_case import snakemake, write_config

pytestmark = pytest.mark.slow  # it shares the run of the whole workflow

ENTRY = {"epochs": 2, "batch": 8, "max_length": 24, "bootstrap": 100}


@pytest.fixture
def tuned(run_copy: Path) -> Path:
    """A copy of the finished run, in which a fine-tuning was made too."""
    finetune_case.write(run_copy / "mine table.csv", finetune_case.texts(60))
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config["finetune"] = {"mine": {**ENTRY, "table": str(run_copy / "mine table.csv"), "model": "final"}}
    write_config(run_copy, config)
    done = snakemake(run_copy, "finetune")
    assert done.returncode == 0, done.stderr[-4000:]
    return run_copy


def test_the_target_makes_models_figures_and_report_and_reruns_what_changed(
    tuned: Path, plan: Callable[..., set[str]]
) -> None:
    folder = tuned / "results" / "finetune" / "mine"
    assert {p.name for p in folder.iterdir()} == {"best", "final", "checkpoint", "evaluation.json"}
    assert read_json(folder / "evaluation.json")["model"]["path"] == "results/runs/final/final"
    report = (tuned / "reports" / "mine_finetune_report.md").read_text()
    for name in ("test", "curves"):
        assert f"(figures/mine_finetune_{name}.svg)" in report
        assert (tuned / "reports" / "figures" / f"mine_finetune_{name}.svg").is_file()

    def planned(change: dict[str, Any]) -> set[str]:
        config = yaml.safe_load((tuned / "config.yaml").read_text())
        for key, value in change.items():
            config["finetune"]["mine"][key] = value
        before = (tuned / "config.yaml").read_text()
        write_config(tuned, config)
        found = plan(tuned, targets=("finetune",)) - {"finetune"}
        (tuned / "config.yaml").write_text(before)
        return found

    assert planned({}) == set()
    assert planned({"epochs": 3}) == {"finetune_table", "finetune_report"}
    assert planned({"model": "base"}) == {"finetune_table", "finetune_report"}
    assert plan(tuned) == set()  # nothing of it belongs to the main target
