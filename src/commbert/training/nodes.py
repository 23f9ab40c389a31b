"""A training on several machines of one Slurm job.

``commbert train`` runs once, on the first machine: there it is the *head*. It serves a store on a port that the system
chooses, starts one *agent* per machine by Slurm's own ``srun``, and judges how they ended. An agent is torchrun's, with
its c10d rendezvous at the head's store; addresses come from Slurm and from the route to the head, no name has to
resolve and no port is fixed. torchrun's own restarts and signal handlers are off: a wish to stop goes to the ranks,
which save and end well, and after a death the head starts everything anew, also when an agent itself has died.

Reference: https://docs.pytorch.org/docs/stable/elastic/run.html; https://slurm.schedmd.com/srun.html
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from commbert.errors import (
    EXIT_STOPPED,
    EXIT_USER_ERROR,
    SettingsError,
    TrainingError,
)
from commbert.starter import STARTED_BY
from commbert.training.agents import CONSEQUENCES, GOOD, HEAD_PORT, N_NODES, listens, report_of
from commbert.training.restarting import ATTEMPT, Verdict, failure, until_done
from commbert.training.stopping import SIGNALS, Stop, listening

_GEOMETRY = (
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_TASKS",
    "SLURM_CPUS_PER",
    "SLURM_MEM_PER",
    "SLURM_TRES",
    "SLURM_DIST",
    "SLURM_EXACT",
    "SLURM_GPUS_PER_TASK",
    "SLURM_GPUS_PER_SOCKET",
    "SLURM_GPU_BIND",
    "SLURM_CPU_BIND",
    "SLURM_MEM_BIND",
)
"""Beginnings of the variables by which the batch job's shape would contradict that of the step.

A job of one task per GPU, say, would leave one GPU to the only agent of each machine.
"""
_LEAVING_S = 30.0
"""For srun to end, when no agent can go on, or when it is told to."""


@dataclass(frozen=True)
class Allocation:
    """What Slurm has given to this job."""

    job_id: str
    n_nodes: int
    cpus_per_node: int


def allocation(n_nodes: int) -> Allocation:
    """Return what Slurm has given to the job that this process runs in.

    It is asked, not the environment: Snakemake's executor takes nearly all of Slurm's variables away.

    Raises:
        SettingsError: If this is no Slurm job, or it has another number of nodes.
        TrainingError: If Slurm does not answer.
    """
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id is None:
        raise SettingsError(
            f"runtime.nodes: {n_nodes} machines need a Slurm job, found none (no SLURM_JOB_ID). Submit with "
            "--workflow-profile workflow/profiles/slurm, or start torchrun on each machine yourself."
        )
    command = ["squeue", "--noheader", f"--job={job_id}", "--format=%A %D %C"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        # The first job of an array has the array's number, and gets all of them for an answer.
        mine = [line.split()[1:] for line in done.stdout.splitlines() if line.split()[:1] == [job_id]]
        ((nodes, cpus),) = (map(int, fields) for fields in mine)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        raise TrainingError(f"{' '.join(command)}: expected nodes and CPUs of this job, found: {said}.") from error
    if nodes != n_nodes:
        raise SettingsError(
            f"runtime.nodes: expected {n_nodes} nodes in Slurm job {job_id}, found {nodes}. "
            "Ask for as many (sbatch --nodes), or change runtime.nodes."
        )
    return Allocation(job_id, nodes, max(1, cpus // nodes))


def run_on_nodes(arguments: list[str], *, n_nodes: int, threads: int, restarts: int) -> int:
    """Be the head: train on all machines of the job and return the exit code.

    Args:
        arguments: The command line after ``commbert``, the same for each agent.
        n_nodes: Machines.
        threads: CPU threads on each machine, as far as Slurm gives them.
        restarts: How often everything is started again after a death.

    Raises:
        SettingsError: If this is no Slurm job, or it has another number of nodes.
        TrainingError: If Slurm does not answer.
    """
    here = allocation(n_nodes)
    command = [
        "srun",
        f"--jobid={here.job_id}",
        f"--nodes={n_nodes}",
        f"--ntasks={n_nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={min(threads, here.cpus_per_node)}",
        "--kill-on-bad-exit=1",
        "--overlap",  # a step that was killed with its node's daemon keeps its place for a while
        "--wait=0",  # whoever has ended may wait for the first rank, which still writes
        "--export=ALL",  # also where the job was submitted with NONE, which srun would take over
        "--input=none",
        *(sys.executable, "-m", "commbert", *arguments),
    ]
    env = {k: v for k, v in os.environ.items() if not k.startswith(_GEOMETRY) and k not in ("RANK", STARTED_BY)}
    with listening() as stop:
        return until_done(
            lambda attempt: _step(command, {**env, ATTEMPT: str(attempt)}, n_nodes, stop), restarts=restarts, stop=stop
        )


def _step(command: list[str], env: dict[str, str], n_nodes: int, stop: Stop) -> Verdict:
    """Run the agents once."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415 (takes two seconds)

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    agents = [listens(node) for node in range(n_nodes)]
    # srun inherits the mask: a signal waits until it listens. Its process group is its own: Ctrl-C comes to the head
    # alone, which hands it on.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    srun = subprocess.Popen(
        command, env={**env, HEAD_PORT: str(store.port), N_NODES: str(n_nodes)}, process_group=0, stdout=sys.stderr
    )
    signal.pthread_sigmask(signal.SIG_SETMASK, old)
    try:
        is_told, over_at = False, float("inf")
        # Of a node whose Slurm daemon was killed, with what it ran, srun waits for word without end.
        while srun.poll() is None and time.monotonic() < over_at + _LEAVING_S:
            if stop.requested and not is_told:
                # SIGUSR1 is what srun hands on; at SIGTERM it kills the step.
                srun.send_signal(signal.SIGUSR1 if store.check(agents) else signal.SIGTERM)
                is_told = True
            if _is_over([_report(store, node) for node in range(n_nodes)]):
                over_at = min(over_at, time.monotonic())
            time.sleep(0.05)
    finally:
        _end(srun)
    if stop.requested and not store.check(agents):
        # No rank has begun: they wait for the last agent.
        return Verdict(EXIT_STOPPED, said="stopped as asked before the training began; start again to go on\n")
    return _verdict(srun.returncode, [_report(store, node) for node in range(n_nodes)])


def _is_over(reports: list[dict[str, Any] | None]) -> bool:
    """Return whether all agents have told their end, or one has told of a failure: then no other goes on."""
    return all(reports) or any(report["code"] not in GOOD for report in reports if report)


def _verdict(code: int, reports: list[dict[str, Any] | None]) -> Verdict:
    """Judge by what the agents have told; of one that could not tell anything, by srun."""
    told = [report for report in reports if report]
    codes = {report["code"] for report in told}
    if len(told) == len(reports) and codes <= {0, EXIT_STOPPED}:
        return Verdict(max(codes))
    told.sort(key=lambda r: (r["code"] in GOOD, r["code"] in CONSEQUENCES, r["rank"] or 0))
    silent = [node for node, report in enumerate(reports) if not report]
    cause = told[0] if told else None
    if silent and (cause is None or cause["code"] in (*GOOD, *CONSEQUENCES)):
        how = f"the agent of node {silent[0]} of {len(reports)} was lost (srun: exit code {code})"
        return Verdict(EXIT_USER_ERROR, how, is_death=True)
    assert cause is not None
    if cause["rank"] is None:
        return failure(f"the agent on {cause['host']}", cause["code"], cause["said"])
    # An error that the first rank has too was shown by it.
    shown = cause["rank"] == 0 or any(r["rank"] == 0 and r["code"] == cause["code"] for r in told)
    return failure(f"rank {cause['rank']} on {cause['host']}", cause["code"], "" if shown else cause["said"])


def _end(srun: subprocess.Popen[bytes]) -> None:
    """End srun and its step, if they have not ended."""
    for act in (srun.terminate, srun.kill):
        with contextlib.suppress(subprocess.TimeoutExpired):
            if srun.poll() is None:
                act()
                srun.wait(_LEAVING_S)


def _report(store: Any, node: int) -> dict[str, Any] | None:
    key = report_of(node)
    return json.loads(store.get(key)) if store.check([key]) else None
