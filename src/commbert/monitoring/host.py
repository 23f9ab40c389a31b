"""The stage's processes and the node under them, by psutil.

The kernel adds the CPU time and the disk bytes of an ended child to its parent's, once that has waited for it. So the
sum over the living processes of the tree is what the whole tree took, with those that came and went between samples.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import psutil

from commbert.monitoring.nvml import Reading

LOOKING_SHARE = 0.005
"""Of a core, at most, for finding new processes of the tree: it means a look at all processes of the node."""
READING_SHARE = 0.003
"""Of a core, at most, for reading the processes of a large tree: a thousand of them take 0.1 s."""
LARGE_S = 0.001
"""A tree that is read in less is small, and read every time."""
NOTES = (
    "memory of the process tree counts pages that processes share in each of them",
    "node_*, network_* and the energy of CPU and GPUs count the whole node; stages that run at the same time count the "
    "same joules and bytes each",
    "disk bytes are those that reached the disk, not those that memory held",
)
COLUMNS = (
    "tree_processes",
    "tree_cpu_s",
    "tree_cpu_pct",
    "tree_rss_gib",
    "disk_read_bytes",
    "disk_written_bytes",
    "network_received_bytes",
    "network_sent_bytes",
    "node_cpu_pct",
    "node_memory_used_gib",
)
SELDOM = "so many processes are not read every time"
_TREE = COLUMNS[:4]
_DISK = COLUMNS[4:6]
_LOOPBACK = ("lo", "lo0")
_GIBI = 2**30


class _Growing:
    """A counter that only grows, of which a reading may miss a part: the highest reading since the first."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._highest = 0.0

    def since_first(self, value: float) -> float:
        if self._first is None:
            self._first = self._highest = value
        self._highest = max(self._highest, value)
        return self._highest - self._first


class Host:
    """Reads the tree of processes below ``root_pid``, and the node.

    Args:
        root_pid: None: this process.
        clock: Seconds.
        library: psutil, or a fake one.
    """

    def __init__(
        self, root_pid: int | None = None, *, clock: Callable[[], float] = time.monotonic, library: Any = psutil
    ) -> None:
        self._library, self._clock = library, clock
        self._root_pid = root_pid
        self._root: Any = None
        self._members: list[Any] = []
        self._look_at = self._read_at = clock()
        self._cpu, self._read, self._written = _Growing(), _Growing(), _Growing()
        self._before: tuple[float, float] | None = None
        self._nics: dict[str, tuple[int, int]] = {}
        self._received = self._sent = 0
        with contextlib.suppress(OSError, library.Error):  # what hides it now gives its reason when it is read
            library.cpu_percent(None)  # the first answer counts from here

    def read(self, *, is_last: bool = False) -> Reading:
        """Return what the tree took since the first reading, and what the node does now.

        Args:
            is_last: A tree of many processes, which is not read every time, is read now.
        """
        if is_last:
            self._read_at = self._clock()
        values: dict[str, Any] = dict.fromkeys(COLUMNS)
        missing: dict[str, str] = {}
        for columns, part in ((COLUMNS[:6], self._tree), (COLUMNS[6:8], self._network), (COLUMNS[8:], self._node)):
            try:
                found, reasons = part()
            except (OSError, self._library.Error) as error:
                found, reasons = {}, dict.fromkeys(columns, _told(error))
            values |= found
            missing |= reasons
        return Reading(values, missing)

    def _tree(self) -> tuple[dict[str, Any], dict[str, str]]:
        self._look()
        if self._clock() < self._read_at:
            return {}, dict.fromkeys((*_TREE, *_DISK), SELDOM)
        began = time.thread_time()
        try:
            return self._read_tree()
        finally:
            took_s = time.thread_time() - began
            self._read_at = self._clock() + (took_s / READING_SHARE if took_s > LARGE_S else 0.0)

    def _read_tree(self) -> tuple[dict[str, Any], dict[str, str]]:
        taken = [t for process in self._members if (t := self._of_process(process))]
        if not taken:
            return {}, dict.fromkeys((*_TREE, *_DISK), "the stage's process was not found")
        now, cpu_s = self._clock(), self._cpu.since_first(sum(t[0] for t in taken))
        values = {"tree_processes": len(taken), "tree_cpu_s": cpu_s, "tree_rss_gib": sum(t[1] for t in taken) / _GIBI}
        missing = {}
        if self._before is not None and now > self._before[0]:
            values["tree_cpu_pct"] = 100.0 * (cpu_s - self._before[1]) / (now - self._before[0])
        else:
            missing["tree_cpu_pct"] = "counts from the first sample"
        self._before = (now, cpu_s)
        hidden = next((t[2] for t in taken if isinstance(t[2], str)), None)
        if hidden is not None:
            return values, missing | dict.fromkeys(_DISK, hidden)
        values["disk_read_bytes"] = int(self._read.since_first(sum(t[2][0] for t in taken)))
        values["disk_written_bytes"] = int(self._written.since_first(sum(t[2][1] for t in taken)))
        return values, missing

    def _look(self) -> None:
        """Find the processes of the tree, seldom enough."""
        if self._clock() < self._look_at:
            return
        began = time.thread_time()
        if self._root is None:
            self._root = self._library.Process(self._root_pid)
        try:
            self._members = [self._root, *self._root.children(recursive=True)]
        except self._library.NoSuchProcess:
            self._members = []
        self._look_at = self._clock() + (time.thread_time() - began) / LOOKING_SHARE

    def _of_process(self, process: Any) -> tuple[float, int, Any] | None:
        """Return CPU seconds, resident bytes, and disk bytes or why they are hidden; None if it has ended."""
        try:
            if not process.is_running():
                return None
            with process.oneshot():
                cpu, resident = process.cpu_times(), process.memory_info().rss
                # macOS does not tell those of children.
                cpu_s = cpu.user + cpu.system + getattr(cpu, "children_user", 0) + getattr(cpu, "children_system", 0)
                return cpu_s, resident, self._disk_of(process)
        except self._library.NoSuchProcess:
            return None

    def _disk_of(self, process: Any) -> tuple[int, int] | str:
        if not hasattr(process, "io_counters"):
            return "this system does not count the disk bytes of a process"
        try:
            counted = process.io_counters()
        except self._library.ZombieProcess:
            return (0, 0)
        except (self._library.AccessDenied, OSError) as error:
            return f"disk bytes of process {process.pid}: {_told(error)}"
        return counted.read_bytes, counted.write_bytes

    def _network(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Add up what each interface counted since the last time; one that is new counts from now on."""
        for name, nic in self._library.net_io_counters(pernic=True).items():
            if name not in _LOOPBACK:
                received, sent = self._nics.get(name, (nic.bytes_recv, nic.bytes_sent))
                self._received += max(0, nic.bytes_recv - received)
                self._sent += max(0, nic.bytes_sent - sent)
                self._nics[name] = (nic.bytes_recv, nic.bytes_sent)
        if not self._nics:
            return {}, dict.fromkeys(COLUMNS[6:8], "no network interface but loopback")
        return {"network_received_bytes": self._received, "network_sent_bytes": self._sent}, {}

    def _node(self) -> tuple[dict[str, Any], dict[str, str]]:
        memory = self._library.virtual_memory()
        used_gib = (memory.total - memory.available) / _GIBI
        return {"node_cpu_pct": self._library.cpu_percent(None), "node_memory_used_gib": used_gib}, {}


def _told(error: Exception) -> str:
    # It may name a process, whose name is of any bytes: they have to go into a file of UTF-8.
    return f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode()
