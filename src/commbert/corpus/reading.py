"""Reading the corpus tables back, with the split of every line."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from commbert import tables


@dataclass(frozen=True)
class CorpusLines:
    """Lines of kept files, file by file, with the index of each line's split in ``tables.SPLITS``."""

    file_id: NDArray[np.uint32]
    line_no: NDArray[np.uint32]
    split: NDArray[np.int8]
    text: list[str]

    def of(self, split: str) -> NDArray[np.int64]:
        """Return the rows of one split."""
        return np.flatnonzero(self.split == tables.SPLITS.index(split))


def split_of_files(files: Path) -> NDArray[np.int8]:
    """Return for each file_id the index of its split in ``tables.SPLITS``, -1 for a dropped file."""
    names = tables.read(files, tables.FILES, ["split"])["split"].to_pylist()
    return np.array([tables.SPLITS.index(n) if n else -1 for n in names], np.int8)


def read_lines(files: Path, lines: Path, *, column: str) -> CorpusLines:
    """Read the lines with their ``text`` or their ``code``."""
    table = tables.read(lines, tables.LINES, ["file_id", "line_no", column])
    file_id = table["file_id"].to_numpy()
    return CorpusLines(file_id, table["line_no"].to_numpy(), split_of_files(files)[file_id], table[column].to_pylist())
