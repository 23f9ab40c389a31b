import signal

import pytest

from commbert.errors import EXIT_PEER_LOST, EXIT_STOPPED, EXIT_UNEXPECTED
from commbert.training.restarting import Verdict, failure, until_done
from commbert.training.stopping import Stop


def _run(*verdicts, restarts, stop=None):
    each, attempts = iter(verdicts), []

    def start(attempt):
        attempts.append(attempt)
        return next(each)

    return until_done(start, restarts=restarts, stop=stop or Stop()), attempts


DEATH = failure("rank 1 of 2", -signal.SIGKILL)


def test_after_a_death_all_are_started_again_and_told_how_often():
    assert _run(DEATH, DEATH, Verdict(0), restarts=3) == (0, [0, 1, 2])


def test_a_stop_after_a_restart_is_a_stop():
    assert _run(DEATH, Verdict(EXIT_STOPPED), restarts=3) == (EXIT_STOPPED, [0, 1])


def test_more_deaths_than_restarts_end_with_the_last_reason(capfd):
    assert _run(DEATH, failure("rank 0 of 2", -signal.SIGABRT), restarts=1) == (1, [0, 1])
    said = capfd.readouterr().err.splitlines()
    assert said == [
        "warning: rank 1 of 2 was killed by SIGKILL (out of memory?); restart 1 of 1 from the last checkpoint.",
        "error: rank 0 of 2 was killed by SIGABRT after 1 restart(s).",
    ]


def test_an_error_of_the_users_is_not_tried_again():
    assert _run(failure("rank 0 of 2", 1), restarts=3) == (1, [0])


def test_nobody_is_started_again_after_a_wish_to_stop():
    stop = Stop()
    stop.requested = True
    assert _run(DEATH, restarts=3, stop=stop) == (1, [0])


@pytest.mark.parametrize(
    ("code", "is_death"),
    [(-9, True), (EXIT_PEER_LOST, True), (EXIT_UNEXPECTED, True), (1, False)],
)
def test_what_counts_as_a_death(code, is_death):
    assert failure("rank 0", code).is_death is is_death


def test_what_the_failed_one_said_stands_before_the_verdict(capfd):
    _run(failure("rank 3 on n2", 1, "error: no such file\n"), restarts=0)
    assert capfd.readouterr().err == (
        "error: no such file\nerror: rank 3 on n2 failed with exit code 1; its message stands above.\n"
    )


def test_what_the_failed_one_said_cannot_steer_the_terminal(capfd):
    _run(failure("rank 3 on n2", 1, "error:\t\x1b]0;mine\x07\x9b31m \u202etxt\n"), restarts=0)
    assert capfd.readouterr().err.splitlines()[0] == r"error:	\x1b]0;mine\x07\x9b31m \x202etxt"


def test_a_signal_without_a_name_is_named_by_its_number():
    assert failure("rank 0", -40).reason == "rank 0 was killed by signal 40"
