"""The workflow through a real Slurm: the same result, whatever happens to the jobs on the way."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import tiny
from commbert.tables import content_digest
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


class Submitted:
    """A Snakemake that submits to the cluster, what its training does, and how it ended."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self._said = folder / "snakemake.said"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, profile: str = "slurm") -> None:
        quick = {
            "slurm": ["--slurm-init-seconds-before-status-checks", "1"],
            "generic": ["--seconds-between-status-checks", "1"],
        }
        # It goes when this process does, however that goes.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "snakemake"]
        command += ["-s", str(REPO / "Snakefile"), "-d", str(self.folder)]
        command += ["--workflow-profile", str(REPO / "workflow" / "profiles" / profile), *quick[profile]]
        command += ["--latency-wait", "20", "--max-threads", "1", *arguments]
        environment = {**self.cluster.environment, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=said, stderr=said)

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        """The exit code, once it has ended."""
        return self._process.poll() if self._process else None

    def end(self, timeout_s: float = 900) -> "Submitted":
        """Wait for Snakemake's end."""
        assert self._process
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"Snakemake did not end within {timeout_s} s:\n{self.said[-4000:]}")
        return self

    def kill(self) -> None:
        """Leave no Snakemake behind; the cluster ends its jobs."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def job(self) -> str:
        """Return the id of the newest Slurm job of the training, once it is there."""
        found: list[int] = []

        def is_there() -> bool:
            rows = self.cluster.call("squeue", "--noheader", "--states=all", "--format=%i %k %Z").splitlines()
            own = [row.split() for row in rows if "train_run" in row and row.endswith(f" {self.folder}")]
            found[:] = [int(row[0]) for row in own]
            return bool(found)

        self.until(is_there, "a Slurm job")
        return str(max(found))

    def frozen_in_training(self) -> psutil.Process:
        """Return the trainer, stopped after its first checkpoint as by Ctrl-Z: what comes next finds it at work."""
        self.until(lambda: any(self.folder.glob(f"{RUN}/checkpoint/*/step-*")), "a checkpoint")
        (trainer,) = (process for process in psutil.process_iter() if self._is_trainer(process))
        trainer.suspend()
        assert not (self.folder / RUN / "training.json").exists()
        return trainer

    def _is_trainer(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return "--checkpoints" in process.cmdline() and process.cwd() == str(self.folder)
        return False

    def until(self, is_true: Callable[[], bool], what: str, timeout_s: float = 300) -> None:
        end = time.monotonic() + timeout_s
        while not is_true():
            if time.monotonic() > end or self.code is not None:
                pytest.fail(f"expected {what}:\n{self.said[-4000:]}")
            time.sleep(0.02)


# One node for all, another for the one whose node dies.
FIRST = ("--set-resources", "train_run:slurm_partition=first")
SECOND = ("--set-resources", "train_run:slurm_partition=second")
TARGET = ("--", str(RUN / "training.json"))


def whole(run: Submitted) -> None:
    run.start("--default-resources", "slurm_partition=first", "mem_mb=1000", "runtime=60", *FIRST)


def generic(run: Submitted) -> None:
    run.start(*FIRST, *TARGET, profile="generic")


def requeued(run: Submitted) -> None:
    run.start(*FIRST, *TARGET)
    run.frozen_in_training()
    run.cluster.call("scontrol", "requeue", run.job())


def node_died(run: Submitted) -> None:
    run.start(*SECOND, *TARGET)
    run.frozen_in_training()
    run.cluster.kill_node("n2")


def out_of_time(run: Submitted) -> None:
    run.start(*FIRST, *TARGET)
    trainer = run.frozen_in_training()
    # Less is left than the warning time, 120 s: Slurm looks every half minute.
    run.cluster.call("scontrol", "update", f"JobId={run.job()}", "EndTime=now+100")
    run.until(lambda: was_warned(trainer), "Slurm's warning")
    with contextlib.suppress(psutil.NoSuchProcess):
        trainer.resume()


def cancelled(run: Submitted) -> None:
    run.start(*FIRST, "--retries", "0", *TARGET)
    run.frozen_in_training()
    run.cluster.call("scancel", run.job())


def wrong_partition(run: Submitted) -> None:
    run.start("--set-resources", "train_run:slurm_partition=nowhere", "--retries", "0", *TARGET)


def two_nodes(run: Submitted) -> None:
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    config["runtime"]["nodes"] = 2
    write_config(run.folder, config)
    run.start("--set-resources", "train_run:slurm_partition=cpu", *TARGET)


def was_warned(process: psutil.Process) -> bool:
    """Return whether a SIGTERM waits for a stopped process, or Slurm has let it go on and it has ended already."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (signal.SIGTERM - 1) & 1 for mask in masks)


@pytest.fixture(scope="module")
def ended(cluster: SlurmCluster, local_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a function that gives the end of a scenario; all of them run at once, for most of it is waiting."""
    scenarios = (whole, out_of_time, requeued, node_died, cancelled, generic, wrong_partition, two_nodes)
    runs = {scenario: Submitted(cluster, tmp_path_factory.mktemp(scenario.__name__) / "run") for scenario in scenarios}

    def play(scenario: Callable[[Submitted], None]) -> Submitted:
        run = runs[scenario]
        if scenario is whole:
            run.folder.mkdir()
            shutil.copy(local_run / "config.yaml", run.folder)
        else:
            copy_of_data(local_run, run.folder)
        scenario(run)
        return run.end()

    pool = ThreadPoolExecutor(5)
    futures = {scenario: pool.submit(play, scenario) for scenario in scenarios}
    yield lambda scenario: futures[scenario].result()
    pool.shutdown(wait=False, cancel_futures=True)
    for run in runs.values():
        run.kill()
    pool.shutdown()


def copy_of_data(local_run: Path, folder: Path) -> None:
    """Copy a folder; training has still to be done in the copy."""
    shutil.copytree(local_run, folder, symlinks=True)
    for name in TRAINED:
        path = folder / RUN / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / RUN / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["event"] == "step"]


def assert_same_training(run: Submitted, local_run: Path) -> None:
    assert run.code == 0, run.said[-4000:]
    assert len(losses(run.folder)) == STEPS
    assert losses(run.folder) == pytest.approx(losses(local_run), abs=1e-5)
    model = RUN / "trained" / "final" / "model.safetensors"
    assert (run.folder / model).stat().st_size == (local_run / model).stat().st_size


def times_begun(run: Submitted) -> int:
    """Return how often Slurm started the newest job of the training."""
    return 1 + int(re.findall(r"Restarts=(\d+)", run.cluster.call("scontrol", "show", "job", run.job()))[0])


def test_the_whole_workflow_makes_the_same_tables_and_the_same_losses(ended: Any, local_run: Path) -> None:
    run = ended(whole)
    assert_same_training(run, local_run)
    tables = [
        path.relative_to(local_run) for path in (local_run / "results").rglob("*.parquet") if "logs" not in path.parts
    ]
    assert len(tables) > 20
    for table in tables:
        assert content_digest(run.folder / table) == content_digest(local_run / table), table
    assert (run.folder / "reports" / "final_training_report.md").is_file()


def test_any_scheduler_that_takes_commands_trains_the_same(ended: Any, local_run: Path) -> None:
    assert_same_training(ended(generic), local_run)


def test_two_nodes_train_the_same_as_one_process(ended: Any, local_run: Path) -> None:
    run = ended(two_nodes)
    assert_same_training(run, local_run)
    assert json.loads((run.folder / RUN / "training.json").read_text())["world_size"] == 2
    assert "NumNodes=2" in run.cluster.call("scontrol", "show", "job", run.job())


def test_a_training_that_is_requeued_goes_on_and_ends_in_the_same_result(ended: Any, local_run: Path) -> None:
    run = ended(requeued)
    assert_same_training(run, local_run)
    assert times_begun(run) == 2
    assert "Trying to restart" not in run.said  # by Slurm, not by Snakemake


def test_a_training_whose_node_dies_goes_on_and_ends_in_the_same_result(ended: Any, local_run: Path) -> None:
    run = ended(node_died)
    assert_same_training(run, local_run)
    assert times_begun(run) == 2
    assert "Trying to restart" not in run.said


def test_a_training_out_of_time_saves_and_is_submitted_again(ended: Any, local_run: Path) -> None:
    run = ended(out_of_time)
    assert_same_training(run, local_run)
    assert "Trying to restart" in run.said
    assert "stopped after step" in run.said


def test_a_cancelled_training_says_so_leaves_nothing_half_and_can_be_finished(ended: Any, local_run: Path) -> None:
    run = ended(cancelled)
    assert run.code == 1
    assert "SLURM status is: 'CANCELLED'" in run.said
    assert not any((run.folder / RUN / name).exists() for name in set(TRAINED) - {"checkpoint"})
    run.start(*FIRST, *TARGET)
    assert_same_training(run.end(), local_run)


def test_what_slurm_says_of_a_wrong_partition_is_shown_and_nothing_is_lost(ended: Any, local_run: Path) -> None:
    run = ended(wrong_partition)
    assert run.code == 1
    assert "invalid partition specified: nowhere" in run.said
    for table in (local_run / "results").rglob("*.parquet"):
        assert (run.folder / table.relative_to(local_run)).stat().st_mtime_ns == table.stat().st_mtime_ns
