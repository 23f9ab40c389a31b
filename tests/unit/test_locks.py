import errno
import logging
import os
import subprocess
import sys

import pytest

from commbert import locks
from commbert.errors import BusyError

HOLDER = """
import subprocess, sys
from pathlib import Path
from commbert.locks import hold_run_lock
hold_run_lock(Path(sys.argv[1]))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _nothing_held():
    yield
    for fd in locks._held.values():
        os.close(fd)
    locks._held.clear()


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the folder, with a child that lives on when it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    yield process
    os.kill(child, 9)
    process.kill()
    process.communicate()


def test_a_second_process_is_told_who_holds_it(tmp_path, holder):
    with pytest.raises(BusyError, match=rf"another snakemake runs here \(process {holder.pid} on .*, since 20"):
        locks.hold_run_lock(tmp_path)


def test_the_lock_ends_with_its_process_though_a_child_of_it_lives_on(tmp_path, holder):
    holder.kill()
    holder.wait()
    locks.hold_run_lock(tmp_path)
    assert f"process {os.getpid()} on " in (tmp_path / "commbert.lock").read_text()


def test_the_one_who_holds_it_may_ask_again(tmp_path):
    locks.hold_run_lock(tmp_path)
    locks.hold_run_lock(tmp_path)
    assert len(locks._held) == 1


def test_the_name_of_an_earlier_holder_is_gone(tmp_path):
    (tmp_path / "commbert.lock").write_text("x" * 400)
    locks.hold_run_lock(tmp_path)
    assert "x" not in (tmp_path / "commbert.lock").read_text()


def test_where_the_file_system_has_no_locks_a_warning_says_so(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING, "commbert"):
        locks.hold_run_lock(tmp_path)
    assert "this file system has no locks" in caplog.text


def test_another_error_of_the_file_system_is_shown(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output"):
        locks.hold_run_lock(tmp_path)
