"""Random numbers as functions of what they are for, not of when they are drawn.

A key and an index give the same number in any process, any order, and after any restart, so that sampling, masking and
dropout need no generator state in a checkpoint.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEME = 1
"""Version of the numbers below; part of every key, so that a change of scheme is a change of identity."""


def key(*parts: int | str) -> int:
    """Return a 64-bit key for the parts, such as (seed, "mask")."""
    text = "\0".join(map(str, (SCHEME, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's output function of each value (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))


def bits(stream: int, index: NDArray[np.integer[Any]]) -> NDArray[np.uint64]:
    """Return 64 random bits for each index of a stream."""
    return mixed(mixed(index.astype(np.uint64)) ^ np.uint64(stream))


def uniform(stream: int, index: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each index of a stream."""
    return (bits(stream, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(n: int, *parts: int | str) -> NDArray[np.int64]:
    """Return a random order of 0 to n - 1 for the parts."""
    return np.random.Generator(np.random.Philox(key=key(*parts))).permutation(n)
