"""The sampler beside a stage: what it writes, that nothing it meets stops the stage, and that stages have it."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from cli_case import commbert
from commbert.artifacts import write_json
from commbert.cli import options, recording
from commbert.errors import DataError
from commbert.monitoring import sampler
from commbert.monitoring.host import Host
from commbert.monitoring.nvml import COLUMNS, RETRY_S, Driver
from commbert.monitoring.rapl import Rapl
from commbert.monitoring.sampler import Monitor, Sensors, monitored
from commbert.monitoring.samples import SampleFile
from commbert.tables import SAMPLES, provenance_of, read
from commbert.training import launch
from commbert.training.restarting import ATTEMPT
from fake_nvml import DRIVER_NOT_LOADED, Clock, FakeGpu, FakeNvml

CONTRACT = {
    "monitoring": {"interval_s", "samples", "gaps", "longest_gap_s"},
    "energy": {"gpu_j", "gpu_source", "gpu_reason", "cpu_j", "cpu_source", "cpu_reason"},
    "host": {
        *("mean_cpu_pct", "peak_tree_rss_gib", "disk_read_gib", "disk_written_gib"),
        *("network_received_gib", "network_sent_gib"),
    },
}
OF_GPU = {
    *("index", "name", "uuid", "mean_utilization_pct", "peak_memory_gib", "memory_gib", "mean_power_w"),
    *("max_temperature_c", "energy_j", "energy_source", "throttled_pct", "throttle_reasons"),
}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    """Return a monitor whose ticks are those of the test."""

    def make(*gpus, library=None, interval_s=1.0, **options):
        library = library or FakeNvml(*gpus)

        def sensors():
            return Sensors(Driver(library.load, clock=clock), Host(clock=clock), Rapl(tmp_path / "none", clock=clock))

        path = tmp_path / "x.samples.parquet"
        return Monitor(path, interval_s=interval_s, sensors=sensors, clock=clock, wall=clock, **options)

    return make


def ticks(monitor, clock, times, then=lambda now: None):
    for now in times:
        clock.now = now
        then(now)
        monitor.tick()


def rows_of(tmp_path, device=None):
    rows = read(tmp_path / "x.samples.parquet", SAMPLES).to_pylist()
    return [row for row in rows if device in (None, row["device"])]


def test_the_record_has_the_entries_that_were_agreed_and_is_json(make, clock):
    monitor = make(FakeGpu("GPU-a"), FakeGpu("GPU-b"))
    ticks(monitor, clock, (0.0, 1.0))
    monitor.stop()
    found = json.loads(json.dumps(monitor.as_dict(), allow_nan=False))
    assert {name: expected - set(found[name]) for name, expected in CONTRACT.items()} == {
        key: set() for key in CONTRACT
    }
    assert [OF_GPU - set(gpu) for gpu in found["gpus"]] == [set(), set()]


def test_there_is_a_row_for_each_time_and_device(make, clock, tmp_path):
    monitor = make(FakeGpu("GPU-a"), FakeGpu("GPU-b", reasons=0x5, energy_mj=2**53 + 1))
    ticks(monitor, clock, (10.0, 11.0, 12.5))
    monitor.stop()
    rows = rows_of(tmp_path)
    assert [(r["device"], r["elapsed_s"], r["time_unix_s"]) for r in rows] == [
        (device, at - 10.0, at) for at in (10.0, 11.0, 12.5) for device in ("host", "gpu0", "gpu1")
    ]
    assert rows[2]["throttle_reasons"] == ["gpu_idle", "sw_power_cap"]
    assert rows[2]["energy_counter_mj"] == 2**53 + 1
    assert rows[1]["throttle_reasons"] == []
    assert rows[0]["power_w"] is None
    assert rows[1]["tree_cpu_s"] is None
    assert rows[3]["tree_processes"] >= 1
    assert provenance_of(tmp_path / "x.samples.parquet")["interval_s"] == "1.0"


def test_the_energy_is_the_growth_of_the_counters(make, clock):
    gpus = FakeGpu("GPU-a"), FakeGpu("GPU-b")
    monitor = make(*gpus)

    def work(now):
        gpus[0].energy_mj += 250_000
        gpus[1].energy_mj += 50

    ticks(monitor, clock, (0.0, 1.0, 2.0, 3.0), work)
    energy = monitor.as_dict()["energy"]
    assert (energy["gpu_j"], energy["gpu_source"], energy["gpu_reason"]) == (750.15, "counter", None)


def test_without_counters_the_power_is_integrated_and_marked(make, clock):
    gpu = FakeGpu(fails={"nvmlDeviceGetTotalEnergyConsumption": 3})
    monitor = make(gpu)
    ticks(monitor, clock, (0.0, 1.0, 2.0, 9.0), lambda now: setattr(gpu, "power_mw", int(100_000 * now)))
    found = monitor.as_dict()
    assert found["energy"]["gpu_j"] == 200.0
    assert found["energy"]["gpu_source"] == found["gpus"][0]["energy_source"] == "integrated"
    assert found["energy"]["gpu_reason"] == "GPU 0: no counter (Not Supported); covers 2.0 of 9.0 s"


def test_late_samples_are_gaps(make, clock):
    monitor = make()
    ticks(monitor, clock, (0.0, 1.0, 2.4, 3.9, 7.0, 8.0, 10.0))
    found = monitor.as_dict()["monitoring"]
    assert (found["samples"], found["gaps"], found["longest_gap_s"]) == (7, 2, 3.1)


def test_a_driver_that_goes_and_comes_leaves_a_gap_with_its_reason(make, clock, tmp_path):
    gpu = FakeGpu()
    library = FakeNvml(gpu)
    monitor = make(library=library)

    def work(now):
        gpu.energy_mj += 1000
        library.fails = {"nvmlDeviceGetUtilizationRates": DRIVER_NOT_LOADED} if now == 2.0 else {}

    times = [0.0, 1.0, 2.0, 3.0, 2.0 + RETRY_S, 3.0 + RETRY_S]
    ticks(monitor, clock, times, work)
    monitor.stop()
    rows = rows_of(tmp_path, "gpu0")
    assert [row["power_w"] for row in rows] == [100.0, 100.0, None, None, 100.0, 100.0]
    assert all("Driver Not Loaded" in row["missing"] for row in rows[2:4])
    (found,) = monitor.as_dict()["gpus"]
    assert (found["missing_samples"], found["gaps"], found["longest_gap_s"]) == (2, 1, 1.0 + RETRY_S)
    assert (found["energy_j"], found["energy_source"]) == (5.0, "counter")


def test_without_gpu_the_reason_is_there_and_the_processes_are_measured(make, clock):
    monitor = make(library=FakeNvml())
    ticks(monitor, clock, (0.0, 1.0))
    found = monitor.as_dict()
    assert found["gpus"] == []
    assert (found["energy"]["gpu_j"], found["energy"]["gpu_reason"]) == (None, "the driver knows no GPU")
    assert (found["energy"]["cpu_j"], "no CPU package" in found["energy"]["cpu_reason"]) == (None, True)
    assert found["host"]["peak_tree_rss_gib"] > 0


@pytest.mark.parametrize("part", ["host", "driver", "rapl"])
def test_a_sensor_that_breaks_in_an_unforeseen_way_is_null_and_said_once(make, clock, tmp_path, part, caplog):
    monitor = make(FakeGpu())
    ticks(monitor, clock, (0.0,))

    def fail(**_):
        raise ZeroDivisionError("of ours")

    getattr(monitor._sensors, part).read = fail
    with caplog.at_level(logging.DEBUG, "commbert.monitoring"), propagating():
        ticks(monitor, clock, (1.0, 2.0))
    monitor.stop()
    assert [r.levelname for r in caplog.records if "of ours" in r.message] == ["WARNING"]
    assert len(rows_of(tmp_path, "host")) == 3
    assert len(rows_of(tmp_path, "gpu0")) == (1 if part == "driver" else 3)


class propagating:
    """The command takes its messages from the root; here caplog shall see them."""

    def __enter__(self):
        self.before = logging.getLogger("commbert").propagate
        logging.getLogger("commbert").propagate = True

    def __exit__(self, *_):
        logging.getLogger("commbert").propagate = self.before


def test_a_sensor_that_is_lost_is_warned_of_once_and_one_that_never_was_is_not(make, clock, caplog):
    library = FakeNvml(FakeGpu())
    library.fails["nvmlDeviceGetTemperature"] = 3
    monitor = make(library=library)

    def work(now):
        if now > 1:
            library.fails["nvmlDeviceGetPowerUsage"] = 999

    with caplog.at_level(logging.DEBUG, "commbert.monitoring"), propagating():
        ticks(monitor, clock, (0.0, 1.0, 2.0, 3.0), work)
    levels = {r.message: r.levelname for r in caplog.records if "gpu0" in r.message}
    assert levels == {"monitor: gpu0: Not Supported": "DEBUG", "monitor: gpu0: Unknown Error": "WARNING"}
    assert len([r for r in caplog.records if "gpu0" in r.message]) == 2


# The thread.


def plain_sensors():
    return Sensors(Driver(lambda: None), Host(), Rapl(Path("/nowhere")))


def test_a_stage_shorter_than_the_interval_has_a_sample_at_its_start_and_one_at_its_end(tmp_path):
    with monitored(tmp_path / "x.samples.parquet", interval_s=60.0) as monitor:
        pass
    assert monitor.as_dict()["monitoring"]["samples"] == 2
    assert len(rows_of(tmp_path, "host")) == 2


def test_the_last_sample_reads_a_tree_of_any_size(tmp_path):
    read, asked = Host.read, []

    class Told(Host):
        def read(self, *, is_last=False):
            asked.append(is_last)
            return read(self, is_last=is_last)

    with monitored(
        tmp_path / "x.samples.parquet",
        interval_s=30.0,
        sensors=lambda: Sensors(Driver(lambda: None), Told(), Rapl(tmp_path / "none")),
    ):
        pass
    assert asked == [False, True]


def test_samples_come_at_intervals(tmp_path):
    with monitored(tmp_path / "x.samples.parquet", interval_s=0.1, sensors=plain_sensors):
        time.sleep(0.75)
    at = [row["elapsed_s"] for row in rows_of(tmp_path, "host")]
    assert 4 <= len(at) <= 10
    assert at == sorted(at)


def test_ticks_that_were_missed_are_not_made_up_for(make, clock):
    monitor = make(interval_s=2.0)
    clock.now = 13.5
    assert monitor._until_next(10.0) == 0.5
    clock.now = 14.0
    assert monitor._until_next(10.0) == 2.0


def test_samples_are_written_when_the_block_fails(tmp_path):
    with pytest.raises(KeyError), monitored(tmp_path / "x.samples.parquet", interval_s=60.0, sensors=plain_sensors):
        raise KeyError
    assert len(rows_of(tmp_path)) == 2


def test_a_sensor_that_never_answers_does_not_hold_the_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(sampler, "PATIENCE_S", 0.1)
    stuck, answers = threading.Event(), threading.Event()

    def sensors():
        stuck.set()
        answers.wait(10.0)
        return plain_sensors()

    with monitored(tmp_path / "x.samples.parquet", interval_s=0.1, sensors=sensors) as monitor:
        stuck.wait(10.0)
    assert "did not answer" in monitor.as_dict()["monitoring"]["reason"]
    assert rows_of(tmp_path) == []
    answers.set()
    monitor._thread.join(10.0)
    assert monitor.as_dict()["monitoring"]["samples"] == 0, "what comes after the end is not taken"


def test_sensors_that_cannot_be_made_are_a_reason(tmp_path):
    def sensors():
        raise OSError(24, "Too many open files")

    with monitored(tmp_path / "x.samples.parquet", interval_s=1.0, sensors=sensors) as monitor:
        pass
    found = monitor.as_dict()
    assert "Too many open files" in found["monitoring"]["reason"]
    assert "Too many open files" in found["energy"]["gpu_reason"]


def test_processes_that_cannot_be_seen_leave_the_gpus(make, clock, monkeypatch):
    def hidden(pid):
        raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(psutil, "Process", hidden)
    monitor = make(FakeGpu())
    ticks(monitor, clock, (0.0, 1.0))
    found = monitor.as_dict()
    assert found["energy"]["gpu_source"] == "counter"
    assert found["host"]["missing"]["tree_cpu_s"].startswith("NoSuchProcess")


def test_a_thread_that_cannot_start_is_a_reason(tmp_path, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with monitored(tmp_path / "x.samples.parquet", interval_s=1.0, sensors=plain_sensors) as monitor:
        pass
    assert "can't start new thread" in monitor.as_dict()["monitoring"]["reason"]


def test_a_table_that_cannot_be_written_is_a_reason_and_leaves_nothing(make, clock, tmp_path):
    monitor = make(FakeGpu())
    ticks(monitor, clock, (0.0,))
    (tmp_path / "x.samples.parquet").mkdir()
    monitor.stop()
    assert "samples are not written" in monitor.as_dict()["monitoring"]["reason"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.samples.parquet"]


def test_many_samples_are_written_in_pieces(make, clock, tmp_path, monkeypatch):
    monkeypatch.setattr("commbert.monitoring.samples._HELD_ROWS", 6)
    monitor = make(FakeGpu())
    ticks(monitor, clock, map(float, range(10)))
    assert len(monitor._file._rows) < 6
    monitor.stop()
    assert [row["elapsed_s"] for row in rows_of(tmp_path, "gpu0")] == list(map(float, range(10)))


def test_a_reason_of_any_characters_loses_no_samples(tmp_path):
    file = SampleFile(tmp_path / "x.samples.parquet", interval_s=1.0)
    at = {"time_unix_s": 1.0, "elapsed_s": 0.0, "device": "host"}
    file.add([{**at, "missing": text} for text in ("bad \udcff", "nul \0, line\n, \u202e", "good")])
    file.close()
    assert file.reason is None
    assert [row["missing"] for row in rows_of(tmp_path, "host")] == ["bad ?", "nul \0, line\n, \u202e", "good"]


# Stages.


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run some work as a stage, with its files in a folder."""
    logger = logging.getLogger("commbert")
    before = logger.handlers[:], logger.level, logger.propagate
    monkeypatch.setenv("COMMBERT_RUNTIME", '{"monitor_every_s": 30.0}')
    yield lambda work, **more: options.run_stage("s", None, tmp_path / "x.usage.json", work, **more)
    logger.handlers, logger.level, logger.propagate = before


def usage_of(tmp_path):
    return json.loads((tmp_path / "x.usage.json").read_text())


def test_a_stage_has_its_record_and_its_samples(stage, tmp_path):
    assert stage(lambda: {"a": 1}) == {"a": 1}
    found = usage_of(tmp_path)
    of_stage = {"stage", "began_unix_s", "folder_digest"}
    assert {*of_stage, "wall_s", "cpu_s", "peak_rss_gib", *CONTRACT, "gpus"} == set(found)
    assert found["monitoring"]["interval_s"] == 30.0
    assert len(rows_of(tmp_path, "host")) == found["monitoring"]["samples"] == 2


def test_a_stage_that_fails_has_its_samples_and_no_record(stage, tmp_path):
    def work():
        raise DataError("broken")

    with pytest.raises(DataError, match="broken"):
        stage(work)
    assert [p.name for p in tmp_path.iterdir()] == ["x.samples.parquet"]


def test_a_stage_without_a_record_is_not_sampled(tmp_path, stage, monkeypatch):
    monkeypatch.setattr(recording, "monitored", None)
    assert options.run_stage("s", None, None, lambda: 5) == 5


def test_a_wrong_interval_is_refused(stage, monkeypatch, tmp_path):
    monkeypatch.setenv("COMMBERT_RUNTIME", '{"monitor_every_s": 0.01}')
    with pytest.raises(options.SettingsError, match=r"monitor_every_s: expected greater than or equal to 0\.1"):
        stage(dict)


def test_an_environment_that_is_empty_says_nothing(stage, monkeypatch, tmp_path):
    monkeypatch.setenv("COMMBERT_RUNTIME", "")
    stage(dict)
    assert usage_of(tmp_path)["monitoring"]["interval_s"] == 1.0


def test_the_option_goes_before_the_environment(stage, tmp_path):
    stage(dict, runtime='{"monitor_every_s": 7.0}')
    assert usage_of(tmp_path)["monitoring"]["interval_s"] == 7.0


def test_a_stage_that_goes_on_keeps_its_earlier_attempts_and_their_samples(stage, tmp_path):
    assert stage(lambda: None, resumes=True) is None
    assert not (tmp_path / "x.usage.json").exists()
    with pytest.raises(DataError):
        stage(lambda: (_ for _ in ()).throw(DataError("x")), resumes=True)
    stage(dict, resumes=True)
    found = usage_of(tmp_path)
    assert len(found["earlier_attempts"]) == 2
    assert all(CONTRACT.keys() <= attempt.keys() for attempt in found["earlier_attempts"])
    assert [row["attempt"] for row in rows_of(tmp_path, "host")] == [0, 0, 1, 1, 2, 2]
    stage(dict, resumes=True)
    assert usage_of(tmp_path)["earlier_attempts"] == []
    assert [row["attempt"] for row in rows_of(tmp_path, "host")] == [0, 0]


def test_what_was_done_before_another_process_died_at_its_end_is_an_earlier_attempt(stage, tmp_path, monkeypatch):
    assert stage(lambda: None, resumes=True) is None
    stage(dict, resumes=True)
    monkeypatch.setenv(ATTEMPT, "1")
    stage(dict, resumes=True)
    earlier = usage_of(tmp_path)["earlier_attempts"]
    assert len(earlier) == 2
    assert all(CONTRACT.keys() <= attempt.keys() and "earlier_attempts" not in attempt for attempt in earlier)
    assert [row["attempt"] for row in rows_of(tmp_path, "host")] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("content", ["no json", "{}"])
def test_damaged_attempts_do_not_stop_a_stage(stage, tmp_path, content):
    (tmp_path / "x.attempts.json").write_text(content)
    stage(dict, resumes=True)
    assert usage_of(tmp_path)["earlier_attempts"] == []


def test_an_attempt_that_is_killed_leaves_a_trace(stage, tmp_path):
    (tmp_path / "at_the_kill").mkdir()
    stage(lambda: shutil.copy(tmp_path / "x.attempts.json", tmp_path / "at_the_kill"), resumes=True)
    shutil.copy(tmp_path / "at_the_kill" / "x.attempts.json", tmp_path)
    stage(dict, resumes=True)
    (killed,) = usage_of(tmp_path)["earlier_attempts"]
    assert set(killed) == {"stage", "began_unix_s", "folder_digest"}
    assert not (tmp_path / "x.attempts.json").exists()


def test_damaged_samples_of_an_earlier_attempt_do_not_stop_a_stage(stage, tmp_path):
    write_json(tmp_path / "x.attempts.json", [{}])
    (tmp_path / "x.samples.parquet").write_text("no parquet")
    stage(dict, resumes=True)
    assert usage_of(tmp_path)["monitoring"]["reason"] is None
    assert [row["attempt"] for row in rows_of(tmp_path, "host")] == [1, 1]


STOPPED = """
import sys, time
from pathlib import Path
from commbert.cli import options
def work():
    print("ready", flush=True)
    time.sleep(60)
options.run_stage("s", None, Path(sys.argv[1]), work)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_stage_that_is_stopped_by_sigterm_has_its_samples_and_no_traceback(tmp_path):
    command = [sys.executable, "-c", STOPPED, tmp_path / "x.usage.json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in said
    assert len(rows_of(tmp_path, "host")) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["x.samples.parquet"]


def test_who_listens_to_sigterm_himself_still_does():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with recording.ended_by_sigterm():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1]


def test_sigterm_is_what_it_was_after_the_stage(stage):
    stage(dict)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_data_stage_imports_no_nvml(tmp_path):
    code = "import sys, commbert.cli.options; print('pynvml' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_command_writes_both_files(tmp_path):
    done = commbert(
        *("base", "--source", '{"kind": "path", "path": "/nowhere"}', "--out", tmp_path / "out"),
        *("--usage", tmp_path / "logs" / "base.usage.json"),
    )
    assert done.returncode == 1
    assert [p.name for p in (tmp_path / "logs").iterdir()] == ["base.samples.parquet"]


def test_samples_are_written_without_pandas(tmp_path):
    code = (
        "import sys, pathlib, commbert.monitoring as m\n"
        "with m.monitored(pathlib.Path(sys.argv[1]), interval_s=9.0): pass\n"
        "print('pandas' in sys.modules)"
    )
    command = [sys.executable, "-c", code, tmp_path / "x.samples.parquet"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    assert len(rows_of(tmp_path)) == 2


# Training.


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "t.usage.json"),
        ({"RANK": "0", "LOCAL_RANK": "0"}, "t.usage.json"),
        ({"RANK": "1", "LOCAL_RANK": "1"}, None),
        ({"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, "t.node1.usage.json"),
        ({"RANK": "9", "LOCAL_RANK": "1", "GROUP_RANK": "1"}, None),
    ],
)
def test_one_process_of_each_machine_writes_what_it_took(monkeypatch, env, expected):
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    found = launch.usage_of_node(Path("logs/t.usage.json"))
    assert found == (expected and Path("logs") / expected)
    assert launch.usage_of_node(None) is None


def test_the_tree_of_a_training_begins_at_its_launcher(monkeypatch):
    for name in (launch.LAUNCHED, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert launch.tree_root() is None
    monkeypatch.setenv(launch.LAUNCHED, str(os.getpid()))  # a single process took the place of its launcher
    assert launch.tree_root() is None
    monkeypatch.setenv(launch.LAUNCHED, str(os.getppid()))
    assert launch.tree_root() == os.getppid()
    monkeypatch.delenv(launch.LAUNCHED)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert launch.tree_root() == os.getppid()


def test_every_sensor_column_is_in_the_table():
    assert {*COLUMNS, *sampler.HOST_COLUMNS, "cpu_energy_j"} <= set(SAMPLES.schema.names)


def test_the_log_of_a_restart_goes_on_and_keeps_the_last_words_of_the_one_before(stage, tmp_path, monkeypatch):
    log = tmp_path / "x.log"
    log.write_text("of another job\n")

    def say(text):
        return logging.getLogger("commbert").info(text)

    options.set_up_logging(log)
    before = logging.getLogger("commbert").handlers[:]
    say("first")
    monkeypatch.setenv(ATTEMPT, "1")
    options.set_up_logging(log)
    say("second, which says a lot")
    now, logging.getLogger("commbert").handlers = logging.getLogger("commbert").handlers, before
    say("last")
    for handler in [*before, *now]:
        handler.close()
    said = log.read_text().splitlines()
    assert [line.split("INFO ")[1] for line in said] == ["first", "second, which says a lot", "last"]
