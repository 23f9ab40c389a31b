"""What a user sees while training runs: a bar on a terminal, a line now and then elsewhere.

The bar is on stderr, which Snakemake hands on to a local job as it is, so it is seen through Snakemake too.
"""

import logging
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

_log = logging.getLogger(__name__)
_EVERY_S = 15.0
_NARROW = 50
"""Columns of a terminal; on one with fewer, bar and time would leave no place for the loss."""


class TrainingProgress:
    """A bar with loss, speed, memory and remaining time; silent on all processes but the first."""

    def __init__(self, n_steps: int, first_step: int, *, is_shown: bool) -> None:
        self._n_steps = n_steps
        self._is_shown = is_shown
        self._started = self._said = time.monotonic()
        self._first_step = first_step
        self._bar: Progress | None = None
        self._moved: list[logging.StreamHandler] = []
        if not (is_shown and sys.stderr.isatty()):
            return
        console = Console(stderr=True)
        if console.is_dumb_terminal:
            return  # it cannot go back over what it has shown: lines
        self._stderr = sys.stderr
        # What does not fit into the line is cut off at its end, so what matters most stands first.
        figures = TextColumn("{task.fields[figures]}", markup=False, table_column=Column(ratio=1, no_wrap=True))
        columns: list[ProgressColumn] = [MofNCompleteColumn(), figures]
        if console.width >= _NARROW:
            columns = [BarColumn(bar_width=10), *columns, TextColumn("left"), TimeRemainingColumn()]
        self._bar = Progress(*columns, console=console, expand=True)
        self._task = self._bar.add_task("training", total=n_steps, completed=first_step, figures="")
        self._bar.start()
        self._move_messages()

    def _move_messages(self) -> None:
        """Let messages appear above the bar: their handlers hold the stderr of before the bar, which cuts it in two."""
        for handler in logging.getLogger("commbert").handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is self._stderr:
                handler.setStream(sys.stderr)  # the bar has put its own in its place
                self._moved.append(handler)

    def update(self, step: int, figures: str) -> None:
        """Say that ``step`` steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=figures)
        elif self._is_shown and (time.monotonic() - self._said > _EVERY_S or step == self._n_steps):
            self._said = time.monotonic()
            left_s = (self._said - self._started) / max(1, step - self._first_step) * (self._n_steps - step)
            _log.info("step %d of %d: %s, about %.0f s left", step, self._n_steps, figures, left_s)

    def close(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
        for handler in self._moved:
            handler.setStream(self._stderr)
        self._moved = []
