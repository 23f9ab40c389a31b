"""Starting the training processes: torchrun for several, this process for one.

Imports no torch: it only sets the environment and becomes the command.
"""

import os
import sys

from commbert.errors import SettingsError
from commbert.monitoring import gpu_count

TUNABLES = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184"
"""Keeps glibc from giving pages back between steps: measured 5.48 -> 4.77 s a step at half the memory on CPU."""
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""Without SIGUSR1 in the list torchrun dies of it and leaves its workers running."""
LAUNCHED = "COMMBERT_LAUNCHED"


def process_count(processes: int | str, device: str) -> int:
    """Return how many training processes to start; ``auto``: one per GPU, one without."""
    if processes != "auto":
        return int(processes)
    return max(1, gpu_count()) if device in ("auto", "cuda") else 1


def become_training(arguments: list[str], *, n_processes: int, threads: int, micro_batches: int) -> None:
    """Replace this process by the training processes; does not return.

    Args:
        arguments: The command line after ``commbert``.
        n_processes: Training processes on this machine.
        threads: CPU threads of all of them together; torchrun would give every process that many.
        micro_batches: The setting; there can be no more processes.

    Raises:
        SettingsError: If there are more processes than micro-batches.
    """
    if n_processes > micro_batches:
        raise SettingsError(
            f"runtime.processes: expected at most training.micro_batches = {micro_batches}, found {n_processes}. "
            "Raise training.micro_batches or lower runtime.processes."
        )
    env = dict(os.environ)
    env[LAUNCHED] = "1"
    env["OMP_NUM_THREADS"] = str(max(1, threads // n_processes))
    env.setdefault("GLIBCTUNABLES", TUNABLES)
    command = [sys.executable, "-m", "commbert", *arguments]
    if n_processes > 1:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
        # Without "--" torchrun takes options of ours that begin like its own for its own.
        command = [*torchrun, f"--signals-to-handle={_SIGNALS}", "-m", "--", "commbert", *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, env)


def is_launched() -> bool:
    """Return whether this process is one of the training processes."""
    return LAUNCHED in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
