"""Which tokens of a window are hidden, and by what; a function of (seed, epoch, window), drawn anew in every epoch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commbert import counters


@dataclass(frozen=True)
class MaskedTokens:
    """Windows laid end to end after masking."""

    input_ids: NDArray[np.int64]
    """[n_tokens] what the model sees."""
    positions: NDArray[np.int64]
    """[n_masked] positions that are predicted."""
    labels: NDArray[np.int64]
    """[n_masked] the tokens that stood there."""


def mask_tokens(
    ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    identity: NDArray[np.uint64],
    *,
    stream: int,
    rate: float,
    mask_share: float,
    random_share: float,
    mask_id: int,
    regular_ids: NDArray[np.int64],
) -> MaskedTokens:
    """Hide tokens; at least one per window.

    Args:
        ids: [n_tokens] tokens of the windows, end to end, without specials.
        lengths: [n_windows] tokens of each window, none 0.
        identity: [n_windows] a number that names the window and the epoch.
        stream: Key of the random numbers.
        rate: Probability of a token to be predicted.
        mask_share: Of these, the share replaced by ``mask_id``.
        random_share: Of these, the share replaced by a random one of ``regular_ids``.
        mask_id: The [MASK] token.
        regular_ids: Tokens that may replace another one.

    Reference: Devlin et al. 2019, arXiv:1810.04805, section 3.1.
    """
    starts = np.cumsum(lengths) - lengths
    window = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(ids)) - starts[window]
    index = counters.mixed(identity)[window] + place.astype(np.uint64)
    draw = counters.uniform(counters.key(stream, "choose"), index)
    chosen = draw < rate
    chosen[_smallest(draw, starts)] = True
    positions = np.flatnonzero(chosen)
    how = counters.uniform(counters.key(stream, "replace"), index[positions])
    which = counters.bits(counters.key(stream, "token"), index[positions]) % np.uint64(len(regular_ids))
    seen = ids.copy()
    seen[positions[how < mask_share]] = mask_id
    by_random = (how >= mask_share) & (how < mask_share + random_share)
    seen[positions[by_random]] = regular_ids[which[by_random].astype(np.int64)]
    return MaskedTokens(seen, positions, ids[positions])


def _smallest(draw: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of the smallest draw of each window."""
    if len(starts) == 0:
        return np.empty(0, np.int64)
    least = np.minimum.reduceat(draw, starts)
    lengths = np.diff(np.append(starts, len(draw)))
    # Two equal draws in one window are possible in principle; then both are predicted.
    return np.flatnonzero(draw == np.repeat(least, lengths))
