"""Files that say the same: exact copies, near copies by MinHash, and files that share many lines."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rensa import RMinHash

LONG_LINE_CHARS = 20
"""Shorter lines (``else:``) are shared by everything and say nothing. A Chinese character says about as much as two
letters and counts as two."""
_COMMON_LINE_FILES = 20
"""A line in more files than this is boilerplate (a licence header) and binds nothing together."""
_PERMUTATIONS = 128
_BAND_ROWS = ((0.88, 8), (0.65, 4), (0.0, 2))
"""Rows of a band by least share: 8 find 99.99 % of the pairs at 0.9, and 6 % of those at 0.5 have to be looked at."""
_LEAST_LINES = 5
"""Files with fewer distinct long lines are no near copies: too little to tell."""
_PAIRS_AT_ONCE = 1_000_000
_FILES_AT_ONCE = 1_000

Hashes = NDArray[np.uint64]


def exact_copies(sha256: Sequence[str], usable: Sequence[bool]) -> dict[int, int]:
    """Return for each usable file that is a copy the first usable file with its bytes."""
    first: dict[str, int] = {}
    pairs = ((i, first.setdefault(sha, i)) for i, (sha, ok) in enumerate(zip(sha256, usable, strict=True)) if ok)
    return {i: original for i, original in pairs if original != i}


def near_copies(
    candidates: Sequence[int], line_hashes: Sequence[Hashes], threshold: float
) -> dict[int, tuple[int, float]]:
    """Return for each near copy the earlier file, itself no copy, that it is most like, and how much.

    Files whose MinHash agrees in one band are compared by their lines.

    Args:
        candidates: Numbers of the files that take part, in the order of the corpus.
        line_hashes: Sorted hashes of each file's distinct long lines.
        threshold: Least share of equal lines (Jaccard).

    Reference: Broder 1997, doi:10.1109/SEQUEN.1997.666900.
    """
    files = [i for i in candidates if len(line_hashes[i]) >= _LEAST_LINES]
    n_rows = next(n for least, n in _BAND_ROWS if threshold >= least)
    buckets: dict[tuple[int, bytes], list[int]] = {}
    found: dict[int, tuple[int, float]] = {}
    for i, signature in _signatures(files, line_hashes):
        bands = [(at, signature[at : at + n_rows].tobytes()) for at in range(0, _PERMUTATIONS, n_rows)]
        twins = {j for band in bands for j in buckets.get(band, ())}
        best, twin = max(((jaccard(line_hashes[i], line_hashes[j]), -j) for j in twins), default=(0.0, 0))
        if best >= threshold:
            found[i] = (-twin, best)
        else:
            for band in bands:
                buckets.setdefault(band, []).append(i)
    return found


def _signatures(files: Sequence[int], line_hashes: Sequence[Hashes]) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Yield each file with its MinHash, a thousand computed at once."""
    for at in range(0, len(files), _FILES_AT_ONCE):
        some = files[at : at + _FILES_AT_ONCE]
        offsets = np.concatenate([[0], np.cumsum([len(line_hashes[i]) for i in some])]).astype(np.uint64)
        lines = np.concatenate([line_hashes[i] for i in some])
        rows = RMinHash.digest_matrix_from_flat_token_hashes(lines, offsets, _PERMUTATIONS, 1).to_rows()
        yield from zip(some, np.array(rows, np.uint32), strict=True)


def jaccard(a: Hashes, b: Hashes) -> float:
    """Return the share of equal elements of two sets, given as sorted arrays."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / max(len(a) + len(b) - both, 1)


def linked_files(line_hashes: Sequence[Hashes], max_shared: float) -> list[tuple[int, int]]:
    """Return pairs of files that share more than ``max_shared`` of the smaller one's distinct long lines."""
    n_lines = np.array([len(h) for h in line_hashes], np.int64)
    if not n_lines.sum():
        return []
    lines = np.concatenate(line_hashes)
    order = np.argsort(lines, kind="stable")
    file = np.repeat(np.arange(len(n_lines)), n_lines)[order]
    lines = lines[order]
    starts = np.flatnonzero(np.concatenate([[True], lines[1:] != lines[:-1]]))
    sizes = np.diff(np.concatenate([starts, [len(lines)]]))
    counts = pl.DataFrame(schema={"a": pl.Int64, "b": pl.Int64, "n": pl.UInt32})
    for size in range(2, _COMMON_LINE_FILES + 1):
        i, j = np.triu_indices(size, 1)
        groups = starts[sizes == size]
        step = max(_PAIRS_AT_ONCE // len(i), 1)
        for at in range(0, len(groups), step):
            members = file[groups[at : at + step, None] + np.arange(size)]
            pairs = pl.DataFrame({"a": members[:, i].ravel(), "b": members[:, j].ravel()})
            counts = pl.concat([counts, pairs.group_by("a", "b").len("n")]).group_by("a", "b").sum()
    total = counts.sort("a", "b")
    a, b = total["a"].to_numpy(), total["b"].to_numpy()
    linked = total["n"].to_numpy() > max_shared * np.minimum(n_lines[a], n_lines[b])
    return list(zip(a[linked].tolist(), b[linked].tolist(), strict=True))
