"""The bar on a terminal that is none but for this test, as the job of a workflow has it."""

import logging
import os
import pty
import re
import subprocess
import sys

import pytest

from commbert.training import progress
from commbert.training.progress import TrainingProgress

FIGURES = "loss 1.234, mlm 2.345, 12,345 tokens/s, 3.1 GiB"
WORK = f"""
import sys
import time
from commbert.cli.options import set_up_logging, log_messages
from commbert.training.progress import TrainingProgress
set_up_logging(None)
shown = TrainingProgress(40, 10, is_shown=True)
for step in range(11, 41):
    shown.update(step, {FIGURES!r})
    if step == 20:
        log_messages.warning("something to say")
    time.sleep(0.02)
shown.close()
assert all(handler.stream is sys.stderr for handler in log_messages.handlers)
log_messages.info("done")
"""


def _on_terminal(script, **environment):
    """Run with stderr on a terminal and stdout on none, as Snakemake's jobs may have it; return what is shown."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": "100", "LINES": "30", "TERM": "xterm", **environment}
    for name in ("NO_COLOR", "FORCE_COLOR"):
        if name not in environment:
            env.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=theirs, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=env
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    assert out == b""
    return shown.decode()


def test_a_terminal_shows_a_bar_with_figures_and_remaining_time_though_stdout_is_none():
    shown = _on_terminal(WORK)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert "━" in plain
    assert "40/40" in plain
    assert FIGURES in plain
    assert re.search(r"left 0:00:0\d", plain)


def test_messages_stand_in_lines_of_their_own_above_the_bar():
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", _on_terminal(WORK))
    lines = [line.strip() for line in re.split(r"[\r\n]+", plain)]
    assert "something to say" in lines
    assert lines[-2:] == ["done", ""]


def test_the_narrowest_terminal_shows_the_loss_and_no_bar():
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", _on_terminal(WORK, COLUMNS="20"))
    lines = [line for line in re.split(r"[\r\n]+", plain) if "40/40" in line]
    assert lines
    assert all("loss 1.23" in line and len(line) <= 20 for line in lines)


def test_a_narrow_terminal_has_one_line_with_the_loss():
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", _on_terminal(WORK, COLUMNS="60"))
    lines = [line for line in re.split(r"[\r\n]+", plain) if "40/40" in line]
    assert lines
    assert all("loss 1.234" in line and "left" in line and len(line.rstrip()) <= 60 for line in lines)


def test_no_color_is_heard():
    assert re.search(r"\x1b\[[0-9;]*3\d", _on_terminal(WORK))
    assert not re.search(r"\x1b\[[0-9;]*3\d", _on_terminal(WORK, NO_COLOR="1"))


def test_a_terminal_that_cannot_redraw_gets_lines():
    shown = _on_terminal(WORK, TERM="dumb")
    assert "\x1b" not in shown
    assert f"step 40 of 40: {FIGURES}, about 0 s left" in shown


@pytest.fixture
def said(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("commbert"), "propagate", True)
    caplog.set_level(logging.INFO, logger="commbert")
    return caplog


def test_elsewhere_a_line_is_said_now_and_then_and_in_the_end(monkeypatch, said):
    clock = iter([0.0, *(t for s in range(1, 9) for t in ([5.0 * s] * (2 if s in (4, 8) else 1)))])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown = TrainingProgress(8, 0, is_shown=True)
    for step in range(1, 8 + 1):
        shown.update(step, "loss 1.0")
    shown.close()
    assert said.messages == [
        "step 4 of 8: loss 1.0, about 20 s left",
        "step 8 of 8: loss 1.0, about 0 s left",
    ]


def test_other_processes_say_nothing(said):
    shown = TrainingProgress(1, 0, is_shown=False)
    shown.update(1, "loss 1.0")
    shown.close()
    assert said.messages == []
