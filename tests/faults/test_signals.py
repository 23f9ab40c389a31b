"""SIGTERM, SIGINT and SIGUSR1, each to a training of one process and of two: it saves, ends, and goes on later.

No checkpoint is written but for the signal. Each training is stopped by all three signals, one after the other.
"""

import re
import signal
from dataclasses import dataclass

import pytest

from faults.trainer import Trainer, all_gone, digests, newest_is_whole, newest_step, steps_done

pytestmark = pytest.mark.slow
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SELDOM_S = 1e6


@dataclass(frozen=True)
class Stop:
    """What one signal did."""

    code: int
    said: str
    steps_before: int
    steps_after: int
    saved: int
    is_whole: bool
    left_nobody: bool


def _stopped(trainer: Trainer, processes: int, kind: signal.Signals) -> Stop:
    with trainer.start(processes) as job:
        job.until_step(newest_step(trainer.folder) + 6)
        before = steps_done(trainer.folder)
        job.process.send_signal(kind)
        code = job.ended()
        gone = all_gone(job)
    done, saved = steps_done(trainer.folder), newest_step(trainer.folder)
    return Stop(code, job.said, before, done, saved, newest_is_whole(trainer.folder), gone)


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def processes(request):
    return request.param


@pytest.fixture(scope="module")
def run(stages, tmp_path_factory, processes):
    """Train once in one go, once with all stops; return both folders and the stops."""
    at = tmp_path_factory.mktemp("signals")
    straight, stopped = (Trainer(stages, at / name, every_s=SELDOM_S) for name in ("straight", "stopped"))
    straight.run(processes)
    stops = {kind: _stopped(stopped, processes, kind) for kind in SIGNALS}
    last = stopped.run(processes)
    return straight.folder, stopped.folder, stops, last.said


@pytest.fixture(params=SIGNALS, ids=lambda s: s.name)
def stop(request, run) -> Stop:
    return run[2][request.param]


def test_a_signal_lets_the_step_end_and_saves_it(stop):
    assert stop.saved == stop.steps_after >= stop.steps_before
    assert stop.is_whole
    assert f"stopped after step {stop.saved} as asked; start again to go on" in stop.said


def test_a_stop_leaves_no_process(stop):
    assert stop.left_nobody


def test_a_stop_has_the_exit_code_that_is_documented(stop):
    assert stop.code == 75


def test_a_stop_as_asked_shows_no_traceback(stop):
    assert "Traceback" not in stop.said


def test_a_training_stopped_by_every_signal_ends_with_the_bytes_of_a_straight_one(run):
    straight, stopped, stops, said = run
    assert re.search(r"going on from step (\d+) of", said)[1] == str(stops[SIGNALS[-1]].saved)
    assert digests(stopped) == digests(straight)
