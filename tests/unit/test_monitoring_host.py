"""The tree of processes and the node, of this machine and of one that a test describes."""

import subprocess
import sys
import time
from itertools import count
from types import SimpleNamespace

import psutil
import pytest

from commbert.artifacts import write_json
from commbert.monitoring.host import COLUMNS, LOOKING_SHARE, READING_SHARE, SELDOM, Host
from fake_nvml import Clock

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
BURN = "import time\nend = time.process_time() + {s}\nwhile time.process_time() < end: pass\n"
TELL = "print('ready', flush=True); input()"


def child(code):
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    process.communicate("\n")


@linux
def test_all_columns_of_this_machine_are_there_after_the_second_reading():
    host = Host()
    first = host.read()
    assert set(first.values) == set(COLUMNS)
    assert first.missing == {"tree_cpu_pct": "counts from the first sample"}
    time.sleep(0.01)
    second = host.read()
    assert second.missing == {}
    assert None not in second.values.values()


@linux
def test_cpu_time_of_children_counts_while_they_live_and_after_they_ended():
    host = Host()
    host.read()
    burning = child(BURN.format(s=0.3) + TELL)
    host._look_at = 0.0
    alive = host.read().values
    end(burning)
    after = host.read().values
    assert alive["tree_processes"] == after["tree_processes"] + 1
    assert alive["tree_cpu_s"] >= 0.28
    assert after["tree_cpu_s"] >= alive["tree_cpu_s"]


@linux
def test_a_child_that_came_and_went_between_two_readings_counts():
    host = Host()
    host.read()
    subprocess.run([sys.executable, "-c", BURN.format(s=0.2)], check=True)
    assert host.read().values["tree_cpu_s"] >= 0.18


@linux
def test_the_tree_begins_at_the_process_that_is_named():
    outer = child(f"import subprocess, sys\np = subprocess.Popen([sys.executable, '-c', 'input()'])\n{TELL}")
    try:
        host = Host(outer.pid)
        assert host.read().values["tree_processes"] == 2
    finally:
        for process in psutil.Process(outer.pid).children():
            process.kill()
        end(outer)
    host._look_at = 0.0
    values = host.read()
    assert values.values["tree_cpu_s"] is None
    assert values.missing["tree_cpu_s"] == "the stage's process was not found"
    assert values.values["node_memory_used_gib"] > 0


# A machine of our own.


class FakeProcess:
    def __init__(self, pid, *, cpu=0.0, rss=0, read=0, written=0):
        self.pid, self.cpu, self.rss, self.read, self.written = pid, cpu, rss, read, written
        self.tree, self.is_alive, self.error = [], True, None

    def is_running(self):
        return self.is_alive

    def oneshot(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def cpu_times(self):
        if not self.is_alive:
            raise psutil.NoSuchProcess(self.pid)
        return SimpleNamespace(user=self.cpu, system=1.0, children_user=2.0, children_system=3.0)

    def memory_info(self):
        return SimpleNamespace(rss=self.rss)

    def io_counters(self):
        if self.error:
            raise self.error
        return SimpleNamespace(read_bytes=self.read, write_bytes=self.written)

    def children(self, recursive):
        assert recursive
        self.looks = getattr(self, "looks", 0) + 1
        return self.tree


class FakeMachine:
    Error, NoSuchProcess, AccessDenied = psutil.Error, psutil.NoSuchProcess, psutil.AccessDenied
    ZombieProcess = psutil.ZombieProcess

    def __init__(self):
        self.root = FakeProcess(1)
        self.nics = {"lo": (0, 0), "eth0": (100, 200)}

    def Process(self, pid):
        return self.root

    def cpu_percent(self, interval):
        assert interval is None
        return 12.5

    def virtual_memory(self):
        return SimpleNamespace(total=4 * 2**30, available=2**30)

    def net_io_counters(self, pernic):
        assert pernic
        return {n: SimpleNamespace(bytes_recv=r, bytes_sent=s) for n, (r, s) in self.nics.items()}


@pytest.fixture
def made():
    machine, clock = FakeMachine(), Clock()
    return machine, clock, Host(clock=clock, library=machine)


def test_the_tree_is_summed_and_counts_from_the_first_reading(made):
    machine, clock, host = made
    other = FakeProcess(2, cpu=5.0, rss=2**29, read=70, written=700)
    machine.root.rss, machine.root.tree = 2**30, [other]
    first = host.read().values
    assert (first["tree_cpu_s"], first["disk_read_bytes"], first["tree_rss_gib"]) == (0.0, 0, 1.5)
    machine.root.cpu, other.cpu, other.read, machine.root.written = 1.0, 7.0, 100, 50
    clock.now += 2.0
    second = host.read().values
    assert (second["tree_cpu_s"], second["tree_cpu_pct"]) == (3.0, 150.0)
    assert (second["disk_read_bytes"], second["disk_written_bytes"]) == (30, 50)
    assert (second["node_cpu_pct"], second["node_memory_used_gib"]) == (12.5, 3.0)


def test_a_child_that_is_not_waited_for_yet_takes_nothing_back(made):
    machine, clock, host = made
    gone = FakeProcess(2, cpu=5.0, read=70)
    machine.root.tree = [gone]
    host.read()
    gone.cpu, gone.read = 9.0, 100
    clock.now += 1
    assert host.read().values["tree_cpu_s"] == 4.0
    gone.is_alive = False
    clock.now += 1
    values = host.read().values
    assert (values["tree_cpu_s"], values["tree_cpu_pct"], values["disk_read_bytes"]) == (4.0, 0.0, 30)


def test_a_process_that_ends_while_it_is_read_is_left_out(made):
    machine, _, host = made
    racing = FakeProcess(2)
    racing.is_running = lambda: True
    racing.is_alive = False
    machine.root.tree = [racing]
    assert host.read().values["tree_processes"] == 1


@pytest.mark.parametrize("error", [psutil.AccessDenied(2), PermissionError(13, "no")])
def test_disk_bytes_that_may_not_be_read_are_null_with_a_reason_and_the_rest_is_there(made, error):
    machine, _, host = made
    hidden = FakeProcess(2, rss=2**30)
    hidden.error = error
    machine.root.tree = [hidden]
    reading = host.read()
    assert reading.values["disk_read_bytes"] is reading.values["disk_written_bytes"] is None
    assert reading.missing["disk_read_bytes"].startswith("disk bytes of process 2: ")
    assert reading.values["tree_rss_gib"] == 1.0


def test_a_zombie_has_no_disk_bytes_of_its_own(made):
    machine, _, host = made
    zombie = FakeProcess(2)
    zombie.error = psutil.ZombieProcess(2)
    machine.root.tree = [zombie]
    assert host.read().values["disk_read_bytes"] == 0


def test_looking_for_new_processes_takes_no_more_than_its_share(made, monkeypatch):
    machine, clock, host = made
    seconds = count()
    # Each look begins and ends, as does each reading.
    monkeypatch.setattr("commbert.monitoring.host.time.thread_time", lambda: 0.04 * next(seconds))
    monkeypatch.setattr("commbert.monitoring.host.LARGE_S", 1.0)
    for _ in range(9):
        host.read()
        clock.now += 1.0
    assert machine.root.looks == 2
    assert 0.04 / LOOKING_SHARE == 8.0


def test_reading_many_processes_takes_no_more_than_its_share(made, monkeypatch):
    machine, clock, host = made
    seconds = count()
    monkeypatch.setattr("commbert.monitoring.host.time.thread_time", lambda: 0.03 * next(seconds))
    found = []
    for _ in range(12):
        machine.root.cpu += 0.5
        found.append(host.read())
        clock.now += 1.0
    assert 0.03 / READING_SHARE == 10.0
    assert [i for i, f in enumerate(found) if f.values["tree_processes"] is not None] == [0, 10]
    assert found[10].values["tree_cpu_pct"] == pytest.approx(50.0)
    assert found[11].missing["tree_cpu_s"] == found[11].missing["disk_read_bytes"] == SELDOM
    assert found[11].values["node_cpu_pct"] == 12.5
    assert host.read(is_last=True).values["tree_processes"] == 1


def test_a_small_tree_is_read_every_time(made, monkeypatch):
    _, _, host = made
    seconds = count()
    monkeypatch.setattr("commbert.monitoring.host.time.thread_time", lambda: 0.0009 * next(seconds))
    assert [host.read().values["tree_processes"] for _ in range(3)] == [1, 1, 1]


def test_network_bytes_leave_out_loopback_and_count_a_new_interface_from_its_first_reading(made):
    machine, _, host = made
    assert host.read().values["network_received_bytes"] == 0
    machine.nics = {"lo": (9**9, 9**9), "eth0": (130, 240), "eth1": (1000, 1000)}
    host.read()
    machine.nics = {"lo": (0, 0), "eth1": (1007, 1009)}
    host.read()
    machine.nics = {"eth0": (135, 241), "eth1": (5, 5)}
    values = host.read().values
    assert (values["network_received_bytes"], values["network_sent_bytes"]) == (30 + 7 + 5, 40 + 9 + 1)


def test_a_machine_without_network_says_so(made):
    machine, _, host = made
    machine.nics = {"lo": (1, 1)}
    reading = host.read()
    assert reading.values["network_sent_bytes"] is None
    assert reading.missing["network_sent_bytes"] == "no network interface but loopback"


def test_a_reason_with_a_name_of_any_bytes_can_be_written(made, tmp_path):
    machine, _, host = made
    machine.root.error = psutil.AccessDenied(1, name="\udcff")
    reading = host.read()
    assert "\\udcff" in reading.missing["disk_read_bytes"]
    write_json(tmp_path / "x.json", reading.missing)


def test_a_part_that_fails_leaves_the_others(made):
    machine, _, host = made

    def fail(pernic):
        raise OSError(5, "Input/output error")

    machine.net_io_counters = fail
    reading = host.read()
    assert reading.missing["network_received_bytes"] == "OSError: [Errno 5] Input/output error"
    assert reading.values["tree_processes"] == 1
