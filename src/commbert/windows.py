"""Windows: a line with its neighbours, or a part of a whole file, as slices of the file's token stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from commbert import counters, tables

Ints = NDArray[np.int64]
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Windows:
    """Windows of some whole files; lines are row numbers among the lines that they were cut from."""

    centre: Ints
    first: Ints
    last: Ints
    start: Ints
    """First token of the window in the stream of all lines."""
    n_tokens: Ints
    n_dropped_lines: Ints

    def chosen(self, which: NDArray[Any]) -> "Windows":
        """Return some of the windows, by a mask or by row numbers."""
        return Windows(*(column[which] for column in vars(self).values()))


def cut_windows(
    offsets: Ints,
    file_no: NDArray[np.integer[Any]],
    stride: NDArray[np.integer[Any]],
    *,
    lines_before: int,
    lines_after: int,
    max_length: int,
) -> Windows:
    """Cut whole files into windows.

    A window with more tokens than ``max_length - 2`` drops lines from its far ends, the farther one first and of two
    equally far ones the last line, never its centre; a centre line that is too long alone keeps its beginning. A window
    without tokens is none.

    Args:
        offsets: [n_lines + 1] token offsets of the lines in their stream.
        file_no: [n_lines] file of each line, non-decreasing.
        stride: [n_lines] lines from one centre to the next in the line's file.
        lines_before: Lines before the centre.
        lines_after: Lines after the centre.
        max_length: Tokens at most, [CLS] and [SEP] counted.
    """
    first_row, last_row = file_rows(file_no)
    row = np.arange(len(file_no))
    centre = np.flatnonzero((row - first_row) % stride == 0)
    first = np.maximum(first_row[centre], centre - lines_before)
    last = np.minimum(last_row[centre], centre + lines_after)
    n_dropped = np.zeros(len(centre), np.int64)
    long = np.flatnonzero((offsets[last + 1] - offsets[first] > max_length - 2) & (last > first))
    while len(long):
        from_end = last[long] - centre[long] >= centre[long] - first[long]
        last[long] -= from_end
        first[long] += ~from_end
        n_dropped[long] += 1
        begin, end = first[long], last[long]
        long = long[(offsets[end + 1] - offsets[begin] > max_length - 2) & (end > begin)]
    start = offsets[first]
    n_tokens = np.minimum(offsets[last + 1] - start, max_length - 2)
    return Windows(centre, first, last, start, n_tokens, n_dropped).chosen(n_tokens > 0)


def cut_files(offsets: Ints, file_no: NDArray[np.integer[Any]], *, max_length: int) -> Windows:
    """Cut whole files into windows that hold each token once.

    A file of more than ``max_length - 2`` tokens is cut into as few windows as that takes, of as many tokens each (or
    one less). A window belongs to the line of its first token.

    Args:
        offsets: [n_lines + 1] token offsets of the lines in their stream.
        file_no: [n_lines] file of each line, non-decreasing.
        max_length: Tokens at most, [CLS] and [SEP] counted.
    """
    first_row, last_row = (np.unique(rows) for rows in file_rows(file_no))
    begin, n_tokens = offsets[first_row], offsets[last_row + 1] - offsets[first_row]
    n_parts = -(-n_tokens // (max_length - 2))
    part = np.arange(n_parts.sum()) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    begin, n_tokens, n_parts = (np.repeat(of_file, n_parts) for of_file in (begin, n_tokens, n_parts))
    start, stop = (begin + n_tokens * edge // n_parts for edge in (part, part + 1))
    first, last = (np.searchsorted(offsets, token, side="right") - 1 for token in (start, stop - 1))
    return Windows(first, first, last, start, stop - start, np.zeros(len(start), np.int64))


def file_rows(file_no: NDArray[np.integer[Any]]) -> tuple[Ints, Ints]:
    """Return for each row the first and the last row of its file."""
    if not len(file_no):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], file_no[1:] != file_no[:-1]]))
    n = np.diff(np.concatenate([starts, [len(file_no)]]))
    return np.repeat(starts, n), np.repeat(starts + n - 1, n)


def priorities(seed: int, file_id: Ints, index: Ints) -> NDArray[np.uint64]:
    """Return a random number for each centre line: its file, and its place among the file's lines."""
    stream = counters.key(seed, "windows")
    return counters.bits(stream, file_id.astype(np.uint64) << np.uint64(32) | index.astype(np.uint64))


def highest_priority(seed: int, file_id: Ints, n_lines: Ints, stride: int, limit: int) -> np.uint64:
    """Return the priority up to which a window is kept, so that of all windows of these files ``limit`` are."""
    n_centres = -(-n_lines // stride)
    ends = np.cumsum(n_centres)
    if not len(ends) or ends[-1] <= limit:
        return np.uint64(2**64 - 1)
    index = (np.arange(ends[-1]) - np.repeat(ends - n_centres, n_centres)) * stride
    return np.uint64(np.partition(priorities(seed, np.repeat(file_id, n_centres), index), limit - 1)[limit - 1])


def window_columns(
    windows: Windows, ids: NDArray[np.int32], offsets: Ints, file_id: Ints, line_no: NDArray[Any]
) -> Iterator[dict[str, Any]]:
    """Yield the columns of the table windows, some rows at once.

    Args:
        windows: What ``cut_windows`` returned.
        ids: Token ids of the lines, laid end to end.
        offsets: [n_lines + 1] offsets of the lines in ``ids``.
        file_id: [n_lines] file of each line in the corpus.
        line_no: [n_lines] number of each line in its original.
    """
    values = pa.array(ids)
    first_row, _ = file_rows(file_id)
    for at in range(0, len(windows.centre), _ROWS_AT_ONCE):
        part = windows.chosen(slice(at, at + _ROWS_AT_ONCE))  # type: ignore[arg-type]
        views = pa.ListViewArray.from_arrays(
            pa.array(part.start.astype(np.int32)), pa.array(part.n_tokens.astype(np.int32)), values
        )
        ends = np.concatenate([[0], np.cumsum(part.n_tokens)])
        yield {
            "file_id": file_id[part.centre].astype(np.uint32),
            "line_no": line_no[part.centre],
            "first_line": line_no[part.first],
            "last_line": line_no[part.last],
            "first_token": (part.start - offsets[first_row[part.first]]).astype(np.uint32),
            "input_ids": tables.list_array(tables.WINDOWS, "input_ids", views.flatten(), ends),
            "n_tokens": part.n_tokens.astype(np.uint16),
            "n_dropped_lines": part.n_dropped_lines.astype(np.uint8),
        }
