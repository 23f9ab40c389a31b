import os
import signal
import subprocess
import sys

import psutil
import pytest

from commbert.errors import SettingsError
from commbert.training import launch


@pytest.fixture
def started(monkeypatch):
    """Return a list that receives (command, environment) instead of a process that ends here."""
    calls = []
    monkeypatch.setattr(launch.os, "execve", lambda _, command, env: calls.append((command, env)))
    monkeypatch.setattr(launch.signal, "pthread_sigmask", lambda *_: set())
    monkeypatch.delenv(launch.LAUNCHED, raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    return calls


def test_one_process_takes_the_place_of_the_launcher(started):
    launch.become_training(["train", "--x"], n_processes=1, threads=4, most_processes=4)
    command, env = started[0]
    assert command == [sys.executable, "-m", "commbert", "train", "--x"]
    assert env["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize(("n", "threads", "each"), [(3, 8, "2"), (4, 2, "1")])
def test_processes_share_the_threads_and_each_knows_its_rank(started, monkeypatch, n, threads, each):
    monkeypatch.setattr(launch.subprocess, "Popen", lambda _, env, **__: started.append(env) or _Worker(0))
    launch.become_training(["train"], n_processes=n, threads=threads, most_processes=4)
    assert [env["RANK"] for env in started] == [str(rank) for rank in range(n)]
    assert {env["OMP_NUM_THREADS"] for env in started} == {each}
    assert len({env[launch.RENDEZVOUS] for env in started}) == 1
    assert started[0]["WORLD_SIZE"] == str(n)


def test_processes_know_the_attempt_and_follow_the_launcher_alone(started, monkeypatch):
    ends = iter([-9, 0, 0, 0])
    monkeypatch.setenv(launch.STARTED_BY, "1 here")
    monkeypatch.setattr(launch.subprocess, "Popen", lambda _, env, **__: started.append(env) or _Worker(next(ends)))
    assert launch.become_training(["train"], n_processes=2, threads=2, most_processes=2, restarts=1) == 0
    assert [env[launch.ATTEMPT] for env in started] == ["0", "0", "1", "1"]
    assert not any(launch.STARTED_BY in env for env in started)


def test_processes_with_batches_of_their_own_may_be_more_than_micro_batches(started):
    launch.become_training(["train"], n_processes=1, threads=2, most_processes=None)
    assert started


class _Worker:
    """A process that ends with a code after some looks, or when it is told to."""

    def __init__(self, code, looks=0, obeys=None):
        self._ends, self._looks, self._obeys = code, looks, obeys or {}
        self.returncode = None
        self.got = []

    def poll(self):
        if self.returncode is None:
            self._looks -= 1
            if self._looks < 0:
                self.returncode = self._ends
        return self.returncode

    def send_signal(self, number):
        self.got.append(number)
        if number in self._obeys:
            self._ends, self._looks = self._obeys[number], 0


def _result(monkeypatch, *workers):
    each = iter(workers)
    monkeypatch.setattr(launch.subprocess, "Popen", lambda *_, **__: next(each))
    monkeypatch.setattr(launch.time, "sleep", lambda _: None)
    clock = iter(range(10**6))
    monkeypatch.setattr(launch.time, "monotonic", lambda: float(next(clock)))
    return launch.become_training(["train"], n_processes=len(workers), threads=2, most_processes=4)


LOST = launch.EXIT_PEER_LOST


@pytest.mark.parametrize(
    ("codes", "expected", "said"),
    [
        ((0, 0), 0, ""),
        ((75, 75), 75, ""),
        ((0, 75), 75, ""),
        ((LOST, 1), 1, "rank 1 of 2 failed with exit code 1; its message stands above"),
        ((1, LOST), 1, "rank 0 of 2 failed"),
        ((LOST, -9), 1, "rank 1 of 2 was killed by SIGKILL (out of memory?)"),
        ((-6, LOST), 1, "rank 0 of 2 was killed by SIGABRT."),
        ((LOST, LOST), 1, "rank 0 of 2 lost the connection"),
        ((75, LOST), 1, "rank 1 of 2 lost the connection"),
    ],
)
def test_the_result_of_several_is_that_of_the_one_who_failed_by_itself(monkeypatch, capfd, codes, expected, said):
    assert _result(monkeypatch, *(_Worker(c) for c in codes)) == expected
    err = capfd.readouterr().err
    assert said in err
    assert bool(said) == bool(err)


def test_the_first_to_fail_is_named_not_the_lowest(monkeypatch, capfd):
    _result(monkeypatch, _Worker(-15, looks=50), _Worker(1))
    assert "rank 1 of 2 failed" in capfd.readouterr().err


def test_who_does_not_notice_a_failure_is_told_and_then_killed(monkeypatch):
    deaf = _Worker(0, looks=10**6, obeys={signal.SIGKILL: -9})
    assert _result(monkeypatch, deaf, _Worker(1)) == 1
    assert deaf.got == [signal.SIGTERM, signal.SIGKILL]


def test_who_waits_for_a_lost_one_for_ever_is_killed_too(monkeypatch):
    deaf = _Worker(0, looks=10**6, obeys={signal.SIGTERM: -15})
    assert _result(monkeypatch, deaf, _Worker(LOST)) == 1
    assert deaf.got == [signal.SIGTERM]


def test_a_stop_that_takes_long_is_waited_for(monkeypatch):
    slow = _Worker(75, looks=500)
    assert _result(monkeypatch, slow, _Worker(75)) == 75
    assert slow.got == []


def test_more_processes_than_micro_batches_are_refused(started):
    with pytest.raises(SettingsError, match=r"at most training\.micro_batches = 4, found 5"):
        launch.become_training(["train"], n_processes=5, threads=5, most_processes=4)
    assert started == []


def test_a_started_process_knows_that_it_is_one(started, monkeypatch):
    assert not launch.is_launched()
    launch.become_training(["train"], n_processes=1, threads=1, most_processes=1)
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


def test_ranks_of_other_launchers_are_not_handed_on(started, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    launch.become_training(["train"], n_processes=1, threads=2, most_processes=4)
    assert {"WORLD_SIZE", "RANK"}.isdisjoint(started[0][1])


def test_an_error_that_all_see_is_said_by_the_first_alone(monkeypatch, capfd):
    assert _result(monkeypatch, _Worker(1, looks=3), _Worker(1)) == 1
    assert "rank 0 of 2 failed" in capfd.readouterr().err


def test_what_another_than_the_first_says_is_shown_when_it_is_the_cause(monkeypatch, capfd):
    workers = iter([_Worker(LOST, looks=3), _Worker(1)])

    def start(*_, stderr, **__):
        if stderr is not None:
            stderr.write(b"error: the cause\n")
        return next(workers)

    monkeypatch.setattr(launch.subprocess, "Popen", start)
    assert launch.become_training(["train"], n_processes=2, threads=2, most_processes=4) == 1
    assert capfd.readouterr().err.startswith("error: the cause\nerror: rank 1 of 2 failed")


def test_nobody_is_left_when_the_launcher_is_interrupted(monkeypatch):
    worker = _Worker(0, looks=10**6, obeys={signal.SIGKILL: -9})
    worker.kill = lambda: worker.send_signal(signal.SIGKILL)
    worker.wait = worker.poll
    monkeypatch.setattr(launch.subprocess, "Popen", lambda *_, **__: worker)

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch.become_training(["train"], n_processes=2, threads=2, most_processes=4)
    assert signal.SIGKILL in worker.got


RANK = """
import os, sys, time
from commbert.training import launch
from commbert.training.stopping import listening
with listening() as stop:
    launch.follow_launcher()
    if sys.argv[1] == "joined":
        launch.joined()
    print(os.getpid(), flush=True)
    while not stop.requested:
        time.sleep(0.01)
    time.sleep(0.5)
    print("saved", flush=True)
"""
LAUNCHER = """
import os, subprocess, sys, time
env = {**os.environ, "COMMBERT_LAUNCHED": str(os.getpid())}
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], env=env)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells of a parent's death")
@pytest.mark.parametrize(("state", "said"), [("joined", "saved\n"), ("joining", "")])
def test_a_rank_whose_launcher_is_killed_saves_if_it_has_joined_the_others_and_else_ends_at_once(state, said):
    command = [sys.executable, "-c", LAUNCHER, RANK, state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        rank = psutil.Process(int(launcher.stdout.readline()))
        launcher.kill()
        assert launcher.stdout.read() == said
    rank.wait(60)


def test_a_rank_that_starts_when_its_launcher_is_gone_ends(monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code = "from commbert.training import launch; launch.follow_launcher(); print('goes on')"
    env = {**os.environ, launch.LAUNCHED: str(gone.pid)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (launch.EXIT_PEER_LOST, "")
