"""The ranks of one machine among several, by torchrun's agent; commbert.training.nodes starts one on each."""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
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
from commbert.training.launch import environment_of_ranks
from commbert.training.restarting import ATTEMPT
from commbert.training.stopping import SIGNALS

HEAD_PORT = "COMMBERT_HEAD_PORT"
"""Where the head's store listens; who finds it and is no rank is an agent."""
N_NODES = "COMMBERT_NODES"
RANK_FOLDER = "COMMBERT_RANK_FOLDER"
"""Where the ranks of a machine leave word for their agent."""
_STOPPED = "stopped"
GOOD = (0, EXIT_STOPPED)
CONSEQUENCES = (EXIT_PEER_LOST, -signal.SIGTERM)
"""Of the end of another rank: the connection is gone, and srun or torchrun ends who is left."""
_JOIN_S = 600.0
"""Most seconds between the first and the last agent: the nodes may read Python and torch from a slow disk."""
_LEAST_S = 1.0
"""Between two looks for processes that a wish to stop has not reached."""
_MOST_SAID_BYTES = 20_000


def is_agent() -> bool:
    """Return whether this process was started by a head, to start the ranks of its machine."""
    return HEAD_PORT in os.environ and "RANK" not in os.environ


def report_of(node: int) -> str:
    """Return the key by which an agent tells how its ranks ended."""
    return f"report/{node}"


def listens(node: int) -> str:
    """Return the key by which an agent says that it takes wishes to stop from now on."""
    return f"agent/{node}"


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
    store.set(listens(node), "")
    with tempfile.TemporaryDirectory(prefix="commbert-") as folder:
        os.environ.update(environment_of_ranks(threads // n_processes) | {RANK_FOLDER: folder})
        _check_interfaces(os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface_of(address)))
        threading.Thread(target=_hand_on, daemon=True).start()
        report = _elastic(arguments, n_processes, endpoint=f"{host}:{port}", address=address, folder=Path(folder))
    report["host"] = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    try:
        store.set(report_of(node), json.dumps(report))
    except RuntimeError as error:  # what torch makes of a broken connection
        raise PeerLostError(f"the agent on {report['host']}: the head of the training, {host}, is gone.") from error
    # 0 after a stop too: after any other code srun ends those who have not told the head yet.
    return 0 if report["code"] in GOOD else max(int(report["code"]), EXIT_USER_ERROR)


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
    return min(failures.items(), key=lambda item: (item[1].exitcode in CONSEQUENCES, item[1].timestamp))


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
