"""What a user reads who asks ``evaluate`` or ``sweep`` for something that is not there: one line, exit code 1."""

import json

import pytest

from cli_case import assert_refused, commbert
from commbert.artifacts import write_json

INPUTS = (
    *("files", "line-words", "words", "known", "pairs", "windows", "train-windows", "windows-tokenizer"),
    *("functions", "acronyms", "terms", "opposites", "similarity", "general-text"),
)


def evaluate(tmp_path, *subject):
    inputs = [f"--{name}={tmp_path / name}" for name in INPUTS]
    outputs = [f"--{name}={tmp_path / 'out' / name}" for name in ("out", "scores-out")]
    return commbert("evaluate", "--settings", "{}", *inputs, *outputs, *subject)


def assert_one_line(done, out, *expected):
    assert_refused(done, out, *expected)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_an_evaluation_of_nothing_is_refused(tmp_path):
    expected = "expected one of --model, --vectors and --by-frequency, found 0. Give one of them."
    assert_one_line(evaluate(tmp_path), tmp_path / "out", expected)


def test_an_evaluation_of_two_subjects_is_refused(tmp_path):
    done = evaluate(tmp_path, "--by-frequency", "--vectors", tmp_path)
    assert_one_line(done, tmp_path / "out", "expected one of --model, --vectors and --by-frequency, found 2.")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--split", "tset", "--split: expected test or validation, found 'tset'"),
        ("--split", "train", "--split: expected test or validation, found 'train'"),
        ("--pooling", "max", "--pooling: expected mean or cls, found 'max'"),
    ],
)
def test_an_option_that_is_none_of_the_known_ones_is_refused(tmp_path, option, value, expected):
    assert_one_line(evaluate(tmp_path, "--by-frequency", option, value), tmp_path / "out", expected)


def test_a_missing_table_of_an_evaluation_is_named(tmp_path):
    assert_one_line(evaluate(tmp_path, "--by-frequency"), tmp_path / "out", str(tmp_path / "words"))


PLAN = {"final": {"changes": {}, "runs": ["final", "final@18"]}}


def sweep(tmp_path, plan, *more):
    for name in ("runs", "baselines"):
        (tmp_path / name).mkdir(exist_ok=True)
    outputs = [f"--{name}-out={tmp_path / 'out' / name}" for name in ("markdown", "json", "html", "pareto")]
    folders = [f"--{name}={tmp_path / name}" for name in ("runs", "baselines")]
    text = plan if isinstance(plan, str) else json.dumps(plan)
    return commbert("sweep", "--settings", "{}", "--plan", text, *folders, *outputs, *more)


def test_a_run_of_a_sweep_that_was_not_evaluated_is_named(tmp_path):
    done = sweep(tmp_path, PLAN, "--other", "base")
    assert_one_line(done, tmp_path / "out", str(tmp_path / "runs/final/validation.scores.parquet"))


def test_a_damaged_table_of_a_sweep_is_named(tmp_path):
    write_json(tmp_path / "runs" / "final" / "validation.scores.parquet", {})
    done = sweep(tmp_path, PLAN, "--other", "base")
    assert_one_line(done, tmp_path / "out", str(tmp_path / "runs/final/validation.scores.parquet"))


@pytest.mark.parametrize("plan", ["no json", "[]", '{"final": {}}', '{"final": {"changes": 3, "runs": []}}', "3"])
def test_a_plan_that_names_no_rows_is_refused(tmp_path, plan):
    assert_one_line(sweep(tmp_path, plan, "--other", "base"), tmp_path / "out", "--plan: expected JSON of rows")


@pytest.mark.parametrize("plan", [{}, {"final": {"changes": {}, "runs": []}}])
def test_a_plan_without_runs_is_refused(tmp_path, plan):
    assert_one_line(sweep(tmp_path, plan, "--other", "base"), tmp_path / "out", "--plan: expected at least one row")


def test_a_sweep_without_the_base_model_is_refused(tmp_path):
    expected = "--other: expected base or untrained among the baselines, found none. Give --other base."
    assert_one_line(sweep(tmp_path, PLAN, "--other", "frequency"), tmp_path / "out", expected)
