"""The least a masked language model must beat: the frequency of tokens in the training windows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Unigram:
    """Token probabilities from counts, one added to each."""

    log_probability: NDArray[np.float64]
    rank: NDArray[np.int64]
    """How many tokens are more frequent."""


def unigram(counts: NDArray[np.int64]) -> Unigram:
    """Turn the counts of the tokens [vocabulary] in the training windows into probabilities."""
    vocab_size, counts = len(counts), counts.astype(np.float64)
    rank = np.empty(vocab_size, np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(vocab_size)
    return Unigram(np.log((counts + 1) / (counts.sum() + vocab_size)), rank)
