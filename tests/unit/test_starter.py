import os
import select
import signal
import subprocess
import sys
import time

import pytest

from commbert import starter
from commbert.cli.recording import recorded

STAGE = """
import sys, time
from pathlib import Path
from commbert import starter
from commbert.artifacts import atomic_file
from commbert.cli.recording import recorded
if sys.argv[2] == "looks":
    starter.os.pidfd_open = None
    del starter.os.pidfd_open
starter.end_with_starter()
folder = Path(sys.argv[1])
with recorded("stage", folder / "stage.usage.json", interval_s=1.0), atomic_file(folder / "out") as tmp:
    tmp.write_text("half")
    print("started", flush=True)
    time.sleep(60)
"""
PARENT = """
import os, subprocess, sys
from commbert.starter import STARTED_BY, this_process
os.environ[STARTED_BY] = this_process()
# As a workflow does: a shell stands between.
subprocess.run(["bash", "-c", '"$@"; true', "-", sys.executable, "-c", *sys.argv[1:]])
"""


@pytest.fixture(params=["descriptor", "looks"])
def family(tmp_path, request):
    """A process that started a stage through a shell."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, STAGE, str(tmp_path), request.param], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def ended_within(process, seconds):
    """Whether all that hold the other end of the pipe ended: the stage is one of them."""
    return bool(select.select([process.stdout], [], [], seconds)[0]) and process.stdout.read() == ""


def test_a_stage_ends_with_the_workflow_that_was_killed_and_leaves_no_half_output(family, tmp_path):
    family.kill()
    assert ended_within(family, 60)
    assert {p.name for p in tmp_path.iterdir()} == {"stage.samples.parquet"}


def test_a_stage_goes_on_while_its_workflow_lives(family):
    assert not ended_within(family, 1.5)


@pytest.fixture
def signals(monkeypatch):
    """The signals that this process sent to itself, instead of their effect."""
    sent = []
    kill = os.kill
    monkeypatch.setattr(
        starter.os,
        "kill",
        lambda pid, number: sent.append(number) if pid == os.getpid() and number else kill(pid, number),
    )
    return sent


@pytest.mark.parametrize("text", ["", "none", "x vm", "{gone} elsewhere pid:[1]", "{gone}"])
def test_nobody_is_watched_without_a_name_that_means_something_here(monkeypatch, signals, text):
    monkeypatch.setenv(starter.STARTED_BY, text.format(gone=_ended_process()))
    starter.end_with_starter()
    time.sleep(0.2)
    assert signals == []


@pytest.mark.parametrize("has_descriptors", [True, False])
def test_who_starts_when_its_starter_is_gone_already_ends_too(monkeypatch, signals, has_descriptors):
    if not has_descriptors:
        monkeypatch.delattr(starter.os, "pidfd_open")
    monkeypatch.setenv(starter.STARTED_BY, f"{_ended_process()} {starter._where()}")
    starter.end_with_starter()
    for _ in range(50):
        if signals:
            break
        time.sleep(0.05)
    assert signals == [signal.SIGTERM]


def test_the_end_of_a_process_that_nobody_waited_for_is_seen(monkeypatch, signals):
    child = subprocess.Popen(["sleep", "60"])
    monkeypatch.setenv(starter.STARTED_BY, f"{child.pid} {starter._where()}")
    starter.end_with_starter()
    time.sleep(0.2)
    assert signals == []
    child.kill()
    time.sleep(0.5)  # a zombie, until the next line
    assert signals == [signal.SIGTERM]
    child.wait()


def test_a_signal_before_the_stage_began_ends_it_without_a_second_error(tmp_path, monkeypatch):
    from commbert.cli import recording

    def told_to_end(*_, **__):
        raise SystemExit(143)

    monkeypatch.setattr(recording, "monitored", told_to_end)
    with pytest.raises(SystemExit) as end, recorded("stage", tmp_path / "x.usage.json", interval_s=1.0):
        pytest.fail("it has begun")
    assert end.value.code == 143


def _ended_process():
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid
