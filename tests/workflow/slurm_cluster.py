"""A real Slurm of two nodes on this one machine, for tests and for trying the profiles: loopback only, nothing in /etc.

By hand: ``python tests/workflow/slurm_cluster.py start DIR``, then ``export PATH=DIR/bin:$PATH`` and squeue, sbatch,
``make slurm`` ...; ``... stop DIR`` ends it. Its log folder, DIR/log, has every job that ended in jobs.txt.

One process, the keeper, starts the daemons as its children and adopts whatever they leave behind, so that what it ends
is exactly what it started. Under tests it ends them too when the test process is gone, however that ended.
"""

import argparse
import contextlib
import ctypes
import os
import platform
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PACKAGES = ("slurm-wlm", "munge")
COMMANDS = ("srun", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr", "sshare")
NODES = ("n1", "n2")
GPUS = 2
"""Of each node: device nodes like /dev/null, that Slurm counts and hands out as it does real ones."""
_START_S = 60.0
_CANCEL_S = 15.0
_PR_SET_CHILD_SUBREAPER = 36

# A job that is requeued waits until its credential has expired: 120 s unless told otherwise.
# Processors and memory are what is written here, not what the machine has: config_overrides.
_CONF = """\
ClusterName=commbert
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket,cred_expire=10
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
ReturnToService=2
MinJobAge=900
DefMemPerCPU=500
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
NodeName=DEFAULT CPUs=4 RealMemory=64000 Gres=gpu:{gpus} State=UNKNOWN
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=n[1-2] MaxTime=1-0 State=UP
PartitionName=first Nodes=n1 State=UP
PartitionName=second Nodes=n2 State=UP
"""


class ClusterError(Exception):
    """Slurm cannot be had here; the message says why."""


def install() -> None:
    """Install the packages where they are missing.

    Raises:
        ClusterError: If that is impossible here.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise ClusterError("Slurm's daemons start jobs for users: expected root on Linux.")
    if all(shutil.which(name) for name in ("munged", "slurmctld", "slurmd", "sbatch")):
        return
    if not shutil.which("apt-get"):
        raise ClusterError(f"expected slurmctld, slurmd and munged, or apt-get to install {' '.join(PACKAGES)}.")
    # RUNLEVEL=1: the packages' own services are not started.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        try:
            done = subprocess.run(
                ["apt-get", *command], capture_output=True, text=True, env=environment, timeout=300, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"apt-get {command[0]} did not end within {error.timeout:.0f} s.") from None
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise ClusterError(f"apt-get {command[0]} failed: {said}")


class SlurmCluster:
    """A cluster that lives as long as this object's keeper does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "SlurmCluster":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with the commands of this cluster first."""
        return {**os.environ, "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def start(self, *, ends_with_caller: bool = True) -> None:
        """Install where needed, start, and wait until both nodes take jobs.

        Raises:
            ClusterError: If it cannot run here; says what failed.
        """
        install()
        if _keeper_of(self.folder):
            raise ClusterError(f"{self.folder}: a cluster is running there; stop it first.")
        (self.folder / "ready").unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "keep", str(self.folder), *["--with-caller"] * ends_with_caller]
        with (self.folder / "keeper.log").open("wb") as log:
            # In a session of its own: Ctrl-C in the terminal is not for it.
            self._keeper = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if ends_with_caller else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not (self.folder / "ready").exists():
            if self._keeper.poll() is not None:
                raise ClusterError(
                    (self.folder / "keeper.log").read_text(errors="replace").strip().removeprefix("error: ")
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Cancel what runs, end every daemon and every process of a job, and wait for that."""
        keeper = _keeper_of(self.folder)
        if keeper:
            keeper.terminate()
            keeper.wait(timeout=_CANCEL_S + 30)
        if self._keeper:
            self._keeper.wait()
            if self._keeper.stdin:
                self._keeper.stdin.close()

    def call(self, *command: str) -> str:
        """Return what a command of the cluster prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def kill_node(self, name: str) -> None:
        """Kill a node's daemon and all that it runs, as a crash does; the keeper starts the daemon again.

        Slurm is told: by itself it looks for lost jobs only every five minutes.
        """
        daemon = psutil.Process(int((self.folder / "run" / f"{name}.pid").read_text()))
        spool = str(self.folder / "spool" / name)
        keeper = daemon.parent()
        managers = [
            child
            for child in (keeper.children() if keeper else [])
            if child.name() == "slurmstepd"
            and any(str(c.laddr).startswith(spool) for c in child.net_connections("unix"))
        ]
        tasks = [process for manager in managers for process in manager.children(recursive=True)]
        # Who would tell Slurm of the tasks' end goes first: a node that dies tells nothing.
        for process in [*managers, *tasks]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        daemon.kill()
        self.call("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=died")
        self.call("scontrol", "update", f"NodeName={name}", "State=RESUME")


def _keeper_of(folder: Path) -> psutil.Process | None:
    """Return the keeper of a folder's cluster, if it runs."""
    try:
        process = psutil.Process(int((folder / "keeper.pid").read_text()))
        return process if {"keep", str(folder)} <= set(process.cmdline()) else None
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None


class _Keeper:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._commands: dict[str, list[str]] = {}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def run(self, *, with_caller: bool) -> None:
        """Start everything, keep it until asked to end (or until the caller is gone), and end it."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        (self._folder / "keeper.pid").write_text(str(os.getpid()))
        try:
            self._write_files()
            os.environ["SLURM_CONF"] = str(self._folder / "slurm.conf")
            self._start_all()
            (self._folder / "ready").touch()
            while not self._stopping:
                self._start_again()
                readable, _, _ = select.select([sys.stdin] if with_caller else [], [], [], 0.5)
                if readable and not os.read(sys.stdin.fileno(), 1):
                    break
        finally:
            self._stop_all()
            (self._folder / "ready").unlink(missing_ok=True)
            (self._folder / "keeper.pid").unlink(missing_ok=True)

    def _end(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _write_files(self) -> None:
        folder = self._folder
        for name in ("state", "log", "run", "bin", "gpu", *(f"spool/{node}" for node in NODES)):
            (folder / name).mkdir(parents=True, exist_ok=True)
        key = folder / "munge.key"
        key.unlink(missing_ok=True)
        os.close(os.open(key, os.O_CREAT | os.O_EXCL, 0o600))
        key.write_bytes(secrets.token_bytes(1024))
        host = platform.node().split(".")[0]
        (folder / "slurm.conf").write_text(_CONF.format(host=host, ports=_free_ports(3), folder=folder, gpus=GPUS))
        (folder / "gres.conf").write_text(
            f"NodeName=n[1-2] Name=gpu File={folder}/gpu/nvidia[0-{GPUS - 1}] Flags=nvidia_gpu_env\n"
        )
        for gpu in range(GPUS):
            device = folder / "gpu" / f"nvidia{gpu}"
            if not device.exists():
                os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
        # Snakemake's job steps drop every SLURM_ variable, this one too.
        for name in COMMANDS:
            wrapper = folder / "bin" / name
            wrapper.write_text(f'#!/bin/sh\nexport SLURM_CONF={folder}/slurm.conf\nexec {shutil.which(name)} "$@"\n')
            wrapper.chmod(0o755)

    def _start_all(self) -> None:
        run = self._folder / "run"
        munge = [f"--key-file={self._folder}/munge.key", f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid"]
        munge += [f"--log-file={self._folder}/log/munged.log", f"--seed-file={run}/munge.seed"]
        self._start("munged", ["munged", "--foreground", "--force", *munge])
        self._wait("munged", (run / "munge.socket").exists)
        self._start("slurmctld", ["slurmctld", "-D", "-c"])
        for node in NODES:
            self._start(node, ["slurmd", "-D", "-N", node])
        self._wait("the nodes", lambda: _said("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T").split() == ["idle"] * 2)

    def _start(self, name: str, command: list[str]) -> None:
        self._commands[name] = command
        with (self._folder / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        (self._folder / "run" / f"{name}.pid").write_text(str(self._daemons[name].pid))

    def _start_again(self) -> None:
        """Start nodes again that have died (another daemon's death is an error); let adopted dead processes go."""
        for name, daemon in list(self._daemons.items()):
            if daemon.poll() is not None:
                if name not in NODES:
                    raise ClusterError(f"{name} has ended with {daemon.returncode}.")
                self._start(name, self._commands[name])
        own = {daemon.pid for daemon in self._daemons.values()}
        for child in psutil.Process().children():
            if child.pid not in own and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)

    def _wait(self, what: str, is_there: Callable[[], bool]) -> None:
        until = time.monotonic() + _START_S
        while not is_there():
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if dead or self._stopping or time.monotonic() > until:
                log = self._folder / "log" / f"{(dead or ['slurmctld'])[0]}.out"
                said = log.read_text(errors="replace").strip().splitlines()[-3:] if log.exists() else []
                raise ClusterError(f"{(dead or [what])[0]} did not start: {' | '.join(said)}")
            time.sleep(0.1)

    def _stop_all(self) -> None:
        if "slurmctld" in self._daemons and self._daemons["slurmctld"].poll() is None:
            _said("scancel", "--user=root")
            until = time.monotonic() + _CANCEL_S
            while time.monotonic() < until and _said("squeue", "-h", "-o", "%i"):
                time.sleep(0.2)
        for name in (*NODES, "slurmctld", "munged"):
            if name in self._daemons:
                self._daemons[name].terminate()
        psutil.wait_procs([psutil.Process(d.pid) for d in self._daemons.values() if d.poll() is None], timeout=10)
        # Whatever is left has been adopted by this process.
        left = psutil.Process().children(recursive=True)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=10)


def _said(*command: str) -> str:
    """Return what a command prints; nothing while the controller does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    except subprocess.TimeoutExpired:
        return ""


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="A private Slurm of two nodes on this machine.")
    parser.add_argument("action", choices=["start", "stop", "keep"])
    parser.add_argument("folder", type=lambda text: Path(text).absolute())
    parser.add_argument("--with-caller", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    cluster = SlurmCluster(given.folder)
    try:
        if given.action == "keep":
            _Keeper(given.folder).run(with_caller=given.with_caller)
        elif given.action == "stop":
            cluster.stop()
        else:
            cluster.start(ends_with_caller=False)
            print(cluster.call("sinfo", "-N", "-l"))
            print(f"export PATH={given.folder}/bin:$PATH")
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
