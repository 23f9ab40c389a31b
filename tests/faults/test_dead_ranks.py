"""What becomes of a training of several processes when one of them dies or fails, and what its user reads."""

import re
import resource
import signal
import time

import pytest

from faults.trainer import Job, Trainer, all_gone, digests

pytestmark = pytest.mark.slow
ENDS_WITHIN_S = 60.0
KILLED = r"SIGKILL|signal 9|exitcode: -9"
SECONDARY = r"Connection (closed|reset)|Read error|unexpected error|Traceback|ChildFailedError|SignalException"


def _place(pattern: str, text: str) -> int:
    """Return where a pattern first stands in a text; its end if nowhere."""
    found = re.search(pattern, text)
    return found.start() if found else len(text)


@pytest.fixture(scope="module", params=[0, 1], ids=["rank 0", "rank 1"])
def killed(request, stages, tmp_path_factory):
    """Kill one of two; return its rank, the ended job, its exit code and how long the end took."""
    with Trainer(stages, tmp_path_factory.mktemp("killed") / "run").start(2) as job:
        job.until_step(5)
        job.ranks()[request.param].kill()
        began = time.monotonic()
        code = job.ended(ENDS_WITHIN_S)
        all_gone(job)
        ended_s = time.monotonic() - began
        yield request.param, job, code, ended_s


def test_a_killed_rank_ends_the_job_within_a_minute_and_as_a_failure(killed):
    _, _, code, ended_s = killed
    assert code not in (0, 75)
    assert ended_s < ENDS_WITHIN_S


def test_a_killed_rank_leaves_no_process(killed):
    assert killed[1].survivors() == []


def test_the_killed_rank_is_named_with_what_killed_it(killed):
    rank, job, *_ = killed
    lines = [line for line in job.said.splitlines() if re.search(KILLED, line)]
    assert any(re.search(rf"rank\W{{0,3}}{rank}\b", line) for line in lines), job.said


def test_the_killed_rank_is_named_before_the_errors_that_follow_from_it(killed):
    said = killed[1].said
    assert _place(KILLED, said) < _place(SECONDARY, said), said


def test_a_killed_launcher_takes_its_workers_with_it(stages, tmp_path):
    with Trainer(stages, tmp_path / "run", max_steps=100_000, epochs=10_000).start(2) as job:
        job.until_step(5)
        job.process.kill()
        job.ended()
        assert all_gone(job, within_s=10.0), job.survivors()


def _disk_full(stages, folder) -> Job:
    """Let the first rank, which alone writes, find its disk full in the middle of the training."""
    with Trainer(stages, folder).start(2) as job:
        job.until_step(5)
        resource.prlimit(job.ranks()[0].pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
        assert job.ended(ENDS_WITHIN_S) == 1
        assert all_gone(job)
    return job


def _folder_taken(stages, folder) -> Job:
    """Let the first rank, which alone takes the lock, find another training in the folder."""
    trainer = Trainer(stages, folder)
    with trainer.start() as holder:
        holder.until_step(5)
        holder.process.send_signal(signal.SIGSTOP)
        with trainer.start(2) as job:
            assert job.ended(ENDS_WITHIN_S) == 1
            assert all_gone(job)
    return job


CAUSES = {"disk full": (_disk_full, "the disk is full"), "folder taken": (_folder_taken, "another training")}


@pytest.fixture(scope="module", params=[*CAUSES])
def failed(request, stages, tmp_path_factory):
    """Let one rank fail by itself; return what the job said, and the words of the cause."""
    act, words = CAUSES[request.param]
    return act(stages, tmp_path_factory.mktemp("failed") / "run").said, words


def test_a_rank_that_fails_by_itself_says_why(failed):
    said, words = failed
    assert words in said


def test_the_error_of_the_rank_that_failed_stands_before_the_errors_that_follow_from_it(failed):
    said, words = failed
    assert _place(words, said) < _place(SECONDARY, said), said


def test_after_a_killed_rank_all_start_again_and_end_as_if_nothing_had_happened(stages, tmp_path):
    undisturbed = Trainer(stages, tmp_path / "undisturbed")
    undisturbed.run(2)
    with Trainer(stages, tmp_path / "run", restarts=1).start(2) as job:
        job.until_step(5)
        job.ranks()[1].kill()
        assert job.ended() == 0, job.said
        assert all_gone(job)
    assert "rank 1 of 2 was killed by SIGKILL (out of memory?); restart 1 of 1" in job.said
    assert digests(job.folder) == digests(undisturbed.folder)


def test_no_restart_after_an_error_that_would_come_again(stages, tmp_path):
    with Trainer(stages, tmp_path / "run", restarts=3, best_metric="nsp_accuracy").start(2) as job:
        assert job.ended() == 1
    assert "restart" not in job.said
