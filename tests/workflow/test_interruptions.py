"""A workflow that is killed while it trains: nobody works on unseen, and the same command goes on."""

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from commbert.artifacts import read_json, sha256_file
from workflow_case import snakemake, start_snakemake, write_config

pytestmark = pytest.mark.slow

MODEL = "results/runs/final/final/model.safetensors"
TARGET = "results/runs/final/final"


@pytest.fixture(params=[1, 2], ids=["one process", "two processes"])
def long_training(run_copy: Path, request: pytest.FixtureRequest) -> Path:
    """A working folder in which a training of some seconds is to be made."""
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config["training"] |= {"max_steps": 120, "validate_every_steps": 60}
    config["runtime"] = {"processes": request.param}
    write_config(run_copy, config)
    return run_copy


def training_of(workflow: subprocess.Popen[str], folder: Path) -> list[psutil.Process]:
    """Wait for the first steps of the training; return all processes below the workflow."""
    metrics = [folder / "results/runs/final/checkpoint"]
    for _ in range(3000):
        found = [path for where in metrics for path in where.glob("*/metrics.jsonl")]
        if any(
            path.read_text().count('"event": "step"') + path.read_text().count('"event":"step"') > 5 for path in found
        ):
            return psutil.Process(workflow.pid).children(recursive=True)
        assert workflow.poll() is None, workflow.communicate()
        time.sleep(0.1)
    pytest.fail("no training began")


def test_a_killed_workflow_leaves_no_training_behind_and_the_same_command_gives_the_same_model(
    long_training: Path,
) -> None:
    with start_snakemake(long_training, TARGET) as workflow:
        below = training_of(workflow, long_training)
        assert any("train" in process.cmdline() for process in below)
        workflow.kill()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive

    again = snakemake(long_training, TARGET)
    assert again.returncode == 0, again.stderr[-3000:]
    attempts = read_json(long_training / "results/logs/train.final.usage.json")["earlier_attempts"]
    assert len(attempts) == 1
    interrupted = sha256_file(long_training / MODEL)

    for name in ("trained", "checkpoint", "metrics.jsonl"):
        subprocess.run(["rm", "-r", str(long_training / "results/runs/final" / name)], check=True)
    undisturbed = snakemake(long_training, TARGET, "--forcerun", "train_run")
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]
    assert sha256_file(long_training / MODEL) == interrupted


def test_a_second_workflow_in_the_same_folder_ends_at_once_and_says_why(long_training: Path) -> None:
    with start_snakemake(long_training, TARGET) as workflow:
        training_of(workflow, long_training)
        workflow.send_signal(signal.SIGSTOP)  # else a fast machine ends the training before the second one looks
        try:
            second = snakemake(long_training, TARGET)
        finally:
            workflow.send_signal(signal.SIGCONT)
        workflow.terminate()
        workflow.send_signal(2)
        workflow.communicate()
    assert second.returncode == 1
    assert f"another snakemake runs here (process {workflow.pid} on " in second.stderr
