"""Reading the record of a training while another process writes it: what is new, what was cut off, when it is over."""

import json
import math
import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

_PIECE = 2**20
_LONGEST_LINE = 2**20
_REMEMBERED = 4096
"""Bytes before the place that was read to: by the times in them, a file that was cut off and grew again is known."""
_MOST_STEPS = 2**53
_RECENT = 100
"""Steps from which the remaining time is told."""


@dataclass
class Seen:
    """What the record says so far."""

    steps: list[int] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    elapsed_s: list[float | None] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    """The last step's row."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    n_unreadable: int = 0
    """Lines that are no rows of a record."""

    def add(self, line: bytes) -> None:
        """Take a line of the record."""
        row = _row(line)
        if row is None:
            self.n_unreadable += 1
        elif row["event"] == "validation":
            while self.validations and self.validations[-1]["step"] >= row["step"]:
                self.validations.pop()
            self.validations.append(row)
        else:
            self._forget_from(row["step"])
            self.steps.append(row["step"])
            self.losses.append(number(row, "loss"))
            self.elapsed_s.append(number(row, "elapsed_s"))
            self.last = row

    def _forget_from(self, step: int) -> None:
        """Forget steps that are taken again."""
        while self.steps and self.steps[-1] >= step:
            for column in (self.steps, self.losses, self.elapsed_s):
                column.pop()

    def seconds_per_step(self) -> float | None:
        """Return the time of a step of late, validations and checkpoints with it; None before there are two."""
        known = [(s, t) for s, t in zip(self.steps[-_RECENT:], self.elapsed_s[-_RECENT:], strict=True) if t is not None]
        if len(known) < 2 or known[-1][1] <= known[0][1]:
            return None
        return (known[-1][1] - known[0][1]) / (known[-1][0] - known[0][0])


class Follower:
    """A run that is trained, was trained, or will be."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.seen = Seen()
        self.summary: dict[str, Any] | None = None
        """``training.json``; None: training has not come to its end."""
        self.n_steps: int | None = None
        """Steps that are planned."""
        self._path: Path | None = None
        self._offset = 0
        self._before = b""
        """What stands before the offset."""
        self._written_unix_s: float | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there is a record."""
        return self._path is not None

    @property
    def silent_s(self) -> float | None:
        """Seconds since the record was written to."""
        return None if self._written_unix_s is None else max(0.0, time.time() - self._written_unix_s)

    def look(self) -> bool:
        """Read what is new; return whether anything is."""
        path = self._find()
        before = (self._path, self._offset, self._before, self.seen.n_unreadable, self.summary is None)
        self._path = path
        if path is None:
            self._forget()
        else:
            try:
                with path.open("rb") as file:
                    self._read(file)
            except FileNotFoundError:
                self._path = None  # moved between the two looks; the next one finds where to
        return before != (self._path, self._offset, self._before, self.seen.n_unreadable, self.summary is None)

    def _find(self) -> Path | None:
        """Return where the record is: with the checkpoints while training runs, in the run's folder after its end.

        There may be checkpoints of several settings; the record that was written to last is that of this training. A
        ``training.json`` older than it is that of the training before.
        """
        ended = _changed(self.run / "training.json")
        times = [(t, p) for p in self.run.glob("checkpoint/*/metrics.jsonl") if (t := _changed(p)) is not None]
        live = max(times, default=None)
        if ended is not None and (live is None or live[0] <= ended):
            self.summary = _object(self.run / "training.json")
            self.n_steps = _count(self.summary.get("planned_steps"))
            copied = self.run / "metrics.jsonl"
            return copied if _changed(copied) is not None else live[1] if live else None
        self.summary = None
        if live is None:
            return None
        self.n_steps = _count(_object(live[1].parent / "identity.json").get("steps"))
        return live[1]

    def _read(self, file: BinaryIO) -> None:
        """Go on reading where the last look ended, or from the start if it is not the same file any more."""
        self._written_unix_s = os.fstat(file.fileno()).st_mtime
        if not self._goes_on(file):
            self._forget()
        file.seek(self._offset)
        rest = b""
        while piece := file.read(_PIECE):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self.seen.add(line)
            self._advance(b"".join(line + b"\n" for line in lines))
            if len(rest) > _LONGEST_LINE:
                self.seen.n_unreadable += 1
                self._advance(rest)
                rest = b""

    def _goes_on(self, file: BinaryIO) -> bool:
        """Return whether the file holds what was read: not one that was cut off, or another in its place."""
        file.seek(self._offset - len(self._before))
        return file.read(len(self._before)) == self._before

    def _advance(self, data: bytes) -> None:
        self._offset += len(data)
        self._before = (self._before + data)[-_REMEMBERED:]

    def _forget(self) -> None:
        self.seen, self._offset, self._before = Seen(), 0, b""


def number(row: dict[str, Any], key: str) -> float | None:
    """Return a finite number of a row; None for anything else."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.get("event") not in ("step", "validation"):
        return None
    return row if _count(row.get("step")) is not None else None


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value < _MOST_STEPS else None


def _changed(path: Path) -> float | None:
    """Return when a file was last written; None where there is none (a pipe would block whoever opens it)."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime if stat.S_ISREG(about.st_mode) else None


def _object(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where there is none: what is told of it is then not known."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
