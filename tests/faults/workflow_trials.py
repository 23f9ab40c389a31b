"""``kill -9`` of one process at a random moment of a training that Snakemake runs, here or through Slurm.

Each trial copies a working folder in which the data are made, asks for the trained run, kills one process of it between
the training's submission and its end, and waits for the command's end. If that was no good end, the same command is
given again, once. Then the result is compared with that of a run that was never killed, every file is read, and the
processes are counted that outlived the command: all carry the trial's mark in their environment.
"""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

import tiny
from commbert.artifacts import sha256_file, verify_folder
from commbert.errors import ArtifactError
from faults.trainer import is_alive, leftovers, rows, steps_done
from workflow.slurm_cluster import ClusterError, SlurmCluster
from workflow_case import REPO, snakemake, tiny_config, write_config, write_tree

RUN = Path("results/runs/final")
TARGET = str(RUN / "training.json")
MARK = "COMMBERT_TRIAL"
LOCAL = ("rank", "launcher", "snakemake")
CLUSTER = (
    "rank",
    "agent",
    "job",
    "snakemake",
    "requeue",
    "rank",
    "agent",
    "node",
    "snakemake",
    "snakemake in the job",
)
"""What is killed, by turns. ``job`` is the batch script that a node's daemon runs, ``node`` a daemon with all
that it runs, and ``requeue`` asks Slurm to kill the job and start it again. The parent of a rank is the agent of its
node, or the launcher where there is one machine."""
MOST_STARTS = 2
MOST_REDONE = 6
ENDS_WITHIN_S = 600.0
GONE_WITHIN_S = 30.0
FIGURES = (
    "steps",
    "planned_steps",
    "best_step",
    "best_metric",
    "best_value",
    "figures_at_best",
    "stopped_early",
    "collapsed_at_steps",
    "identity",
    "windows_epochs",
    "pairs_epochs",
    "texts_epochs",
    "parameters_trained",
    "precision",
    "world_size",
)
"""Of training.json: what does not tell of times and attempts."""


@dataclass(frozen=True)
class Plan:
    """What one trial kills, and when."""

    number: int
    seed: int
    victim: str
    share: float
    """Of the time between the training's submission and its end in a run that was never killed."""


@dataclass
class Kill:
    """What a kill met."""

    of: str
    """Name and number of the process."""
    after_s: float
    """Since the training was submitted."""
    steps_done: int


@dataclass
class Result:
    """What a trial came to."""

    plan: Plan
    kill: Kill | None = None
    redone: int = 0
    """Trials begun anew since the training had ended before its kill."""
    codes: list[int] = field(default_factory=list)
    """Exit code of each start of the command; negative: the signal that killed it."""
    took_s: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """The end of what each start wrote that did not end well."""
    equal: dict[str, bool] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    left_files: list[str] = field(default_factory=list)
    left_processes: list[str] = field(default_factory=list)
    left_jobs: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether it ended, after at most one repeat, in the same result, and left nothing but temporary files."""
        left = self.damaged or self.left_processes or self.left_jobs
        return self.kill is not None and self.codes[-1] == 0 and all(self.equal.values()) and not left


@dataclass(frozen=True)
class Place:
    """Where trials run: the folder to copy, how Snakemake is called there, and Slurm if it submits to one."""

    made: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    cluster: SlurmCluster | None = None

    def jobs(self) -> list[str]:
        """Return the cluster's jobs that have not ended."""
        return self.cluster.call("squeue", "-h", "-o", "%i %T").splitlines() if self.cluster else []


@dataclass(frozen=True)
class Reference:
    """A run that was never killed."""

    digests: dict[str, str]
    trained_s: float
    """From the submission of the training to the end of its process."""


def make_data(folder: Path, runtime: Mapping[str, Any], *, n_steps: int) -> Path:
    """Write a working folder and make everything in it that a training reads; nothing in it names the folder."""
    write_tree(folder / "tree")
    tiny.write_base_model(folder / "base_model")
    config = tiny_config(folder)
    config["corpus"]["sources"][0]["path"], config["model"]["base"]["path"] = "tree", "base_model"
    # No validation gains as much as min_gain: best/ is the first one and differs from final/.
    steps = {"max_steps": n_steps, "micro_batches": 4, "validate_every_steps": max(1, n_steps // 4)}
    config["training"] |= {**steps, "min_gain": 0.9}
    config["runs"], config["report"]["compare_with"] = {"final": {}}, ["base"]
    config["runtime"] = {"device": "cpu", "threads": 1, "checkpoint_every_s": 0.2, **runtime}
    write_config(folder, config)
    done = snakemake(folder, "data", str(RUN / "start"), "results/texts/texts.parquet")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def make_plans(n_trials: int, seed: int, victims: tuple[str, ...]) -> list[Plan]:
    """Return the trials: victims by turns, moments at random."""
    rng = random.Random(seed)
    return [Plan(i, seed, victims[i % len(victims)], rng.random()) for i in range(n_trials)]


class Command:
    """One start of the command, with all processes that carry its mark wherever they run on this machine."""

    def __init__(self, place: Place, folder: Path, mark: str, number: int) -> None:
        self.folder, self.mark = folder, mark
        self._log = folder / f"stderr.{number}"
        command = [sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile"), "-d", str(folder)]
        environment = {**place.environment, MARK: mark, "HF_HUB_OFFLINE": "1"}
        self.began = time.monotonic()
        with self._log.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, *place.arguments, "--", TARGET], stdout=file, stderr=file, env=environment
            )

    @property
    def said(self) -> str:
        """What Snakemake wrote."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def until(self, happened: Callable[[], bool], every_s: float = 0.02) -> bool:
        """Wait until something happened; False: the command ended before, or took too long."""
        while self.process.poll() is None and time.monotonic() - self.began < ENDS_WITHIN_S:
            if happened():
                return True
            time.sleep(every_s)
        return False

    def until_submitted(self) -> bool:
        """Wait until Snakemake has begun, or submitted, the training."""
        return self.until(lambda: re.search(r"^(local)?rule train_run:", self.said, re.MULTILINE) is not None)

    def ended(self) -> int:
        """Wait for the end and return the exit code; one that takes too long is ended."""
        try:
            return self.process.wait(max(1.0, self.began + ENDS_WITHIN_S - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return -signal.SIGALRM


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes of a trial."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and is_alive(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _ranks(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = {}
    for process in processes:
        try:
            if "train" in process.cmdline() and "RANK" in process.environ():
                found[process.pid] = process
        except psutil.Error:
            continue
    # What a rank has forked looks like one.
    return [p for p in found.values() if p.ppid() not in found]


def _candidates(victim: str, command: Command) -> list[psutil.Process]:
    """Return the processes that a kill may choose from at this moment."""
    if victim == "snakemake":
        return [psutil.Process(command.process.pid)]
    processes = marked(command.mark)
    try:
        ranks = _ranks(processes)
        if victim in ("rank", "node"):
            return ranks
        if victim in ("agent", "launcher"):
            return list({p.pid: p for rank in ranks if (p := rank.parent())}.values())
        main = psutil.Process(command.process.pid)
        own = {command.process.pid, *(p.pid for p in main.children(recursive=True))}
        inner = [p for p in processes if p.pid not in own and "snakemake" in " ".join(p.cmdline()[:4])]
        inner = [p for p in inner if "--mode" in p.cmdline()]
        if victim == "snakemake in the job":
            return inner
        # The batch script. Not slurmstepd: without it Slurm holds the job to be running until the daemon starts anew.
        family = [p for one in inner for p in (one, *one.parents())]
        found = [p for p in family if (parent := p.parent()) and parent.name() == "slurmstepd"]
        return list({p.pid: p for p in found}.values())
    except psutil.Error:  # one of them has just ended: look again
        return []


def _kill(plan: Plan, place: Place, command: Command, submitted: float, rng: random.Random) -> Kill | None:
    """Kill the planned process as soon as there is one; None: the command ended before."""
    chosen: list[psutil.Process] = []

    def is_there() -> bool:
        chosen[:] = sorted(_candidates(plan.victim, command), key=lambda p: p.pid)
        return bool(chosen)

    if not command.until(is_there):
        return None
    process = rng.choice(chosen)
    of = f"{plan.victim} {process.pid}"
    met = Kill(of, round(time.monotonic() - submitted, 2), steps_done(command.folder / RUN))
    try:
        if plan.victim == "requeue":
            job = process.environ()["SLURM_JOB_ID"]
            place.cluster.call("scontrol", "requeue", job)
            met.of = f"requeue of job {job}"
        elif plan.victim == "node":
            node = process.environ()["SLURMD_NODENAME"]
            place.cluster.kill_node(node)
            met.of = f"node {node}"
        else:
            process.kill()
    except (psutil.NoSuchProcess, ClusterError):  # it ended while it was chosen
        return None
    return met


def reference(place: Place, folder: Path) -> Reference:
    """Train without a kill."""
    shutil.copytree(place.made, folder, symlinks=True)
    command = Command(place, folder, f"{os.getpid()}-reference", 1)
    assert command.until_submitted(), command.said
    began = time.monotonic()
    code = command.ended()
    trained_s = time.monotonic() - began
    assert code == 0, command.said
    found = digests(folder)
    assert found["best"] != found["final"]  # else one of the two comparisons shows nothing
    return Reference(found, trained_s)


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the trained weights, of metrics.jsonl and training.json without times; what is there."""
    found = {}
    for name in ("final", "best"):
        path = folder / RUN / "trained" / name / "model.safetensors"
        found[name] = sha256_file(path) if path.is_file() else "missing"
    if not (folder / TARGET).is_file():
        return {**found, "metrics": "missing", "summary": "missing"}
    summary = json.loads((folder / TARGET).read_text(encoding="utf-8"))
    told = {"metrics": rows(folder / RUN), "summary": {name: summary.get(name) for name in FIGURES}}
    return {**found, **{n: hashlib.sha256(json.dumps(v, sort_keys=True).encode()).hexdigest() for n, v in told.items()}}


def damaged_files(folder: Path) -> list[str]:
    """Read every file below results/ and return those that are not what they should be."""
    found = []
    for path in sorted(p for p in (folder / "results").rglob("*") if p.is_file() and ".tmp-" not in str(p)):
        try:
            if path.name == "manifest.json":
                verify_folder(path.parent)
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".jsonl":
                [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            elif path.suffix == ".parquet":
                pq.read_table(path, page_checksum_verification=True)
            elif path.suffix == ".safetensors":
                with safe_open(path, "numpy") as file:
                    [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - no dict: it cannot be iterated over
        except (ArtifactError, ValueError, OSError, SafetensorError) as error:
            found.append(f"{path.relative_to(folder)}: {error}")
    return found


def run_trial(plan: Plan, place: Place, folder: Path, expected: Reference) -> Result:
    """Start, kill, start again if need be, compare."""
    rng, result, share = random.Random(f"{plan.seed}/{plan.number}"), Result(plan), plan.share
    mark = f"{os.getpid()}-{plan.number}"
    try:
        while True:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(place.made, folder, symlinks=True)
            command = Command(place, folder, mark, 1)
            result.kill = _killed(plan, place, command, share * expected.trained_s, rng)
            _note_end(result, command)
            if result.kill is not None or result.redone == MOST_REDONE:
                break
            # It had ended before: the trial begins anew, and earlier.
            result.redone, share, result.codes, result.took_s, result.said = result.redone + 1, 0.7 * share, [], [], []
        while result.codes[-1] != 0 and len(result.codes) < MOST_STARTS:
            _note_end(result, Command(place, folder, mark, len(result.codes) + 1))
        return _compared(result, place, folder, mark, expected)
    finally:
        for process in marked(mark):
            process.kill()


def _killed(plan: Plan, place: Place, command: Command, wait_s: float, rng: random.Random) -> Kill | None:
    if not command.until_submitted():
        return None
    submitted = time.monotonic()
    if not command.until(lambda: time.monotonic() - submitted >= wait_s):
        return None
    return _kill(plan, place, command, submitted, rng)


def _note_end(result: Result, command: Command) -> None:
    code = command.ended()
    result.codes.append(code)
    result.took_s.append(round(time.monotonic() - command.began, 1))
    if code != 0:
        result.said.append(command.said[-3000:])


def _compared(result: Result, place: Place, folder: Path, mark: str, expected: Reference) -> Result:
    deadline = time.monotonic() + GONE_WITHIN_S
    while (marked(mark) or place.jobs()) and time.monotonic() < deadline:
        time.sleep(0.2)
    result.left_processes = [f"{p.pid} {' '.join(p.cmdline()[:6])}" for p in marked(mark)]
    result.left_jobs = place.jobs()
    found = digests(folder)
    result.equal = {name: found[name] == digest for name, digest in expected.digests.items()}
    result.damaged = damaged_files(folder)
    result.left_files = leftovers(folder)
    return result


def run_trials(place: Place, folder: Path, plans: list[Plan], shown: Callable[[Result], None]) -> list[Result]:
    """Run all trials, one after the other; the folder of a good one is removed."""
    expected, results = reference(place, folder / "never"), []
    for plan in plans:
        own = folder / f"trial-{plan.number}"
        results.append(run_trial(plan, place, own, expected))
        shown(results[-1])
        if results[-1].is_good:
            shutil.rmtree(own)
    return results


def as_rows(results: list[Result]) -> list[dict[str, Any]]:
    """Return one row per victim, and one for all together."""
    kinds: dict[str, list[Result]] = {}
    for result in results:
        kinds.setdefault(result.plan.victim, []).append(result)
    return [_row(name, found) for name, found in kinds.items()] + [_row("all", results)]


def _row(name: str, results: list[Result]) -> dict[str, Any]:
    steps = [r.kill.steps_done for r in results if r.kill]
    equal = {f"equal {part}": sum(r.equal[part] for r in results) for part in ("final", "best", "metrics", "summary")}
    return {
        "killed": name,
        "trials": len(results),
        "kills": sum(r.kill is not None for r in results),
        "after steps": f"{min(steps)} to {max(steps)}" if steps else "",
        "ended well at once": sum(r.codes == [0] for r in results),
        "after one repeat": sum(len(r.codes) > 1 and r.codes[-1] == 0 for r in results),
        "not": sum(r.codes[-1] != 0 for r in results),
        **equal,
        "damaged files": sum(len(r.damaged) for r in results),
        "processes left": sum(len(r.left_processes) for r in results),
        "jobs left": sum(len(r.left_jobs) for r in results),
        "temporary files left": sum(len(r.left_files) for r in results),
        "slowest s": round(max(sum(r.took_s) for r in results), 1),
        "good": sum(r.is_good for r in results),
    }


def as_json(results: list[Result]) -> list[dict[str, Any]]:
    """Return all that was seen, trial by trial."""
    return [{**asdict(r), "is_good": r.is_good} for r in results]
