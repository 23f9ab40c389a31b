"""What ablations, seeds and the sweep make, and what they leave as it is: plans from nothing, without running."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from commbert.settings.base import merged
from commbert.settings.config import load
from workflow_case import REPO, snakemake, tiny_config, write_config

Plan = Callable[..., set[tuple[str, str]]]
DATA = {"tokenizer", "windows", "list_windows", "draw", "pairs"}


@pytest.fixture
def planned(tmp_path: Path, plan_jobs: Plan) -> Callable[..., dict[str, set[str]]]:
    """Return a function that plans targets in an empty folder: the wildcards of the jobs of each rule."""

    def jobs(runs: dict[str, Any], *targets: str, **sections: Any) -> dict[str, set[str]]:
        (tmp_path / "tree").mkdir(exist_ok=True)
        (tmp_path / "tree" / "a.py").write_text("harq = rlc\n")
        (tmp_path / "base_model").mkdir(exist_ok=True)
        write_config(
            tmp_path, {**tiny_config(tmp_path), "runs": runs, "report": {"compare_with": ["base"]}, **sections}
        )
        found: dict[str, set[str]] = {}
        for rule, wildcards in plan_jobs(tmp_path, targets=targets):
            found.setdefault(rule, set()).add(wildcards)
        return found

    return jobs


def folder_of(tmp_path: Path, run: str, runs: dict[str, Any]) -> str:
    return load({**tiny_config(tmp_path), "runs": runs, "report": {"compare_with": ["base"]}}).variant_of(run)


KEEP = {"final": {}, "keep": {"ablation": True, "tokenizer": {"mode": "keep"}}}


def test_a_run_that_changes_the_tokenizer_reads_tables_of_its_own(tmp_path: Path, planned: Any) -> None:
    variant = folder_of(tmp_path, "keep", KEEP)
    assert variant.startswith("/variants/tokenizer-")
    jobs = planned(KEEP, "results/runs/keep/training.json")
    for rule in DATA:
        assert {wildcards.split()[0] for wildcards in jobs[rule]} == {variant}
    assert jobs["model"] == jobs["train_run"] == {"keep"}


def test_a_run_that_changes_no_data_reads_the_shared_tables(planned: Any) -> None:
    jobs = planned({"final": {}, "long": {"training": {"max_steps": 9}}}, "results/runs/long/training.json")
    shard = "tree-00000-of-00001"
    assert [jobs[rule] for rule in ("tokenizer", "list_windows", "pairs", "windows", "draw")] == [
        *[{""}] * 3,
        *[{f" {shard}"}] * 2,
    ]


def test_words_and_pairs_are_held_out_the_same_for_all_runs(tmp_path: Path, planned: Any) -> None:
    jobs = planned(KEEP, "results/runs/keep/validation.json")
    assert jobs["pairs"] == jobs["tokenizer"] == {"", folder_of(tmp_path, "keep", KEEP)}


def test_runs_of_equal_changes_share_their_tables(tmp_path: Path, planned: Any) -> None:
    runs = {**KEEP, "more": {"tokenizer": {"mode": "keep"}, "training": {"max_steps": 5}}}
    jobs = planned(runs, *(f"results/runs/{run}/training.json" for run in runs))
    assert jobs["tokenizer"] == {"", folder_of(tmp_path, "keep", KEEP)}


@pytest.mark.parametrize("target", ["train", "evaluate", "report", "all"])
def test_what_is_made_for_a_report_passes_ablations_over(planned: Any, target: str) -> None:
    jobs = planned({**KEEP, "other": {"training": {"max_steps": 9}}}, target)
    assert jobs["train_run"] == jobs["model"] == {"final", "other"}
    assert jobs["tokenizer"] == {""}
    assert "sweep_table" not in jobs


def test_the_sweep_validates_every_ablation_with_every_seed_and_each_baseline(planned: Any) -> None:
    runs = {**KEEP, "hot": {"ablation": True, "training": {"seed": 5}}, "other": {}}
    sweep = {"seeds": [17, 5], "averages": [0.0, 0.5]}
    jobs = planned(runs, "sweep", sweep=sweep)
    every = {"final", "final@5", "keep", "keep@5", "hot@17", "hot"}
    assert jobs["evaluate_run"] == {f"{run} validation" for run in every}
    assert jobs["train_run"] == every
    assert jobs["model"] == {"final", "keep", "hot"}
    assert jobs["evaluate_average"] == {"final 0.0 validation", "final 0.5 validation"}
    assert jobs["evaluate_base"] == jobs["evaluate_frequency"] == {"validation"}
    assert jobs["evaluate_vectors"] == {"ppmi_svd validation", "char_ngrams validation"}
    assert jobs["sweep_table"] == {""}
    assert "report_run" not in jobs


def test_a_run_with_another_seed_starts_from_the_start_model_of_the_run(planned: Any) -> None:
    jobs = planned({"final": {}}, "results/runs/final@18/training.json", "results/runs/final@18/final")
    assert jobs["model"] == {"final"}
    assert jobs["train_run"] == jobs["average_run"] == {"final@18"}


@pytest.mark.parametrize("run", ["finel", "final@", "final@x", "final@1@2", "afinal"])
def test_a_run_that_is_not_in_the_configuration_is_not_planned(planned: Any, run: str) -> None:
    from snakemake.exceptions import MissingRuleException

    with pytest.raises(MissingRuleException):
        planned({"final": {}}, f"results/runs/{run}/training.json")


def test_a_point_in_the_name_of_a_run_stands_for_itself(planned: Any) -> None:
    from snakemake.exceptions import MissingRuleException

    assert planned({"v1.0": {}}, "results/runs/v1.0/training.json")["train_run"] == {"v1.0"}
    with pytest.raises(MissingRuleException):
        planned({"v1.0": {}}, "results/runs/v1x0/training.json")


@pytest.mark.parametrize("preset", ["sweep.yaml", "smoke.yaml", "paper.yaml", "chinese-qa.yaml"])
def test_the_sweep_of_every_preset_is_planned(preset: str) -> None:
    files = ["config.yaml", f"resources/presets/{preset}"]
    done = snakemake(REPO, "-n", "--forceall", "--configfile", *files, "-q", "rules", "--", "sweep", cores=1)
    assert done.returncode == 0, done.stderr
    config = load(merged(*(yaml.safe_load((REPO / file).read_text(encoding="utf-8")) for file in files)))
    rows = list(config.swept_runs.values())
    trained = re.findall(r"^train_run +([0-9]+)$", done.stdout + done.stderr, re.MULTILINE)
    assert set(map(int, trained)) == {sum(map(len, rows))}
    assert all(len(row) == (1 if row[0] in config.sweep.one_seed else len(config.sweep.seeds)) for row in rows)
    ablations = [name for name, run in config.runs.items() if run.ablation]
    assert len(rows) == 1 + len(ablations)
    assert (len(ablations) > 20) == (preset == "sweep.yaml")
