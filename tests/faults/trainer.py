"""The command ``commbert train`` as a user starts it: watched, signalled and killed from outside."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from commbert.artifacts import sha256_file, verify_folder
from commbert.training.record import MEASURED
from tiny_stages import Stages

N_STEPS = 40
# No validation gains as much as min_gain, so best/ is the first one and differs from final/.
SETTINGS = {
    "max_steps": N_STEPS,
    "batch_windows": 8,
    "batch_pairs": 8,
    "micro_batches": 4,
    "validate_every_steps": 7,
    "seed": 3,
    "min_gain": 0.9,
    "validation_windows": 8,
    "validation_pairs": 40,
    "optimizer": {"learning_rate": 1.0e-3},
}
LIMIT_S = 300.0


class Trainer:
    """The run folder of one training, and how it is started."""

    def __init__(
        self, stages: Stages, folder: Path, *, every_s: float = 1e-9, restarts: int = 0, **settings: Any
    ) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        self._stages = stages
        self._runtime = {"device": "cpu", "checkpoint_every_s": every_s, "restarts": restarts, "lock_wait_s": 0}
        self._settings = {**SETTINGS, **settings}
        self._n_starts = 0

    def start(self, processes: int = 1, *, by_torchrun: bool = False) -> "Job":
        """Start the command; a checkpoint follows every step unless ``every_s`` says otherwise."""
        self._n_starts += 1
        command = self._command(processes)
        if by_torchrun:
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "--"]
            command = [command[0], *torchrun, *command[2:]]
        return Job(command, self.folder, self.folder / f"stderr.{self._n_starts}", self._environment())

    def run(self, processes: int = 1) -> "Job":
        """Start the command and wait for its end, which has to be a good one."""
        with self.start(processes) as job:
            assert job.ended() == 0, job.said
        return job

    def _command(self, processes: int) -> list[str]:
        data, folder = self._stages.data, self.folder
        runtime = {**self._runtime, "processes": processes}
        options = {
            "settings": json.dumps(self._settings),
            "runtime": json.dumps(runtime),
            "threads": 1,
            "model": self._stages.start,
            "corpus": self._stages.corpus,
            **{name.replace("_", "-"): path for name, path in vars(data).items()},
            "checkpoints": folder / "checkpoint",
            "best-out": folder / "best",
            "final-out": folder / "final",
            "metrics-out": folder / "metrics.jsonl",
            "summary-out": folder / "training.json",
        }
        pairs = ((f"--{name}", str(value)) for name, value in options.items() if value is not None)
        return [sys.executable, "-m", "commbert", "train", *(text for pair in pairs for text in pair)]

    def _environment(self) -> dict[str, str]:
        env = {**os.environ, "HF_HUB_OFFLINE": "1"}
        if sys.dont_write_bytecode:
            # Compiling torch's and transformers' sources takes longer than the training itself; once is enough.
            del env["PYTHONDONTWRITEBYTECODE"]
            env["PYTHONPYCACHEPREFIX"] = str(self._stages.base.parent / "bytecode")
        return env


class Job:
    """One start of the command: its process, or the launcher's with its workers."""

    def __init__(self, command: list[str], folder: Path, log: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=env)
        self._members = [psutil.Process(self.process.pid)]

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members():
            if is_alive(member):
                member.kill()
        self.process.wait(LIMIT_S)

    @property
    def said(self) -> str:
        """Everything on stderr, of all processes."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def members(self) -> list[psutil.Process]:
        """Return the first process and all that ever were seen below it, also if they outlived it."""
        if is_alive(self._members[0]):
            below = self._members[0].children(recursive=True)
            self._members += [p for p in below if p not in self._members]
        return self._members

    def ranks(self) -> list[psutil.Process]:
        """Return the workers, rank after rank."""
        return sorted(self.members()[1:], key=lambda p: int(p.environ()["RANK"]))

    def survivors(self) -> list[psutil.Process]:
        """Return those that still run."""
        return [p for p in self._members if is_alive(p)]

    def until(self, happened: Callable[[], bool], every_s: float = 0.002) -> bool:
        """Wait until something happened; False: the job ended before."""
        deadline = time.monotonic() + LIMIT_S
        while self.process.poll() is None:
            if happened():
                self.members()
                return True
            assert time.monotonic() < deadline, self.said
            time.sleep(every_s)
        return False

    def until_step(self, number: int) -> None:
        """Wait until a step is done, saved or not."""
        assert self.until(lambda: steps_done(self.folder) >= number), self.said

    def ended(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(limit_s)


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; one that nobody has waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(job: Job, within_s: float = 10.0) -> bool:
    """Return whether no process of a job is left, or will be left soon."""
    deadline = time.monotonic() + within_s
    while job.survivors() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not job.survivors()


def steps_done(folder: Path) -> int:
    """Return the number of steps in the metrics of the training that runs in a folder."""
    return sum(p.read_bytes().count(b'"event": "step"') for p in folder.glob("checkpoint/*/metrics.jsonl"))


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint by its name; 0 without one."""
    return max((int(p.name[5:]) for p in folder.glob("checkpoint/*/step-*")), default=0)


def newest_is_whole(folder: Path) -> bool:
    """Check the newest checkpoint against its manifest."""
    newest = newest_step(folder)
    return not newest or all(verify_folder(p) for p in folder.glob(f"checkpoint/*/step-{newest:08d}"))


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files and folders that writers left, wherever in a run's folder."""
    return sorted(p.name for pattern in (".*.tmp-*", ".*.old-*") for p in folder.rglob(pattern))


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl, without times."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in lines]


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of what a training leaves: both models, and its metrics without times."""
    found = {name: sha256_file(folder / name / "model.safetensors") for name in ("final", "best")}
    return {**found, "metrics": hashlib.sha256(json.dumps(rows(folder), sort_keys=True).encode()).hexdigest()}
