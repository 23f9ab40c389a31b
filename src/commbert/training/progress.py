"""What a user sees while training runs: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

_log = logging.getLogger(__name__)
_EVERY_S = 15.0


class TrainingProgress:
    """A bar with loss, speed and remaining time; silent on all processes but the first."""

    def __init__(self, n_steps: int, first_step: int, *, is_shown: bool) -> None:
        self._n_steps = n_steps
        self._is_shown = is_shown
        self._started = self._said = time.monotonic()
        self._first_step = first_step
        self._bar: Progress | None = None
        if is_shown and sys.stderr.isatty():
            self._bar = Progress(
                BarColumn(bar_width=10),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("training", total=n_steps, completed=first_step, figures="")
            self._bar.start()

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
