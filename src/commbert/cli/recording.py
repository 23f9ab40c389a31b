"""The record of a stage: what it took, its samples beside it, and the attempts before the one that got to the end."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commbert.artifacts import read_json, write_json
from commbert.errors import ArtifactError, CommbertError
from commbert.monitoring import Monitor, Usage, measured, monitored
from commbert.provenance import digest
from commbert.training.restarting import ATTEMPT

_log = logging.getLogger("commbert")


@dataclass
class Record:
    """Of a stage that runs; ``is_done`` is set by who runs it."""

    is_done: bool = False
    wall_s: float = 0.0


def beside(usage: Path, kind: str) -> Path:
    """Return the path of what belongs to a usage record: x.usage.json has its samples in x.samples.parquet."""
    return usage.with_name(f"{usage.name.removesuffix('.json').removesuffix('.usage')}.{kind}")


@contextmanager
def recorded(
    stage: str, usage: Path | None, *, interval_s: float, root_pid: int | None = None, resumes: bool = False
) -> Iterator[Record]:
    """Measure and sample a stage; write its samples however it ends, and its usage record when it is done.

    Args:
        usage: The record; None: nothing is sampled or written.
        interval_s: Between two samples.
        root_pid: Process of the tree that is measured with all below it; None: this one.
        resumes: The stage goes on where its last attempt stopped: that is kept beside the record, and goes into it. Of
            one that was killed there is only when it began.
    """
    record, began_unix_s = Record(), time.time()
    if usage is None:
        with measured() as taken:
            yield record
        record.wall_s = taken.wall_s
        return
    attempts = beside(usage, "attempts.json")
    earlier = (_attempts(attempts) or _done_before_restart(usage)) if resumes else []
    samples = beside(usage, "samples.parquet")
    begun = {"stage": stage, "began_unix_s": round(began_unix_s, 1), "folder_digest": digest(str(Path.cwd()))}
    if resumes:
        _keep(attempts, [*earlier, begun])  # stays, as the trace of an attempt that is killed
    entry: dict[str, Any] = begun
    seen: Monitor | None = None
    used: Usage | None = None
    with ended_by_sigterm():
        try:
            with (
                monitored(samples, interval_s=interval_s, root_pid=root_pid, attempt=len(earlier)) as seen,
                measured() as used,
            ):
                yield record
        finally:
            if used is not None and seen is not None:  # else it was told to end before it had begun
                record.wall_s = used.wall_s
                entry = {**begun, **used.as_dict(), **seen.as_dict()}
            if resumes and not record.is_done:
                _keep(attempts, [*earlier, entry])
        if record.is_done:
            write_json(usage, {**entry, "earlier_attempts": earlier} if resumes else entry)
            attempts.unlink(missing_ok=True)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as an error does, so that what was sampled is written; who listens to it himself may.

    A process that was forked off meanwhile ends at once, as it would have.
    """
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    owner = os.getpid()

    def end(number: int, _frame: object) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _attempts(path: Path) -> list[Any]:
    found = _earlier(path)
    return found if isinstance(found, list) else []


def _done_before_restart(usage: Path) -> list[Any]:
    """Return what this training took so far, where it was done here, but another process of it died at its end."""
    found = _earlier(usage) if os.environ.get(ATTEMPT, "0") != "0" else None
    return [*found.pop("earlier_attempts", []), found] if found else []


def _earlier(path: Path) -> Any:
    """Return what stands in a record of before; None where there is none, or it is damaged."""
    if not path.is_file():
        return None
    try:
        return read_json(path)
    except ArtifactError as error:
        _log.warning("earlier attempts are not in the record: %s", error)
        return None


def _keep(path: Path, attempts: list[Any]) -> None:
    """Write the attempts; the error that ended the stage matters more than one of this."""
    try:
        write_json(path, attempts)
    except (CommbertError, OSError) as error:
        _log.warning("%s: the attempt is not recorded: %s", path, error)
