import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from commbert import locks
from commbert.errors import TrainingError
from commbert.training import locking
from commbert.training.locking import locked, wait_for_turn
from commbert.training.restarting import ATTEMPT


@pytest.fixture(autouse=True)
def _no_job(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_the_second_is_told_who_holds_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    said = rf"process {os.getpid()} on .*, Slurm job 42, since .*\) writes here"
    with locked(tmp_path / "checkpoint"), pytest.raises(TrainingError, match=said), locked(tmp_path / "checkpoint"):
        pass


def test_a_folder_is_free_again_when_its_holder_is_gone(tmp_path):
    with locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_nobody_waits_for_a_folder_that_is_free_or_not_there(tmp_path):
    assert wait_for_turn(tmp_path / "none", 1e9)
    with locked(tmp_path):
        pass
    assert wait_for_turn(tmp_path, 1e9)


LAUNCH = """
import os, subprocess, sys
from pathlib import Path
from commbert.training.locking import wait_for_turn
assert wait_for_turn(Path(sys.argv[1]), 0)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"], stdout=subprocess.DEVNULL)
os.execv(sys.executable, [sys.executable, "-c", "import time; print('held', flush=True); time.sleep(600)"])
"""


def test_the_turn_is_kept_before_the_training_has_its_lock_and_ends_with_the_process(tmp_path):
    with subprocess.Popen([sys.executable, "-c", LAUNCH, tmp_path], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(TrainingError, match=rf"process {holder.pid} on .* writes here"):
            wait_for_turn(tmp_path, 0)
        holder.kill()
        holder.wait()
        assert wait_for_turn(tmp_path, 0)  # what the holder had started still runs


def test_a_wish_to_stop_is_kept_when_the_folder_becomes_free_at_once(tmp_path, monkeypatch):
    def ask_and_take(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(locking, "take", ask_and_take)
    assert not wait_for_turn(tmp_path, 0)


@pytest.mark.parametrize("name", [".lock", ".turn"])
def test_a_lock_that_is_a_link_to_another_file_leaves_that_alone(tmp_path, name):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"), locked(tmp_path):
        wait_for_turn(tmp_path, 0)
    assert (tmp_path / "precious").read_text() == "mine"


HOLD = """
import sys, time
from pathlib import Path
from commbert.training import locking
from commbert.training.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_who_waits_goes_on_when_the_holder_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        threading.Timer(0.3, holder.kill).start()
        began = time.monotonic()
        assert wait_for_turn(tmp_path, 60)
        assert 0.2 < time.monotonic() - began < 30


def test_waiting_ends_with_its_time(tmp_path):
    with locked(tmp_path):
        began = time.monotonic()
        with pytest.raises(TrainingError, match="another training"):
            wait_for_turn(tmp_path, 0.2)
        assert 0.1 < time.monotonic() - began < 5


def test_outside_of_a_job_waiting_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_STOPPING_S", 0.2)
    with locked(tmp_path):
        began = time.monotonic()
        with pytest.raises(TrainingError, match="another training"):
            wait_for_turn(tmp_path, "auto")
        assert 0.1 < time.monotonic() - began < 5


def test_in_a_job_waiting_ends_by_a_wish_to_stop(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with locked(tmp_path):
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGTERM]).start()
        assert not wait_for_turn(tmp_path, "auto")


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with caplog.at_level("WARNING", logger="commbert"), locked(tmp_path):
        pass
    assert "has no locks" in caplog.text


def test_any_other_error_of_the_file_system_is_one(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path):
        pass


def test_after_a_restart_the_one_before_is_waited_for(tmp_path, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(TrainingError, match="another training"), locked(tmp_path):
            pass
        monkeypatch.setenv(ATTEMPT, "1")
        threading.Timer(0.3, holder.kill).start()
        with locked(tmp_path):
            assert holder.wait() == -signal.SIGKILL
