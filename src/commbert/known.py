"""The set of word pairs that share a training line, as sorted 64-bit keys."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commbert import tables

Keys = NDArray[np.uint64]


def pair_keys(a: NDArray[Any] | int, b: NDArray[Any] | int) -> Keys:
    """Return one number per unordered pair (low id * 2^32 + high id); the arguments are broadcast."""
    low, high = np.minimum(a, b).astype(np.uint64), np.maximum(a, b).astype(np.uint64)
    return np.asarray((low << np.uint64(32)) | high)


def contains(sorted_keys: Keys, keys: Keys) -> NDArray[np.bool_]:
    """Return which of ``keys``, of any shape, stand in ``sorted_keys``."""
    if not len(sorted_keys):
        return np.zeros(keys.shape, np.bool_)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.asarray(sorted_keys[at] == keys)


def write_known(path: Path, keys: Keys, provenance: dict[str, str]) -> None:
    """Write the table pairs/known from sorted keys."""
    low, high = (keys >> np.uint64(32)).astype(np.uint32), (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    tables.write(path, tables.KNOWN_PAIRS, {"word_id_a": low, "word_id_b": high}, provenance=provenance)


def read_known(path: Path) -> Keys:
    """Read the table pairs/known."""
    table = tables.read(path, tables.KNOWN_PAIRS)
    return pair_keys(table["word_id_a"].to_numpy(), table["word_id_b"].to_numpy())
