"""Figures over several seeds of training: what varies between items and what varies between seeds, in one interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from commbert.evaluation.bootstrap import estimate
from commbert.evaluation.scores import Draws


@dataclass(frozen=True)
class OverSeeds:
    """A figure, or a difference, over seeds of training."""

    value: float
    """Mean over the seeds."""
    low: float
    high: float
    """95 % interval."""
    seed_sd: float | None
    """Standard deviation between seeds (n - 1); None of one seed."""
    n_seeds: int
    n: int
    """Items of the figure."""


def over_seeds(ours: Sequence[Draws], theirs: Sequence[Draws] | None = None, *, seed: int) -> OverSeeds | None:
    """Return the mean of a figure over seeds, or that of its difference to another model's.

    A two-level bootstrap: a resample draws seeds with replacement, and items anew, the same items for all seeds and
    both models (Davison & Hinkley 1997, Bootstrap Methods and their Application, section 3.8).

    Args:
        ours: One per seed.
        theirs: One per seed in the same order, or one for all; None: no difference is taken.
        seed: Of the draws of seeds.

    Returns:
        None if there is nothing, or the two do not rest on the same number of items.
    """
    if not ours or (theirs is not None and not theirs):
        return None
    values = np.array([d.value for d in ours])
    resamples = np.stack([d.resamples for d in ours])
    if theirs is not None:
        if len(theirs) not in (1, len(ours)) or {d.n for d in ours} != {d.n for d in theirs}:
            return None
        values = values - np.array([d.value for d in theirs])
        resamples = resamples - np.stack([d.resamples for d in theirs])
    n_seeds, n_resamples = resamples.shape
    chosen = np.random.default_rng([seed, 8]).integers(0, n_seeds, (n_seeds, n_resamples))
    means = np.take_along_axis(resamples, chosen, axis=0).mean(0)
    found = estimate(float(values.mean()), means, ours[0].n)
    spread = float(values.std(ddof=1)) if n_seeds > 1 else None
    return OverSeeds(found.value, found.low, found.high, spread, n_seeds, found.n)
