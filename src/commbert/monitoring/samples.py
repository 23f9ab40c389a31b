"""The table of samples, written bit by bit, so that a stage of many days holds few of them in memory."""

import contextlib
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commbert.artifacts import remove_leftovers
from commbert.errors import CommbertError

_HELD_ROWS = 4096
_log = logging.getLogger("commbert.monitoring")


class SampleFile:
    """Takes rows, and appears whole when it is closed. What goes wrong with it is kept in ``reason``, not raised.

    Args:
        attempt: Of the stage, counted from 0; the rows of the earlier ones are kept.
    """

    def __init__(self, path: Path, *, interval_s: float, attempt: int = 0) -> None:
        self.reason: str | None = None
        """Why there is no file."""
        self._path, self._interval_s, self._attempt = path, interval_s, attempt
        self._rows: list[dict[str, Any]] = []
        self._open = contextlib.ExitStack()
        self._writer: Any = None

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows: values by column; those that are left out are null."""
        if self.reason is None:
            self._rows += rows
            if len(self._rows) >= _HELD_ROWS:
                self._attempt_to(self._flush)

    def close(self) -> None:
        """Write what waits, and give the file its name."""
        if self.reason is None:
            self._attempt_to(self._flush)
        if self.reason is None:
            self._attempt_to(self._open.close)

    def _flush(self) -> None:
        # Only now: data stages start without waiting for it.
        from commbert.tables import SAMPLES, writing  # noqa: PLC0415

        if self._writer is None:
            remove_leftovers(self._path.parent, [self._path.name])
            about = {"interval_s": str(self._interval_s)}
            earlier = self._earlier()
            self._writer = self._open.enter_context(writing(self._path, SAMPLES, provenance=about))
            if earlier is not None:
                self._writer.add(earlier)
        rows, self._rows = self._rows, []
        self._writer.add(_as_table([{**row, "attempt": self._attempt} for row in rows], SAMPLES.schema))

    def _earlier(self) -> Any:
        from commbert.tables import SAMPLES, read  # noqa: PLC0415

        if not self._attempt or not self._path.is_file():
            return None
        try:
            return read(self._path, SAMPLES)
        except CommbertError as error:
            _log.warning("samples of earlier attempts are lost: %s", error)
            return None

    def _attempt_to(self, work: Any) -> None:
        try:
            work()
        except (CommbertError, OSError, ValueError) as error:
            self.reason = f"samples are not written: {error}"
            self._rows = []
            # Not as an end that went well: the file would get its name.
            with contextlib.suppress(CommbertError, OSError):
                self._open.__exit__(type(error), error, error.__traceback__)


def _as_table(rows: list[dict[str, Any]], schema: Any) -> Any:
    """Return rows as an Arrow table, by way of JSON.

    Arrow's own way for Python values imports pandas where it is installed: a second that stages without tables of
    their own would spend on nothing else. Seconds and counters come out as they went in.
    """
    from pyarrow import json as arrow_json  # noqa: PLC0415

    from commbert.tables import empty  # noqa: PLC0415

    if not rows:
        return empty(schema)
    text = "\n".join(json.dumps(row, allow_nan=False, ensure_ascii=False) for row in rows).encode(errors="replace")
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    return arrow_json.read_json(io.BytesIO(text), arrow_json.ReadOptions(use_threads=False), options)
