"""The record of a training for other people's viewers: TensorBoard event files, an MLflow server.

Their packages are optional and imported here alone, when a setting asks for them.
"""

import importlib
import json
import logging
import math
import os
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from commbert.artifacts import disk_full_named
from commbert.errors import ArtifactError, SettingsError

_log = logging.getLogger(__name__)
_GROUPS = {"step": "train", "validation": "validation"}
"""Where the numbers of a row stand, by its event."""


_MLFLOW_ENVIRONMENT = {
    # It would tell its makers of its use.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Training waits for its answers: it may not wait for minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


class Tracker(Protocol):
    """Gets the rows of metrics.jsonl."""

    def begin(self, record: Path, *, trained_s: float) -> None:
        """Make ready; ``record`` holds the rows of the steps that are done, which took ``trained_s``."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row."""

    def close(self, *, is_finished: bool) -> None:
        """Write what is left; ``is_finished``: training has come to its end."""


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row under ``train/`` or ``validation/``."""
    return {
        f"{_GROUPS[row['event']]}/{key}": float(value)
        for key, value in row.items()
        if key != "step" and isinstance(value, int | float) and math.isfinite(value)
    }


def _rows(record: Path) -> Iterator[dict[str, Any]]:
    with record.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ArtifactError(
                    f"{record} line {number}: expected a JSON row, found {line[:40]!r}: the record is damaged. "
                    f"Remove {record.parent} to train anew."
                ) from error


def _imported(module: str, *, package: str, setting: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{setting}: expected the package {package}, found none ({error}). "
            f"Install it by: pip install 'commbert[{extra}]', or switch the setting off."
        ) from error


class TensorBoard:
    """One event file in a folder, which holds what metrics.jsonl holds, however often training was resumed.

    On every start the file is written anew from the rows that are kept, so no step stands in it twice and none that a
    kill undid. It begins with a mark (``SessionLog.START``, what SummaryWriter calls ``purge_step``) by which a
    TensorBoard that watches the folder forgets what it read before. The library's SummaryWriter is passed by: it writes
    in a thread, and when the disk is full the thread dies and training waits for it for ever.
    """

    SUFFIX = ".commbert"

    def __init__(self, folder: Path) -> None:
        """Import the library, which must be there before training begins.

        Raises:
            SettingsError: If it is not.
        """

        def part(name: str) -> Any:
            return _imported(
                f"tensorboardX.{name}", package="tensorboardX", setting="runtime.tensorboard", extra="tensorboard"
            )

        self._event, self._crc = part("proto.event_pb2"), part("record_writer").masked_crc32c
        self._folder = folder.absolute()
        self._file: BinaryIO | None = None
        self._began_unix_s = self._elapsed_s = 0.0

    def begin(self, record: Path, *, trained_s: float) -> None:
        """Write the file anew."""
        now = time.time()
        self._began_unix_s = now - trained_s
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob(f"events.out.tfevents.*{self.SUFFIX}"):
            # Emptied and removed at the next start: a TensorBoard that reads a file which vanishes reads no other one.
            if old.stat().st_size:
                os.truncate(old, 0)
            else:
                old.unlink()
        # The name begins as TensorBoard expects it; it reads files in the order of their names.
        path = self._folder / f"events.out.tfevents.{now:017.6f}{self.SUFFIX}"
        with disk_full_named(path):
            self._file = path.open("wb")
        self._write(self._event.Event(wall_time=now, file_version="brain.Event:2"))
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(self._event.Event(wall_time=now, step=1, session_log=start))
        for row in _rows(record):
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the row's numbers as one event; its time is that of the step, without the time between two starts."""
        if row["event"] == "step":
            self._elapsed_s = row["elapsed_s"]
        event = self._event.Event(wall_time=self._began_unix_s + self._elapsed_s, step=row["step"])
        for tag, value in _figures(row).items():
            event.summary.value.add(tag=tag, simple_value=value)
        self._write(event)

    def _write(self, event: Any) -> None:
        """Write a record: its length, its contents, each with a checksum (the TFRecord format)."""
        assert self._file is not None
        data = event.SerializeToString()
        header = struct.pack("<Q", len(data))
        with disk_full_named(Path(self._file.name)):
            self._file.write(header + struct.pack("<I", self._crc(header)))
            self._file.write(data + struct.pack("<I", self._crc(data)))
            self._file.flush()

    def close(self, *, is_finished: bool) -> None:  # noqa: ARG002  the file does not tell it
        """Close the file."""
        if self._file is not None:
            self._file.close()


class Mlflow:
    """One MLflow run for one training, found again by its identity when training is resumed.

    A server keeps what it was sent: steps that it has are not sent again (they would be the same). If it cannot be
    reached, training goes on without it and says so; metrics.jsonl holds everything.
    """

    EXPERIMENT = "commbert"
    IDENTITY = "commbert.identity"
    EVERY_S = 10.0
    _MOST = 1000
    """Metrics of one request, the server's limit."""

    def __init__(self, uri: str, *, run: str, identity: str, parameters: Mapping[str, Any]) -> None:
        """Import the library and make its client; nothing is sent yet.

        Args:
            uri: Of the tracking server, or a ``file:`` or ``sqlite:`` address.
            run: Name that the run is shown by.
            identity: What tells this training from others.
            parameters: Settings, nested; the run's parameters.

        Raises:
            SettingsError: If the package is missing.
        """
        for name, value in _MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._mlflow, self._entities = (
            _imported(module, package="mlflow-skinny", setting="runtime.mlflow_uri", extra="mlflow")
            for module in ("mlflow", "mlflow.entities")
        )
        self._uri, self._run, self._identity, self._parameters = uri, run, identity, parameters
        self._client: Any = None
        self._id = ""
        self._last_step = dict.fromkeys(_GROUPS, 0)
        self._waiting: list[Any] = []
        self._sent_at = time.monotonic()

    def begin(self, record: Path, *, trained_s: float) -> None:  # noqa: ARG002  the server has times of its own
        """Open the run, or the one that was begun, and send it what it lacks."""
        try:
            self._open()
        except Exception as error:
            self._give_up(error)
            return
        for row in _rows(record):
            self.add(row)

    def _open(self) -> None:
        self._client = self._mlflow.MlflowClient(tracking_uri=self._uri)
        experiment = self._client.get_experiment_by_name(self.EXPERIMENT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(self.EXPERIMENT)
        query = f"tags.`{self.IDENTITY}` = '{self._identity}'"
        found = self._client.search_runs([number], filter_string=query, max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            for event, group in _GROUPS.items():
                history = self._client.get_metric_history(self._id, f"{group}/step")
                self._last_step[event] = max((metric.step for metric in history), default=0)
            return
        tags = {self.IDENTITY: self._identity}
        self._id = self._client.create_run(number, tags=tags, run_name=self._run).info.run_id
        named = [self._entities.Param(name, text) for name, text in _flat(self._parameters)]
        for at in range(0, len(named), 100):
            self._client.log_batch(self._id, params=named[at : at + 100])

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep the row's numbers; send them now and then."""
        if self._client is None or row["step"] <= self._last_step[row["event"]]:
            return
        now = int(time.time() * 1000)
        # Its number last: where the server has it, it has the whole row.
        figures = {**_figures(row), f"{_GROUPS[row['event']]}/step": float(row["step"])}
        self._waiting += [self._entities.Metric(k, v, now, row["step"]) for k, v in figures.items()]
        if len(self._waiting) > self._MOST or time.monotonic() - self._sent_at > self.EVERY_S:
            self._send()

    def _send(self) -> None:
        try:
            while self._waiting:
                self._client.log_batch(self._id, metrics=self._waiting[: self._MOST])
                del self._waiting[: self._MOST]
        except Exception as error:
            self._give_up(error)
        self._sent_at = time.monotonic()

    def _give_up(self, error: Exception) -> None:
        """Go on without the server: a training of hours is worth more than its curves there."""
        self._client, self._waiting = None, []
        reason = " ".join(str(error).split())[:200]
        _log.warning("runtime.mlflow_uri: %s: %s; nothing more is sent there", type(error).__name__, reason)

    def close(self, *, is_finished: bool) -> None:
        """Send what is left."""
        if self._client is not None:
            self._send()
        if self._client is not None:
            try:
                self._client.set_terminated(self._id, status="FINISHED" if is_finished else "KILLED")
            except Exception as error:
                self._give_up(error)


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Give each setting by its dotted name, as text."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, json.dumps(value)[:500]
