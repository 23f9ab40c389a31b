"""Windows: a line with its neighbours, as slices of the file's token stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

TokenIds = np.ndarray[tuple[int], np.dtype[np.int32]]
Offsets = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Window:
    """Lines ``first`` to ``last`` (indices within the file, inclusive) around ``centre``."""

    centre: int
    first: int
    last: int
    start: int
    """First token of the window in the file's stream."""
    stop: int
    """Token after its last."""
    n_dropped_lines: int


def windows_of_file(
    offsets: Offsets, *, lines_before: int, lines_after: int, stride: int, max_tokens: int
) -> Iterator[Window]:
    """Yield the windows of one file.

    A window with more than ``max_tokens`` drops lines from its far ends, the farther one first, then alternating,
    never its centre; a centre line that is too long alone keeps its beginning.

    Args:
        offsets: [n_lines + 1] token offsets of the lines in the stream.
        lines_before: Lines before the centre.
        lines_after: Lines after the centre.
        stride: Lines from one centre to the next.
        max_tokens: Tokens at most, specials not counted.
    """
    n_lines = len(offsets) - 1
    for centre in range(0, n_lines, stride):
        first, last = max(0, centre - lines_before), min(n_lines - 1, centre + lines_after)
        n_dropped = 0
        while offsets[last + 1] - offsets[first] > max_tokens and last > first:
            # The farther end goes first; of two equally far ones the last line.
            if last - centre >= centre - first:
                last -= 1
            else:
                first += 1
            n_dropped += 1
        start = int(offsets[first])
        stop = min(int(offsets[last + 1]), start + max_tokens)
        if stop > start:
            yield Window(centre, first, last, start, stop, n_dropped)


@dataclass(frozen=True)
class WindowColumns:
    """Windows of a split, column by column; ``input_ids[i]`` are the ids of row i without specials."""

    file_id: list[int]
    line_no: list[int]
    first_line: list[int]
    last_line: list[int]
    input_ids: list[np.ndarray]
    n_dropped_lines: list[int]


def cut_windows(
    ids: TokenIds,
    offsets: Offsets,
    file_ids: np.ndarray,
    line_nos: np.ndarray,
    *,
    lines_before: int,
    lines_after: int,
    stride: int,
    max_length: int,
) -> WindowColumns:
    """Cut all files of a split into windows.

    Args:
        ids: Token ids of the split's lines, laid end to end, file by file.
        offsets: [n_lines + 1] offsets of the lines in ``ids``.
        file_ids: [n_lines] file of each line, non-decreasing.
        line_nos: [n_lines] number of each line in its original.
        lines_before: Lines before the centre.
        lines_after: Lines after the centre.
        stride: Lines from one centre to the next.
        max_length: Tokens at most, [CLS] and [SEP] counted.
    """
    out = WindowColumns([], [], [], [], [], [])
    for low, high in file_bounds(file_ids):
        windows = windows_of_file(
            offsets[low : high + 1],
            lines_before=lines_before,
            lines_after=lines_after,
            stride=stride,
            max_tokens=max_length - 2,
        )
        for w in windows:
            out.file_id.append(int(file_ids[low]))
            out.line_no.append(int(line_nos[low + w.centre]))
            out.first_line.append(int(line_nos[low + w.first]))
            out.last_line.append(int(line_nos[low + w.last]))
            out.input_ids.append(ids[w.start : w.stop])
            out.n_dropped_lines.append(w.n_dropped_lines)
    return out


def file_bounds(file_ids: np.ndarray) -> list[tuple[int, int]]:
    """Return (first row, row after the last) of each run of equal file ids."""
    if len(file_ids) == 0:
        return []
    cuts = np.flatnonzero(np.diff(file_ids)) + 1
    edges = [0, *cuts.tolist(), len(file_ids)]
    return list(pairwise(edges))


def share_seen(rows: Sequence[bytes], seen: set[bytes]) -> float:
    """Return the percentage of rows that stand in ``seen``; 0 for no rows."""
    return 100.0 * sum(row in seen for row in rows) / max(len(rows), 1)
