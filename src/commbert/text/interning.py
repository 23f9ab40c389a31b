"""Strings as numbers: each distinct string once, the same number in every piece of a shard."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Codes = NDArray[np.uint32]


class Interning:
    """Numbers strings by first appearance. Python sees each distinct string of a piece once, never each occurrence."""

    def __init__(self) -> None:
        self._code_of: dict[str, int] = {}

    def codes(self, strings: pa.Array) -> Codes:
        """Return the code of each string [n]; new strings get new codes."""
        encoded = strings.dictionary_encode()
        return np.asarray(self.codes_of(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()])

    def codes_of(self, strings: list[str]) -> Codes:
        """Return the code of each string of a short list [n]."""
        known = self._code_of
        return np.fromiter((known.setdefault(s, len(known)) for s in strings), np.uint32, len(strings))

    @property
    def strings(self) -> list[str]:
        """All strings, by code."""
        return list(self._code_of)
