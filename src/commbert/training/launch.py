"""Starting the training processes of this machine, and ending them together.

Imports no torch. On one machine torchrun is not used (a training may be started by it all the same): it answers a wish
to stop with exit code 1 and a traceback, shows the consequences of an error before the error, and leaves its workers
behind when it is killed (all three seen with torch 2.13). Several machines: commbert.training.nodes.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from commbert.errors import EXIT_PEER_LOST, EXIT_STOPPED, SettingsError
from commbert.monitoring import gpu_count
from commbert.starter import STARTED_BY, when_gone
from commbert.training.restarting import ATTEMPT, Verdict, failure, until_done
from commbert.training.stopping import SIGNALS, Stop, listening

TUNABLES = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184"
"""Keeps glibc from giving pages back between steps: less time and less memory (measured)."""
LAUNCHED = "COMMBERT_LAUNCHED"
"""The process that started this one."""
RENDEZVOUS = "COMMBERT_RENDEZVOUS"
"""Where the processes of one machine find each other: a file, so that nobody else can join."""
_GRACE_S = 20.0
"""Time for the others to notice that one has failed, before they are told."""
_LAST_S = 10.0
"""Time to obey, before they are killed."""
_PR_SET_PDEATHSIG = 1
_joined = threading.Event()
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def process_count(processes: int | str, device: str) -> int:
    """Return how many training processes to start; ``auto``: one per GPU, one without."""
    if processes != "auto":
        return int(processes)
    return max(1, gpu_count()) if device in ("auto", "cuda") else 1


def become_training(
    arguments: list[str], *, n_processes: int, threads: int, most_processes: int | None, restarts: int = 0
) -> int:
    """Run the training processes and return the exit code; a single one takes the place of this process.

    Args:
        arguments: The command line after ``commbert``.
        n_processes: Training processes on this machine.
        threads: CPU threads of all of them together.
        most_processes: The number of micro-batches, which they share out; None: each has its own.
        restarts: How often they are started again after the death of one of several.

    Raises:
        SettingsError: If there are more processes than micro-batches.
    """
    if most_processes is not None and n_processes > most_processes:
        raise SettingsError(
            f"runtime.processes: expected at most training.micro_batches = {most_processes}, found {n_processes}. "
            "Raise training.micro_batches or lower runtime.processes."
        )
    env = environment_of_ranks(threads // n_processes)
    command = [sys.executable, "-m", "commbert", *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    if n_processes == 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.execve(command[0], command, env)
    if sys.platform == "linux":
        env.setdefault("GLOO_SOCKET_IFNAME", "lo")
    env.pop(STARTED_BY, None)  # the launcher watches it, and they follow the launcher
    with listening() as stop:

        def start(attempt: int) -> Verdict:
            with tempfile.TemporaryDirectory(prefix="commbert-") as folder:
                now = {**env, RENDEZVOUS: Path(folder, "rendezvous").as_uri(), ATTEMPT: str(attempt)}
                workers = _Workers(command, now, n_processes, Path(folder))
                try:
                    return workers.wait(stop)
                finally:
                    workers.kill()

        return until_done(start, restarts=restarts, stop=stop)


def environment_of_ranks(threads: int) -> dict[str, str]:
    """Return what the training processes below this one find in their environment, beside their ranks."""
    # What another launcher (MPI, a cluster) has said of its processes is none of ours.
    env = {name: value for name, value in os.environ.items() if name not in _RANKS}
    env[LAUNCHED] = str(os.getpid())
    env["OMP_NUM_THREADS"] = str(max(1, threads))
    env.setdefault("GLIBC_TUNABLES", TUNABLES)
    return env


def is_launched() -> bool:
    """Return whether this process is one of the training processes."""
    return LAUNCHED in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


def tree_root() -> int | None:
    """Return the process that has all training processes of this machine below it; None: this one is the only one."""
    if "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get(LAUNCHED) == str(os.getppid()):
        return os.getppid()
    return None


def usage_of_node(usage: Path | None) -> Path | None:
    """Return where this process writes what its machine took: only the first one of each machine does.

    That of the first machine writes ``usage`` itself, x.usage.json; of another one x.node1.usage.json ...
    """
    env = os.environ
    if usage is None or env.get("RANK", "0") == "0":
        return usage
    if env.get("LOCAL_RANK") != "0":
        return None
    return usage.with_name(
        f"{usage.name.removesuffix('.usage.json')}.node{env.get('GROUP_RANK', env['RANK'])}.usage.json"
    )


def follow_launcher() -> None:
    """End with the launcher, so that nobody trains on unseen: after ``joined`` by the wish to stop, before it at once.

    Linux sends the wish. Who waits for the others to join would not hear it, and has nothing to save.
    """
    launcher = int(os.environ.get(LAUNCHED, os.getpid()))
    if launcher == os.getpid() or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    when_gone(launcher, _leave_unless_joined)
    if os.getppid() != launcher:
        _leave_unless_joined()  # another process may have its number by now


def joined() -> None:
    """Say that all training processes have found each other."""
    _joined.set()


def _leave_unless_joined() -> None:
    if not _joined.is_set():
        os._exit(EXIT_PEER_LOST)


class _Workers:
    def __init__(self, command: list[str], env: dict[str, str], n: int, folder: Path) -> None:
        """Start all; the first one speaks, what the others say is kept until it is needed."""
        self._said = [folder / f"stderr.{rank}" for rank in range(n)]
        # Children inherit the mask: a signal waits until they listen.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._workers = [self._start(command, env, rank, n) for rank in range(n)]
        signal.pthread_sigmask(signal.SIG_SETMASK, old)

    def _start(self, command: list[str], env: dict[str, str], rank: int, n: int) -> subprocess.Popen[bytes]:
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)}
        with self._said[rank].open("wb") as file:
            # Each in a process group of its own: Ctrl-C comes to the launcher alone, which hands it on.
            return subprocess.Popen(command, env={**env, **ranks}, process_group=0, stderr=file if rank else None)

    def wait(self, stop: Stop) -> Verdict:
        """Wait for all; end the others when one fails."""
        failed: tuple[int, int] | None = None
        failed_at: float | None = None
        sent: set[signal.Signals] = set()
        while any(w.poll() is None for w in self._workers):
            time.sleep(0.05)
            failed = failed or self._first_failure()
            if failed_at is None and (failed or EXIT_PEER_LOST in self._codes()):
                failed_at = time.monotonic()
            since_s = time.monotonic() - failed_at if failed_at is not None else 0.0
            if stop.requested or since_s > _GRACE_S:
                self._send(signal.SIGTERM, sent)
            if since_s > _GRACE_S + _LAST_S:
                self._send(signal.SIGKILL, sent)
        return self._verdict(failed or self._first_failure())

    def kill(self) -> None:
        """Leave nobody behind, whatever made this process go: a second Ctrl-C, a bug."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()

    def _codes(self) -> list[int | None]:
        return [w.poll() for w in self._workers]

    def _send(self, number: signal.Signals, sent: set[signal.Signals]) -> None:
        """Send a signal to all that still run, once."""
        for worker in self._workers if number not in sent else []:
            if worker.poll() is None:
                worker.send_signal(number)
        sent.add(number)

    def _first_failure(self) -> tuple[int, int] | None:
        """Return rank and exit code of a process that failed by itself, not by the end of another."""
        good = (None, 0, EXIT_STOPPED, EXIT_PEER_LOST)
        return next(((rank, c) for rank, c in enumerate(self._codes()) if c is not None and c not in good), None)

    def _verdict(self, failed: tuple[int, int] | None) -> Verdict:
        codes = [w.returncode for w in self._workers]
        if failed is None and EXIT_PEER_LOST in codes:
            failed = (codes.index(EXIT_PEER_LOST), EXIT_PEER_LOST)
        if failed is None:
            return Verdict(EXIT_STOPPED if EXIT_STOPPED in codes else 0)
        rank, code = failed
        if code == codes[0]:
            rank = 0  # an error that all of them see has been said by the first
        said = ""
        if rank and self._said[rank].is_file():
            said = self._said[rank].read_text(encoding="utf-8", errors="replace")
        return failure(f"rank {rank} of {len(codes)}", code, said)
