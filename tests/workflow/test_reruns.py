"""What runs again when what changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from workflow_case import snakemake

AFTER_TRAINING = {"evaluate_run", "report_run"}
AFTER_MODEL = {"train_run", *AFTER_TRAINING}
AFTER_WINDOWS = {*AFTER_MODEL, "evaluate_base"}
AFTER_TOKENIZER = {"windows", "pairs", "model", *AFTER_WINDOWS}
AFTER_WORDS = {"tokenizer", *AFTER_TOKENIZER}
AFTER_INGEST = {"words", *AFTER_WORDS}


def deep_set(config: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for key in parents:
        config = config.setdefault(key, {})
    config[last] = value


MATRIX = [
    ("corpus.max_line_chars", 500, {"ingest", *AFTER_INGEST}),
    ("words.min_chars", 3, {"words", *AFTER_WORDS}),
    ("tokenizer.max_new_words", 5, {"tokenizer", *AFTER_TOKENIZER}),
    ("windows.stride", 2, {"windows", *AFTER_WINDOWS}),
    ("pairs.english_negatives", 2, {"pairs", *AFTER_WINDOWS}),
    ("model.embedding_init", "normal", {"model", *AFTER_MODEL}),
    ("training.max_steps", 5, AFTER_MODEL),
    ("evaluation.windows", 21, {"evaluate_base", *AFTER_TRAINING}),
    ("report.compare_with", ["base"], {"report_run"}),
    ("runtime.processes", 2, set()),
    ("runtime.checkpoint_every_s", 5.0, set()),
]


@pytest.mark.parametrize(("setting", "value", "expected"), MATRIX, ids=[row[0] for row in MATRIX])
def test_a_changed_setting_reruns_its_stage_and_what_follows(
    run_copy: Path, plan: Callable[..., set[str]], setting: str, value: Any, expected: set[str]
) -> None:
    path = run_copy / "config.yaml"
    config = yaml.safe_load(path.read_text())
    deep_set(config, setting, value)
    path.write_text(yaml.safe_dump(config))
    assert plan(run_copy) == expected


def test_an_unchanged_repeat_does_nothing(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    assert plan(run_copy) == set()


def test_touched_sources_rerun_nothing(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    for path in Path(config["corpus"]["sources"][0]["path"]).rglob("*.py"):
        path.touch()
    assert plan(run_copy) == set()


def test_a_changed_run_leaves_the_other_runs_alone(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    path = run_copy / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["runs"]["third"] = {"training": {"max_steps": 2}}
    path.write_text(yaml.safe_dump(config))
    before = plan(run_copy, targets=("results/runs/final/evaluation.json", "results/runs/other/evaluation.json"))
    assert before == set()
    assert plan(run_copy) == {"model", *AFTER_MODEL}


def test_an_edited_source_reruns_the_ingestion(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    path = run_copy / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["corpus"]["sources"][0]["path"] = "tree"
    path.write_text(yaml.safe_dump(config))
    assert snakemake(run_copy, "data").returncode == 0
    assert "ingest" not in plan(run_copy, targets=("data",))
    with (run_copy / "tree" / "part0" / "module0.py").open("a") as file:
        file.write("harq_extra = rlc_extra\n")
    assert plan(run_copy, targets=("data",)) == {"ingest", "words", "tokenizer", "windows", "pairs"}


def test_forcing_a_stage_reruns_what_follows(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    assert plan(run_copy, forced=("pairs",)) == {"pairs", *AFTER_WINDOWS}


def test_a_deleted_intermediate_file_reruns_nothing(run_copy: Path, plan: Callable[..., set[str]]) -> None:
    (run_copy / "results/windows/validation.parquet").unlink()
    assert plan(run_copy) == set()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("data", {"base", "ingest", "words", "tokenizer", "windows", "pairs"}),
        ("train", {"base", "ingest", "words", "tokenizer", "windows", "pairs", "model", "train_run"}),
        (
            "reports/final_training_report.md",
            {"base", "ingest", "words", "tokenizer", "windows", "pairs", "model", *AFTER_WINDOWS},
        ),
    ],
)
def test_a_target_plans_its_stages_from_nothing(
    run_copy: Path, tmp_path: Path, plan: Callable[..., set[str]], target: str, expected: set[str]
) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "config.yaml").write_text((run_copy / "config.yaml").read_text())
    assert plan(fresh, targets=(target,)) == expected
