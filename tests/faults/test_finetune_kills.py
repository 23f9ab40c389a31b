"""A fine-tuning that is killed goes on, by the command line as a user types it; mistakes are one line."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import finetune_case as case
from cli_case import assert_refused, commbert
from commbert.artifacts import MANIFEST, read_json


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return case.base_model(tmp_path_factory.mktemp("encoder") / "base")


def command(table: Path, base: Path, out: Path, *more: str) -> list[str]:
    options = [
        "--batch",
        "8",
        "--max-length",
        "24",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--settings",
        '{"bootstrap":100}',
    ]
    return ["finetune", str(table), "--model", str(base), "--out", str(out), *options, *more]


def start(*arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "commbert", *arguments], text=True, env=environment, **pipes)


@pytest.mark.slow
def test_a_killed_fine_tuning_goes_on_and_gives_the_same_model(tmp_path: Path, base: Path) -> None:
    table = case.write(tmp_path / "t.csv", case.texts(240))
    options = ("--epochs", "12", "--patience", "12")
    process = start(*command(table, base, tmp_path / "cut", *options))
    while len(list((tmp_path / "cut").glob(f"checkpoint/*/checkpoint-*/{MANIFEST}"))) < 1:
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    assert not (tmp_path / "cut" / "best").exists()
    for name in ("cut", "whole"):
        process = start(*command(table, base, tmp_path / name, *options))
        told, said = process.communicate()
        assert process.returncode == 0, said[-2000:]
        assert "on 24 test rows" in told
    assert read_json(tmp_path / "cut" / "evaluation.json")["training"]["resumed_from_step"] > 0
    for name in ("best", "final"):
        weights = [(tmp_path / run / name / "model.safetensors").read_bytes() for run in ("cut", "whole")]
        assert weights[0] == weights[1]
    assert (tmp_path / "cut" / "report.md").is_file()


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, base: Path) -> None:
    table, out = case.write(tmp_path / "t.csv", case.texts(60)), tmp_path / "out"
    said = {
        "No such file": command(tmp_path / "none.csv", base, out),
        "expected a model folder": command(table, tmp_path / "none", out),
        "line 1: expected a column 'words', found 'text', 'label'": command(table, base, out, "--text-column", "words"),
        "finetune epochs: expected": command(table, base, out, "--epochs", "0"),
        "finetune task: expected": command(table, base, out, "--task", "guessing"),
        "expected a number in 'label', found 'beam'": command(table, base, out, "--task", "scoring"),
        "expected one of macro_f1": command(table, base, out, "--best-metric", "mae"),
        "expected --out": ["finetune", str(table), "--model", str(base)],
    }
    for expected, arguments in said.items():
        done = commbert(*arguments)
        assert_refused(done, out, expected)
        assert done.stderr.count("error: ") == 1


def test_a_fine_tuning_by_hand_makes_everything_below_one_folder(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(name, "train" if i % 7 else "test", text) for i, (text, name) in enumerate(case.texts(84))]
    table = case.write(tmp_path / "t.tsv", rows, ("class", "part", "words"))
    columns = ("--text-column", "words", "--label-column", "class", "--split-column", "part")
    out = tmp_path / "deep" / "mine"
    done = commbert(*command(table, base, out, *columns, "--epochs", "1", "--seed", "3"))
    assert not done.returncode, done.stderr
    made = {p.name for p in out.iterdir()}
    assert made == {"best", "final", "checkpoint", "evaluation.json", "report.md", "test.svg", "curves.svg"}
    assert "on 12 test rows" in capsys.readouterr().out
    found = read_json(out / "evaluation.json")
    assert found["settings"]["seed"] == 3
    assert found["settings"]["split"] == {"column": "part", "validation": 0.1, "test": 0.1}
