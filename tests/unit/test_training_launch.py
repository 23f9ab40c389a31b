import sys

import pytest

from commbert.errors import SettingsError
from commbert.training import launch


@pytest.fixture
def started(monkeypatch):
    """Return a list that receives (command, environment) instead of a process that ends here."""
    calls = []
    monkeypatch.setattr(launch.os, "execve", lambda _, command, env: calls.append((command, env)))
    monkeypatch.delenv(launch.LAUNCHED, raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    return calls


def test_one_process_needs_no_torchrun(started):
    launch.become_training(["train", "--x"], n_processes=1, threads=4, micro_batches=4)
    command, env = started[0]
    assert command == [sys.executable, "-m", "commbert", "train", "--x"]
    assert env["OMP_NUM_THREADS"] == "4"


def test_processes_share_the_threads(started):
    launch.become_training(["train"], n_processes=3, threads=8, micro_batches=4)
    assert started[0][1]["OMP_NUM_THREADS"] == "2"


def test_a_process_has_a_thread_at_least(started):
    launch.become_training(["train"], n_processes=4, threads=2, micro_batches=4)
    assert started[0][1]["OMP_NUM_THREADS"] == "1"


def test_torchrun_hands_every_stop_signal_on(started):
    launch.become_training(["train"], n_processes=2, threads=2, micro_batches=4)
    command = started[0][0]
    assert "--nproc-per-node=2" in command
    assert "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1" in command


def test_more_processes_than_micro_batches_are_refused(started):
    with pytest.raises(SettingsError, match=r"at most training\.micro_batches = 4, found 5"):
        launch.become_training(["train"], n_processes=5, threads=5, micro_batches=4)
    assert started == []


def test_a_started_process_knows_that_it_is_one(started, monkeypatch):
    assert not launch.is_launched()
    launch.become_training(["train"], n_processes=1, threads=1, micro_batches=1)
    monkeypatch.setenv(launch.LAUNCHED, started[0][1][launch.LAUNCHED])
    assert launch.is_launched()


def test_a_workers_of_torchrun_is_a_started_process(started, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert launch.is_launched()


@pytest.mark.parametrize(
    ("asked", "device", "n_gpus", "expected"),
    [("auto", "auto", 8, 8), ("auto", "cuda", 2, 2), ("auto", "auto", 0, 1), ("auto", "cpu", 8, 1), (3, "auto", 8, 3)],
)
def test_automatic_is_one_process_per_gpu(monkeypatch, asked, device, n_gpus, expected):
    monkeypatch.setattr(launch, "gpu_count", lambda: n_gpus)
    assert launch.process_count(asked, device) == expected
