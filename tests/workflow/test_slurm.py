"""The workflow through a real Slurm: the same result, whatever happens to the jobs on the way."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import tiny
from workflow.slurm_cluster import ClusterError, SlurmCluster
from workflow_case import REPO, snakemake, tiny_config, write_config, write_tree

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

RUN = Path("results/runs/final")
TRAINED = ("trained", "checkpoint", "metrics.jsonl", "training.json", "best", "final")
STEPS = 60


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
    except ClusterError as error:
        pytest.skip(f"no Slurm here: {error}")
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def local_run(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything up to the trained model was made without Slurm: one process."""
    folder = tmp_path_factory.mktemp("local_run")
    write_tree(folder / "tree")
    tiny.write_base_model(folder / "base_model")
    config = tiny_config(folder)
    config["runs"] = {"final": {}}
    config["report"] = {"compare_with": ["base"], "systems": []}
    config["evaluation"]["questions"] = None
    config["training"].update(max_steps=STEPS, validate_every_steps=30)
    config["runtime"] = {"checkpoint_every_s": 0.2, "processes": 1}
    write_config(folder, config)
    done = snakemake(folder, str(RUN / "final"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return folder


@pytest.fixture
def data_made(local_run: Path, tmp_path: Path) -> Path:
    """A copy in which training has still to be done."""
    folder = tmp_path / "run"
    shutil.copytree(local_run, folder, symlinks=True)
    for name in TRAINED:
        path = folder / RUN / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


class Submitted:
    """A Snakemake that submits to the cluster, and what its training does."""

    def __init__(self, cluster: SlurmCluster, folder: Path, *arguments: str, profile: str = "slurm") -> None:
        self._cluster, self._folder = cluster, folder
        self._said = folder / "snakemake.said"
        quick = {
            "slurm": ["--slurm-init-seconds-before-status-checks", "1"],
            "generic": ["--seconds-between-status-checks", "1"],
        }
        command = [sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile"), "-d", str(folder)]
        command += ["--workflow-profile", str(REPO / "workflow" / "profiles" / profile), *quick[profile]]
        command += ["--latency-wait", "20", "--max-threads", "1", *arguments]
        environment = {**cluster.environment, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with self._said.open("ab") as said:
            self._process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    def wait(self, timeout_s: float = 240) -> int:
        """Wait for Snakemake's end; return its exit code."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            pytest.fail(f"Snakemake did not end within {timeout_s} s:\n{self.said[-4000:]}")

    def job(self) -> str:
        """Return the id of the Slurm job of the training, once it is there."""
        line = "squeue", "--noheader", "--states=all", "--format=%i %k %Z"
        found: list[list[str]] = []

        def is_there() -> bool:
            rows = [row.split() for row in self._cluster.call(*line).splitlines()]
            found[:] = [row for row in rows if row[1].startswith("rule_train_run") and row[2] == str(self._folder)]
            return bool(found)

        self._until(is_there, "a Slurm job")
        return max(found, key=lambda row: int(row[0]))[0]

    def frozen_in_training(self) -> psutil.Process:
        """Return the trainer, stopped as Ctrl-Z does after its first checkpoint: it can neither end nor be too early."""
        self._until(lambda: any(self._folder.glob(f"{RUN}/checkpoint/*/step-*")), "a checkpoint")
        (trainer,) = (process for process in psutil.process_iter() if self._is_trainer(process))
        trainer.suspend()
        assert not (self._folder / RUN / "training.json").exists()
        return trainer

    def _is_trainer(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return "train" in process.cmdline() and process.cwd() == str(self._folder)
        return False

    def _until(self, is_true: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
        end = time.monotonic() + timeout_s
        while not is_true():
            if time.monotonic() > end or self._process.poll() not in (None, 0):
                pytest.fail(f"expected {what}:\n{self.said[-4000:]}")
            time.sleep(0.02)


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / RUN / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["event"] == "step"]


def assert_same_training(folder: Path, local_run: Path) -> None:
    assert len(losses(folder)) == STEPS
    assert losses(folder) == pytest.approx(losses(local_run), abs=1e-5)


def test_what_slurm_says_of_a_wrong_partition_is_shown_and_nothing_is_lost(
    cluster: SlurmCluster, data_made: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (data_made / "results").rglob("*.parquet")}
    submitted = Submitted(
        cluster, data_made, "--set-resources", "train_run:slurm_partition=nowhere", "--retries", "0", "--", "train"
    )
    assert submitted.wait() == 1
    assert "invalid partition specified: nowhere" in submitted.said
    assert {path: path.stat().st_mtime_ns for path in (data_made / "results").rglob("*.parquet")} == before
