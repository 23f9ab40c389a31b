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
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from commbert.errors import (
    EXIT_PEER_LOST,
    EXIT_STOPPED,
    EXIT_UNEXPECTED,
    EXIT_USER_ERROR,
    PeerLostError,
    SettingsError,
    TrainingError,
)
from commbert.starter import STARTED_BY
from commbert.training.launch import environment_of_ranks
from commbert.training.restarting import ATTEMPT, Verdict, failure, until_done
from commbert.training.stopping import SIGNALS, Stop, listening

HEAD_PORT = "COMMBERT_HEAD_PORT"
"""Where the head's store listens; who finds it and is no rank is an agent."""
N_NODES = "COMMBERT_NODES"
RANK_FOLDER = "COMMBERT_RANK_FOLDER"
"""Where the ranks of a machine leave word for their agent."""
_STOPPED = "stopped"
_GOOD = (0, EXIT_STOPPED)
_CONSEQUENCES = (EXIT_PEER_LOST, -signal.SIGTERM)
"""Of the end of another rank: the connection is gone, and srun or torchrun ends who is left."""
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
_JOIN_S = 600.0
"""Most seconds between the first and the last agent: the nodes may read Python and torch from a slow disk."""
_LEAVING_S = 30.0
"""For srun to end, when all agents have told how their ranks ended, or when it is told to."""
_LEAST_S = 1.0
"""Between two looks for processes that a wish to stop has not reached."""
_MOST_SAID_BYTES = 20_000


@dataclass(frozen=True)
class Allocation:
    """What Slurm has given to this job."""

    job_id: str
    n_nodes: int
    cpus_per_node: int


def is_agent() -> bool:
    """Return whether this process was started by a head, to start the ranks of its machine."""
    return HEAD_PORT in os.environ and "RANK" not in os.environ


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
    agents = [_listens(node) for node in range(n_nodes)]
    # srun inherits the mask: a signal waits until it listens. Its process group is its own: Ctrl-C comes to the head
    # alone, which hands it on.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    srun = subprocess.Popen(
        command, env={**env, HEAD_PORT: str(store.port), N_NODES: str(n_nodes)}, process_group=0, stdout=sys.stderr
    )
    signal.pthread_sigmask(signal.SIG_SETMASK, old)
    try:
        is_told, all_told_at = False, float("inf")
        # Of a node whose Slurm daemon was killed srun waits for word without end.
        while srun.poll() is None and time.monotonic() < all_told_at + _LEAVING_S:
            if stop.requested and not is_told:
                # SIGUSR1 is what srun hands on; at SIGTERM it kills the step.
                srun.send_signal(signal.SIGUSR1 if store.check(agents) else signal.SIGTERM)
                is_told = True
            if store.check([_report_of(node) for node in range(n_nodes)]):
                all_told_at = min(all_told_at, time.monotonic())
            time.sleep(0.05)
    finally:
        _end(srun)
    if stop.requested and not store.check(agents):
        # No rank has begun: they wait for the last agent.
        return Verdict(EXIT_STOPPED, said="stopped as asked before the training began; start again to go on\n")
    return _verdict(srun.returncode, [_report(store, node) for node in range(n_nodes)])


def _verdict(code: int, reports: list[dict[str, Any] | None]) -> Verdict:
    """Judge by what the agents have told; of one that could not tell anything, by srun."""
    told = [report for report in reports if report]
    codes = {report["code"] for report in told}
    if len(told) == len(reports) and codes <= {0, EXIT_STOPPED}:
        return Verdict(max(codes))
    told.sort(key=lambda r: (r["code"] in _GOOD, r["code"] in _CONSEQUENCES, r["rank"] or 0))
    silent = [node for node, report in enumerate(reports) if not report]
    cause = told[0] if told else None
    if silent and (cause is None or cause["code"] in (*_GOOD, *_CONSEQUENCES)):
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


def _report_of(node: int) -> str:
    """Return the key by which an agent tells how its ranks ended."""
    return f"report/{node}"


def _listens(node: int) -> str:
    """Return the key by which an agent says that it takes wishes to stop from now on."""
    return f"agent/{node}"


def _report(store: Any, node: int) -> dict[str, Any] | None:
    key = _report_of(node)
    return json.loads(store.get(key)) if store.check([key]) else None


def run_agent(arguments: list[str], *, n_processes: int, threads: int) -> int:
    """Be an agent: run the ranks of this machine, tell the head how they ended, and return the exit code.

    Args:
        arguments: The command line after ``commbert``.
        n_processes: Ranks on this machine.
        threads: CPU threads of all of them together.
    """
    # Before any thread begins, for all of them and for the ranks, which wait with a wish until they can grant it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415

    host = os.environ.get("MASTER_ADDR") or os.environ["SLURM_LAUNCH_NODE_IPADDR"]
    port = int(os.environ[HEAD_PORT])
    address = _address_towards(host, port)
    store = TCPStore(host, port, is_master=False, wait_for_workers=False)
    node = int(os.environ["SLURM_NODEID"])
    store.set(_listens(node), "")
    with tempfile.TemporaryDirectory(prefix="commbert-") as folder:
        os.environ.update(environment_of_ranks(threads // n_processes) | {RANK_FOLDER: folder})
        _check_interfaces(os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface_of(address)))
        threading.Thread(target=_hand_on, daemon=True).start()
        report = _elastic(arguments, n_processes, endpoint=f"{host}:{port}", address=address, folder=Path(folder))
    report["host"] = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    try:
        store.set(_report_of(node), json.dumps(report))
    except RuntimeError as error:  # what torch makes of a broken connection
        raise PeerLostError(f"the agent on {report['host']}: the head of the training, {host}, is gone.") from error
    # 0 after a stop too: after any other code srun ends those who have not told the head yet.
    return 0 if report["code"] in _GOOD else max(int(report["code"]), EXIT_USER_ERROR)


def _elastic(arguments: list[str], n_processes: int, *, endpoint: str, address: str, folder: Path) -> dict[str, Any]:
    """Run the ranks by torchrun's agent and return how they ended."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.launcher.api import LaunchConfig, launch_agent  # noqa: PLC0415

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the head says it, once
    n_nodes = int(os.environ[N_NODES])
    config = LaunchConfig(
        min_nodes=n_nodes,
        max_nodes=n_nodes,
        nproc_per_node=n_processes,
        run_id=f"{os.environ['SLURM_JOB_ID']}.{os.environ[ATTEMPT]}",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={"is_host": "false", "timeout": _JOIN_S, "join_timeout": _JOIN_S},
        max_restarts=0,
        monitor_interval=0.1,
        local_addr=address,
        signals_to_handle="SIGQUIT",  # it insists on some
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "torchrun")),  # else one in /tmp that stays
    )
    try:
        launch_agent(config, sys.executable, ["-m", "commbert", *arguments])
    except ChildFailedError as error:
        rank, first = _cause(error.failures)
        said = folder / f"stderr.{first.local_rank}"
        text = said.read_bytes()[-_MOST_SAID_BYTES:].decode(errors="replace") if said.is_file() else ""
        return {"code": first.exitcode, "rank": rank, "said": text}
    except Exception as error:
        text = f"the agent: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}\n"
        return {"code": EXIT_UNEXPECTED, "rank": None, "said": text}
    return {"code": EXIT_STOPPED if (folder / _STOPPED).exists() else 0, "rank": None, "said": ""}


def _cause(failures: dict[int, Any]) -> tuple[int, Any]:
    """Return the first rank that failed by itself, else the first that another one's end has ended."""
    return min(failures.items(), key=lambda item: (item[1].exitcode in _CONSEQUENCES, item[1].timestamp))


def _address_towards(host: str, port: int) -> str:
    """Return this machine's address on the network that leads to a host."""
    try:
        with socket.create_connection((host, port), timeout=60) as connection:
            address: str = connection.getsockname()[0]
    except OSError as error:
        raise TrainingError(
            f"{socket.gethostname()}: expected the head of the training at {host!a}, port {port}, found: {error}. "
            "Set MASTER_ADDR to an address of the job's first node that the others reach, or unset it."
        ) from error
    return address


def _interface_of(address: str) -> str:
    """Return the name of the network interface that has an address; gloo would take that of the host's name."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address == address for a in addresses):
            return name
    raise TrainingError(f"{address}: expected the address of a network interface of this machine. Set MASTER_ADDR.")


def _check_interfaces(names: str) -> None:
    """Refuse what gloo would refuse in words that nobody understands; a site may have set it for all its machines."""
    for name in names.split(","):
        if name not in (known := psutil.net_if_addrs()):
            raise SettingsError(
                f"GLOO_SOCKET_IFNAME: expected a network interface of {socket.gethostname()} ({', '.join(known)}), "
                f"found {name!a}. Unset it: the one that leads to the first node is taken."
            )


def _hand_on() -> None:
    """Hand a wish to stop on to all ranks, to those that start later too. Slurm tells them itself, most often."""
    signal.sigwait(SIGNALS)
    told: set[int] = set()
    while True:
        for child in psutil.Process().children():
            if child.pid not in told:
                told.add(child.pid)
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGTERM)
        time.sleep(_LEAST_S)


def speak_for_rank() -> None:
    """Let the first rank alone speak; what the others say is kept until their agent asks."""
    folder, env = os.environ.get(RANK_FOLDER), os.environ
    if folder is not None and env["RANK"] != "0":
        sys.stderr.flush()
        with Path(folder, f"stderr.{env['LOCAL_RANK']}").open("wb") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())


def end_of_stopped() -> int:
    """Return the exit code of a rank that stopped as asked; torchrun would take any but 0 for a failure."""
    folder = os.environ.get(RANK_FOLDER)
    if folder is None:
        return EXIT_STOPPED
    Path(folder, _STOPPED).touch()
    return 0
